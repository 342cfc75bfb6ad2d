"""What workers tell a benchmark arrives whole, however many they are and however much it is."""

from __future__ import annotations

import threading
from array import array
from pathlib import Path

from bench.words import WRITE_BYTES, Inbox, Told

EACH = 5 * WRITE_BYTES // 24 + 7


def test_words_of_several_workers_arrive_whole(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "done")
    assert (inbox.poll(0), list(inbox.take())) == (False, [])

    def tell(worker: int) -> None:
        told = Told(str(inbox.path))
        first = worker * EACH
        told.tell(array("q", [n for task in range(first, first + EACH) for n in (task, task + 1, task + 2)]))
        told.close()

    workers = [threading.Thread(target=tell, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    found: list[tuple[int, int, int]] = []
    while len(found) < 4 * EACH:
        assert inbox.poll(5000), f"{len(found)} of {4 * EACH} words have come"
        found += inbox.take()
    for worker in workers:
        worker.join()
    inbox.close()
    assert sorted(found) == [(task, task + 1, task + 2) for task in range(4 * EACH)]
