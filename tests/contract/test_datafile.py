"""The quick proof that a data file is sound: it agrees with zlib, knows what we write, and believes no damaged file."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from agentcom.store import check
from agentcom.store.base import Batch
from agentcom.store.check import Condition, full_check_here
from agentcom.store.lmdb_store import LmdbStore
from agentcom.store.record import key_u64
from tests.contract.places import raw
from tests.faults.damage import KINDS, Sample

_datafile = pytest.importorskip("agentcom._datafile")

MAP_BYTES = 16 * 2**20
DAMAGES = 700
FIXTURE = Path(__file__).parents[1] / "fixtures" / "store-0.1.0.mdb"


def is_proven(store: Path) -> bool:
    return check.is_proven(store / "data.mdb")


def test_its_checksum_is_that_of_zlib() -> None:
    rng = random.Random(1)
    for size in (*range(40), 1000, 4096):
        content, before = rng.randbytes(size), rng.getrandbits(32)
        assert _datafile.checksum(content, before) == zlib.crc32(content, before)


def test_a_store_that_has_grown_and_shrunk_with_large_values_is_proven_after_every_batch(tmp_path: Path) -> None:
    rng = random.Random(2)
    with_lmdb = LmdbStore(tmp_path, map_bytes=MAP_BYTES)
    assert is_proven(tmp_path)
    for sequence in range(1, 61):
        batch = Batch()
        for _ in range(rng.randrange(1, 80)):
            key, database = key_u64(rng.randrange(200)), rng.choice(("tasks", "bodies", "reports"))
            if rng.random() < 0.4:
                batch.delete(database, key)
            else:
                batch.put(database, key, rng.randbytes(rng.choice((0, 9, 300, 2000, 5000, 40_000))))
        with_lmdb.commit(batch, sequence)
        assert is_proven(tmp_path), sequence
    with_lmdb.close()


def test_a_store_of_an_earlier_build_is_proven() -> None:
    assert check.is_proven(FIXTURE)


def test_what_it_believes_of_a_damaged_file_the_slow_check_finds_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, rng = Sample(tmp_path, 5), random.Random(5)
    store = sample.home / "store"
    assert is_proven(store)
    monkeypatch.setattr(check, "cross_check", lambda _walk: (0, []))  # of pages and records alone
    believed = 0
    for n in range(DAMAGES):
        damaged = bytearray(sample.content)
        KINDS[n % len(KINDS)](damaged, rng)
        (store / "data.mdb").write_bytes(damaged)
        if is_proven(store):
            believed += 1
            with monkeypatch.context() as patch:
                patch.setattr(check, "_datafile", None)
                report = full_check_here(store)
            assert report.condition is Condition.good, (n, report.problems)
    assert 0 < believed < DAMAGES, "an older meta page and pages that nothing refers to are no damage that it can see"


def test_one_changed_bit_anywhere_in_a_page_that_is_in_use_is_not_believed(tmp_path: Path) -> None:
    LmdbStore(tmp_path, map_bytes=MAP_BYTES).close()
    batch = Batch()
    for number in range(1, 13):
        batch.put("bodies", key_u64(number), b"%d" % number * 20)
    store = LmdbStore(tmp_path, map_bytes=MAP_BYTES)
    store.commit(batch, 1)
    store.close()
    file = tmp_path / "data.mdb"
    content = bytearray(file.read_bytes())
    for number in range(1, 13):  # records lie in their pages as they are, so their place can be found
        at = content.rindex(b"%d" % number * 20)
        for bit in range(8):
            content[at] ^= 1 << bit
            file.write_bytes(content)
            assert not is_proven(tmp_path), (number, bit)
            content[at] ^= 1 << bit
    file.write_bytes(content)
    assert is_proven(tmp_path)


@pytest.mark.parametrize("flags", [{"dupsort": True}, {"integerkey": True}, {"reverse_key": True}])
def test_a_database_that_is_none_of_ours_is_left_to_the_slow_check(tmp_path: Path, flags: dict[str, bool]) -> None:
    LmdbStore(tmp_path, map_bytes=MAP_BYTES).close()
    with raw(tmp_path) as environment, environment.begin(write=True) as transaction:
        environment.open_db(b"another", txn=transaction, **flags)
    assert not is_proven(tmp_path)
    report = full_check_here(tmp_path)
    assert report.condition is Condition.good, report.problems


def test_a_file_that_is_short_empty_or_no_data_file_is_not_believed(tmp_path: Path) -> None:
    LmdbStore(tmp_path, map_bytes=MAP_BYTES).close()
    content = (tmp_path / "data.mdb").read_bytes()
    for size in (0, 1, 64, 159, 4096, 4200, len(content) - 4096):
        (tmp_path / "data.mdb").write_bytes(content[:size])
        assert not is_proven(tmp_path), size
    (tmp_path / "data.mdb").write_bytes(bytes(len(content)))
    assert not is_proven(tmp_path)
