"""The store: an ordered key-value interface with atomic batches, on LMDB and in memory.

`base` is the contract, `record` the envelope of every value, `lmdb_store` the truth on disk, `memory_store`
the same for tests and the simulator. What each of them promises is held by tests/contract/test_store.py,
which runs on all. `journal` (its files: `segments`) writes every batch down, `journaled` commits to both,
`check` and `crosscheck` say whether a file is sound, `backup` and `restore` copy it and bring it back, `scrub`
reads it while it is in use, `migrations` carries it to a new version, and `start` does what a start needs,
`ahead` of its check where that is safe.
"""

from agentcom.store.base import Batch, Database, Store, pages

__all__ = ["Batch", "Database", "Store", "pages"]
