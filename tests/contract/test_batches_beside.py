"""A batch is made durable beside the loop: the next tick is decided meanwhile, and nobody hears of either too soon.

The broker, its sockets, store and journal are real; the flush ends when a test says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcom import messages as m
from agentcom.broker import FEW_EVENTS
from agentcom.core.effects import Event
from agentcom.errors import StoreError
from agentcom.store import journal
from agentcom.store.journaled import JournaledStore
from agentcom.store.memory_store import Failure
from tests import factories
from tests.contract.test_failed_commit import FailingHub
from tests.factories import shell_task


class HeldFlusher:
    """Stands for the thread that flushes. Its flush ends by `finish`, or when somebody waits for it."""

    def __init__(self) -> None:
        self.files: list[int] = []
        self.waited = 0
        self.done = False
        self.error = 0

    def begin(self, file: int, note_file: int = -1, note: bytes = b"") -> None:
        self.files.append(file)
        self.done = False

    def is_done(self) -> bool:
        return self.done

    def wait(self) -> None:
        self.waited += not self.done
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def close(self) -> None:
        self.files.clear()


class Beside:
    """A hub that does not wait for the disk, since more messages always seem to wait."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.hub = FailingHub(folder)
        self.broker = self.hub.broker
        self.flusher = HeldFlusher()
        patch.setattr(journal, "Flusher", lambda: self.flusher)
        late = JournaledStore(self.hub.store, self.hub.journal, behind_bytes=2**20)
        for part in (self.broker, self.broker._outgoing, self.broker._queries, self.broker._retirement):
            patch.setattr(part, "_store", late)
        self.hub.journal.sync()
        self.broker._beside = late
        patch.setattr(self.broker, "_has_input", lambda: True)

    def tick(self, joining: int = 0, first: int = 1) -> None:
        """One tick over the next message, or so many, which may leave its batch on the way. So many more messages are
        there once the batch before is durable."""
        self.hub.ann.socket.poll(0)
        found: list[Event] = []
        for _ in range(500):
            found += self.broker._drain()[0]
            if len(found) >= first + joining:
                break
            self.hub.ann.socket.poll(2)
        assert len(found) == first + joining
        drains = iter([found[:first], found[first:]])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.broker, "_drain", lambda: (next(drains), True))
            patch.setattr(self.broker._feed, "is_due", lambda _mono_ms: False)
            self.broker._tick()

    def send(self) -> m.Request:
        """A submit, which waits for a tick."""
        request = self.hub.ann.request(m.Submit(tasks=(shell_task(needs=("nobody",)),)))
        self.hub.ann.send(request)
        return request

    def submit(self) -> m.Request:
        request = self.send()
        self.tick()
        return request

    def heard(self) -> list[int | None]:
        """The requests that were answered since the last look."""
        found: list[int | None] = []
        while self.hub.ann.socket.poll(50):
            answer = m.decode_from_hub(self.hub.ann.socket.recv())
            assert isinstance(answer, m.Reply | m.Error)
            found.append(answer.id)
        return found


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    made = Beside(tmp_path, monkeypatch)
    yield made
    made.flusher.error = 0
    made.hub.close()


def test_nobody_hears_of_a_batch_before_it_is_durable_and_the_next_waits_for_it(beside: Beside) -> None:
    first = beside.submit()
    assert (beside.heard(), beside.flusher.waited, len(beside.flusher.files)) == ([], 0, 1)
    second = beside.submit()  # decided meanwhile; before its batch is written the first has to be durable
    assert (beside.heard(), beside.flusher.waited, len(beside.flusher.files)) == ([first.id], 1, 2)
    beside.broker._let_go()
    assert beside.heard() == [second.id]
    beside.broker.hub.validate()


def test_what_has_come_while_the_disk_was_at_work_joins_the_tick(beside: Beside) -> None:
    first = beside.submit()
    second, third = beside.send(), beside.send()
    beside.tick(joining=1)
    assert (beside.heard(), len(beside.flusher.files)) == ([first.id], 2)
    beside.broker._let_go()
    assert (beside.heard(), len(beside.flusher.files)) == ([second.id, third.id], 2)
    beside.broker.hub.validate()


