"""The real hub, killed with a store that is not small, and started: it loads while a child checks what it loads.

The child is stopped where it must not be done yet. Until it goes on, nothing is answered and no file changes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from agentcom import auth
from agentcom import messages as m
from agentcom.config import Home
from agentcom.model import TaskSpec
from agentcom.store import start
from agentcom.store.check import Condition, full_check, proven_sequence
from agentcom.store.segments import survey
from tests.contract.homes import Place
from tests.contract.test_start_ahead import lose_a_body
from tests.faults.load import Wire, address_of
from tests.world import Daemon, World, eventually, world

pytest.importorskip("agentcom._datafile", reason="without the quick proof no start goes ahead")

BATCHES, BATCH = 80, 500
TEXT = "Wait. " * 60
LATER = 3  # batches that only the journal has
TRIES = 5
BACKUP_AFTER = 50
SILENT_S = 1.0


def submit(wire: Wire, first: int, count: int) -> None:
    specs = tuple(TaskSpec(description=f"Task {n}. {TEXT}", command="true") for n in range(first, first + count))
    answer = wire.ask(m.Submit(tasks=specs), answer_s=60)
    assert isinstance(answer, m.Reply), answer


def wire_to(made: World, address: auth.HubAddress | None = None) -> Wire:
    home = made.home("hub")
    return Wire(address or address_of(home), auth.load_key(Home(home).keys / "admin.key"))


class Killed:
    """A home with that many `tasks`, some of which only the journal has, and a backup of most."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "hub"
        self.tasks = 0
        with world(folder) as made:
            hub = made.hub()
            wire = wire_to(made)
            for n in range(BATCHES):
                submit(wire, n * BATCH, BATCH)
                if n == BACKUP_AFTER:
                    made.client().backup_now()
            self.tasks = BATCHES * BATCH
            hub.kill()
            for _ in range(TRIES):
                wire.close()
                hub = made.hub()
                wire = wire_to(made)
                for _ in range(LATER):
                    submit(wire, self.tasks, 1)
                    self.tasks += 1
                hub.kill()
                if self.batches_beyond():
                    break
            wire.close()
        assert self.batches_beyond() > 0
        assert (self.home / "store" / "data.mdb").stat().st_size > start.CHECKED_ALWAYS_BYTES

    def batches_beyond(self) -> int:
        sequence = proven_sequence(self.home / "store")
        assert sequence is not None
        return survey(self.home / "store" / "journal").last - sequence


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return Killed(tmp_path_factory.mktemp("deep"))


@pytest.fixture
def made(killed: Killed, tmp_path: Path) -> Iterator[World]:
    """A world whose hub has been killed."""
    shutil.copytree(killed.home, tmp_path / "hub")
    with world(tmp_path) as found:
        yield found


def waiting_in(made: World) -> int:
    return sum(made.client().queue_stats()["by_state"].values())


def files_of(made: World) -> dict[str, bytes]:
    store = made.home("hub") / "store"
    return {one.name: one.read_bytes() for one in (store / "data.mdb", *(store / "journal").iterdir())}


