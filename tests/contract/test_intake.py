"""The loop's sleep: what ends it, and that the beats of hosts wait for each other meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcom import intake
from agentcom import messages as m
from agentcom.core.effects import Event, Incoming
from tests.contract.test_failed_commit import FailingHub
from tests.fake_client import FakeClient

LONG_MS = 20_000  # a sleep that something has to end


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FailingHub]:
    made = FailingHub(tmp_path)
    made.broker.tick()
    yield made
    made.close()


class Sleep:
    """The loop's sleep, in a thread of its own."""

    def __init__(self, hub: FailingHub) -> None:
        self.hub = hub
        self.ended: list[bool] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.ended.append(self.hub.broker._intake.sleep(LONG_MS))

    def has_read(self, beats: int) -> bool:
        for _ in range(2000):
            if len(self.hub.broker._intake._beats) >= beats:
                return not self.ended
            self.hub.ann.socket.poll(2)
        return False

    def end(self) -> bool:
        self._thread.join(2 * LONG_MS / 1000)
        return self.ended[0]


def beat(hub: FailingHub) -> None:
    hub.box.beats += 1
    hub.box.send(m.Heartbeat(session=hub.box.token, beat=hub.box.beats))


def is_quiet(hub: FailingHub) -> bool:
    """Whether the time ends a sleep, sooner or later: a connection that goes away ends one as well."""
    return any(not hub.broker._intake.sleep(1) for _ in range(500))


def kinds(events: list[Event]) -> list[type]:
    return [type(event.message) if isinstance(event, Incoming) else type(event) for event in events]


def test_beats_that_come_alone_wait_for_each_other_and_are_answered_by_one_tick(
    hub: FailingHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BEATS_S_MAX", 1.0)
    monkeypatch.setattr(intake, "BEATS_S_PER_HOST", 1.0)
    asleep = Sleep(hub)
    beat(hub)
    assert asleep.has_read(1)
    beat(hub)
    assert asleep.has_read(2)
    assert asleep.end() is True, "the first beat has waited for long enough"
    assert hub.box.socket.poll(0) == 0, "nothing was said before the tick"
    hub.broker.tick()
    assert [hub.box.expect(m.Beat).beat for _ in range(2)] == [1, 2]


def test_whatever_is_no_beat_ends_the_sleep_and_comes_after_the_beats_before_it(
    hub: FailingHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BEATS_S_MAX", LONG_MS / 1000)
    monkeypatch.setattr(intake, "BEATS_S_PER_HOST", LONG_MS / 1000)
    asleep = Sleep(hub)
    beat(hub)
    assert asleep.has_read(1)
    hub.ann.send(hub.ann.request(m.TaskGet(task=1)))
    assert asleep.end() is True
    events, is_empty = hub.broker._drain()
    assert (kinds(events), is_empty) == ([m.Heartbeat, m.Request], True)
    assert hub.broker._drain() == ([], True), "each is handled once"


def test_a_message_is_not_slept_over_whose_coming_was_seen_before(hub: FailingHub) -> None:
    """Sends and questions about the socket's events take away the mark that something has come."""
    hub.ann.send(hub.ann.request(m.TaskGet(task=1)))
    while not hub.broker._has_input():
        hub.ann.socket.poll(2)
    assert hub.broker._intake.sleep(LONG_MS) is True
    assert kinds(hub.broker._drain()[0]) == [m.Request]


def test_what_is_refused_ends_the_sleep_so_that_its_answer_goes(hub: FailingHub) -> None:
    hub.ann.socket.send(b"no message")
    assert hub.broker._intake.sleep(LONG_MS) is True
    hub.broker.tick()
    assert hub.ann.expect(m.Error).code == "invalid"


def test_a_thread_of_the_hub_ends_the_sleep_and_the_time_does(hub: FailingHub) -> None:
    assert is_quiet(hub)
    hub.broker._wake()
    assert hub.broker._intake.sleep(LONG_MS) is True
    assert is_quiet(hub)


def test_beats_wait_for_as_many_as_there_are_hosts_whoever_else_has_called(hub: FailingHub) -> None:
    for _ in range(5):
        hub._person(hub.ann.pair)
    assert hub.broker._intake.beats_s == intake.BEATS_S_PER_HOST

    again = FakeClient(hub.broker.address, hub.box.pair)
    hub.callers.append(again)
    again.send(m.Hello(protocol=1, process=hub.box.process, host=hub.box.offer))
    again.token = hub.until(again, m.Welcome).session
    assert hub.broker._intake.beats_s == intake.BEATS_S_PER_HOST, "it is the same host, under another address"

    hub.box.send(m.Bye(session=hub.box.token))
    hub.until_so(lambda: hub.box.token not in hub.sessions())
    assert hub.broker._intake.beats_s == intake.BEATS_S_PER_HOST, "it has come by the other way since"
    again.send(m.Bye(session=again.token))
    hub.until_so(lambda: again.token not in hub.sessions())
    assert hub.broker._intake.beats_s == 0


def test_a_host_that_is_dropped_counts_no_longer(hub: FailingHub) -> None:
    peers = hub.broker._peers
    assert peers.hosts == 1
    peers._drop(peers._host_of[hub.box.pair.public])
    assert (peers.hosts, len(peers.take_gone())) == (0, 1)


def test_beats_wait_no_longer_than_the_bound(hub: FailingHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BEATS_S_PER_HOST", 1.0)
    assert hub.broker._intake.beats_s == intake.BEATS_S_MAX