def test_what_has_come_meanwhile_joins_a_tick_that_has_few_messages(beside: Beside) -> None:
    sent = [beside.send().id for _ in range(FEW_EVENTS)]
    beside.tick(first=FEW_EVENTS - 1, joining=1)
    beside.broker._let_go()
    assert (beside.heard(), len(beside.flusher.files)) == (sent, 1)


def test_a_tick_with_many_messages_takes_no_more(beside: Beside) -> None:
    sent = [beside.send().id for _ in range(FEW_EVENTS + 1)]
    beside.tick(first=FEW_EVENTS, joining=1)
    beside.broker._let_go()
    assert beside.heard() == sent[:FEW_EVENTS]


def test_where_nothing_waits_no_thread_is_woken_for_the_flush(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside.broker, "_has_input", lambda: False)
    request = beside.submit()
    assert (beside.heard(), beside.flusher.files) == ([request.id], [])


def test_what_a_batch_has_to_say_leaves_while_the_next_tick_is_decided(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = beside.submit()
    beside.flusher.done = True
    seen: list[list[int | None]] = []
    handle = beside.broker._handle_one

    def handle_one(event: object, now: object) -> object:
        seen.append(beside.heard())
        return handle(event, now)  # type: ignore[arg-type]

    monkeypatch.setattr(beside.broker, "_handle_one", handle_one)
    beside.submit()
    assert (seen[0], beside.flusher.waited) == ([first.id], 0)


def test_a_flush_beside_the_loop_that_fails_ends_the_hub_and_nothing_is_said(beside: Beside) -> None:
    beside.submit()
    beside.flusher.error = errno.EIO
    with pytest.raises(StoreError, match="cannot sync"):
        beside.submit()
    with pytest.raises(StoreError):
        beside.broker._let_go()
    assert beside.heard() == []
    assert not beside.broker._store.writable


def test_a_batch_that_finds_no_room_takes_nothing_from_the_one_before(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = beside.submit()
    write = os.pwrite
    refusals = [errno.ENOSPC, errno.ENOSPC]

    def pwrite(file: int, content: bytes, offset: int) -> int:
        if refusals and file == beside.hub.journal._file:
            code = refusals.pop()
            raise OSError(code, os.strerror(code))
        return write(file, content, offset)

    monkeypatch.setattr(journal.os, "pwrite", pwrite)
    beside.hub.journal.fills = False
    second = beside.submit()
    beside.broker._let_go()
    assert beside.heard() == [first.id, second.id]
    assert len(beside.broker.hub.tasks.table) == 1, "the second was refused for want of room"
    beside.broker.hub.validate()


def test_what_reads_the_core_is_answered_from_what_is_durable(beside: Beside) -> None:
    first = beside.submit()
    stats = beside.hub.ann.request(m.QueueStats())
    beside.hub.ann.send(stats)
    beside.tick()
    assert (beside.heard(), beside.flusher.waited) == ([first.id, stats.id], 1)


def test_what_is_on_its_way_is_durable_before_the_store_below_takes_it(beside: Beside) -> None:
    beside.submit()
    late = beside.broker._beside
    assert late is not None
    assert beside.hub.store.sequence < late.sequence
    assert late.settle()
    assert (beside.hub.store.sequence, beside.flusher.waited) == (late.sequence, 1)


def test_a_store_that_fails_below_leaves_what_is_on_its_way_to_the_journal(beside: Beside) -> None:
    first = beside.submit()
    late = beside.broker._beside
    assert late is not None
    beside.hub.store.fail_next(Failure.COMMIT)
    assert not late.settle()
    beside.broker._let_go()
    assert (beside.heard(), late.writable) == ([first.id], True)


def test_an_assignment_is_made_ready_with_the_body_that_waits(beside: Beside) -> None:
    beside.hub.ann.send(beside.hub.ann.request(m.Submit(tasks=(shell_task(),))))
    beside.tick()
    assert not beside.hub.box.socket.poll(50)
    beside.broker._let_go()
    assign = beside.hub.until(beside.hub.box, m.Assign)
    beside.hub.box.send(beside.hub.box.ended(assign, result=factories.result(output="done")))
    assert beside.hub.until(beside.hub.box, m.ResultAck).verdict == "accepted"