class Starting:
    """A hub whose check is stopped; `ready` when it has been let go."""

    def __init__(self, made: World, pool: ThreadPoolExecutor) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        before = len(made.daemons)
        self.ready: Future[Daemon] = pool.submit(made.hub, AGENTCOM_HUB_PORT=str(self.port))
        eventually("it has been started", lambda: len(made.daemons) > before)
        self.hub = made.daemons[before]
        self.check = eventually("its check has begun", self._stopped_check)

    def _stopped_check(self) -> psutil.Process | None:
        for one in psutil.Process(self.hub.pid).children():
            if "agentcom.store.check" in one.cmdline():
                one.suspend()
                return one
        return None

    def is_listening(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def starting(made: World) -> Iterator[Starting]:
    with ThreadPoolExecutor(1) as pool:
        found = Starting(made, pool)
        try:
            yield found
        finally:
            if found.check.is_running():
                found.check.resume()


def test_a_killed_hub_has_all_again_also_what_only_the_journal_had(made: World, killed: Killed) -> None:
    hub = made.hub()
    told = hub.ready["store"]
    assert (told["how"], told["applied"], told["uncertain"]) == ("full", killed.batches_beyond(), 0)
    assert waiting_in(made) == killed.tasks
    assert hub.stop() == 0
    assert full_check(made.home("hub") / "store").condition is Condition.good
    assert made.hub().ready["store"]["how"] == "quick"


def test_nothing_is_answered_or_written_before_a_slow_check_is_done(made: World, killed: Killed) -> None:
    before = files_of(made)
    with starting(made) as slow:
        eventually("it has gone ahead: its port is open", slow.is_listening)
        address = msgspec.structs.replace(address_of(made.home("hub")), hub=f"tcp://127.0.0.1:{slow.port}")
        wire = wire_to(made, address)
        begun = time.monotonic()
        eventually("it has loaded and waits", lambda: not is_busy(slow.hub.pid))
        answer = wire.ask(m.QueueStats(), answer_s=SILENT_S)
        assert isinstance(answer, m.Error)
        assert answer.code == "no_hub"
        assert files_of(made) == before
        assert not slow.ready.done()
        stopped_ms = (time.monotonic() - begun) * 1000
        slow.check.resume()
        hub = slow.ready.result(30)
    assert hub.ready["store"]["duration_ms"] >= stopped_ms
    assert '"store_opened"' in hub.text()
    assert isinstance(wire.ask(m.QueueStats(), answer_s=10), m.Reply)
    wire.close()
    assert waiting_in(made) == killed.tasks


def is_busy(pid: int) -> bool:
    return psutil.Process(pid).cpu_percent(0.2) > 20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_hub_that_ends_before_its_check_leaves_no_child_and_all_as_it_was(
    made: World, killed: Killed, number: signal.Signals
) -> None:
    before = files_of(made)
    with starting(made) as slow:
        eventually("it has gone ahead: its port is open", slow.is_listening)
        os.kill(slow.hub.pid, number)
        slow.hub.process.wait(10)
        slow.check.resume()
        eventually("its child has ended", lambda: not slow.check.is_running())
        assert isinstance(slow.ready.exception(30), AssertionError)
    assert files_of(made) == before
    hub = made.hub()
    assert (hub.ready["store"]["how"], hub.ready["store"]["uncertain"], waiting_in(made)) == ("full", 0, killed.tasks)


def test_records_that_disagree_are_restored_by_the_same_process_which_starts_anew(
    made: World, killed: Killed
) -> None:
    place = Place(made.home("hub"))
    lose_a_body(place)
    assert full_check(place.paths.store).condition is Condition.inconsistent
    hub = made.hub()
    assert (hub.ready["store"]["how"], hub.ready["store"]["uncertain"], hub.ready["pid"]) == ("restored", 0, hub.pid)
    assert "starting anew, the check first" in hub.text()
    assert waiting_in(made) == killed.tasks
    assert len(list(place.paths.store.glob("data.mdb.set-aside-*"))) == 1
    assert hub.stop() == 0
    assert full_check(place.paths.store).condition is Condition.good


def test_i4_a_large_store_that_was_damaged_after_it_was_closed_is_restored_once_its_start_meets_that(
    made: World,
) -> None:
    hub = made.hub()
    there = made.client().queue_stats()["tasks_total"]
    assert hub.stop() == 0
    file = made.home("hub") / "store" / "data.mdb"
    content = file.read_bytes()
    assert content.count(b"admin")
    file.write_bytes(content.replace(b"admin", b"bdmin"))
    hub = made.hub()
    assert (hub.ready["store"]["how"], hub.ready["store"]["uncertain"]) == ("restored", 0)
    assert "starting anew, the check first" in hub.text()
    assert made.client().queue_stats()["tasks_total"] == there
