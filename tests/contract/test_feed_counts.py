"""The counts of the queue on the feed: told when they change, and not each second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from agentcom import messages as m
from agentcom.errors import StoreFull
from tests.contract.test_failed_commit import FailingHub
from tests.feed_reader import Subscriber


class ReadHub(FailingHub):
    """With one reader of its feed, who has heard of all that has happened so far."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reader = Subscriber(self.broker.address, self.broker.keys.web)
        self.until_so(lambda: self.broker.hub.out.is_read)
        self.counts_told(3)

    def counts_told(self, seconds: int) -> list[dict[str, Any]]:
        """What is told of them in so many seconds."""
        told = []
        for _ in range(seconds):
            self.wait_s(1)
            while (event := self.reader.next("queue"))["event"] != "beat":
                if event["event"] == "queue_changed":
                    told.append(event["counts"])
        return told

    def close(self) -> None:
        self.reader.close()
        super().close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ReadHub]:
    made = ReadHub(tmp_path)
    yield made
    made.close()


def no_room(*_: object) -> NoReturn:
    raise StoreFull("the disk is full")


def test_counts_that_have_not_changed_are_not_told_again(hub: ReadHub) -> None:
    assert hub.counts_told(2) == []
    hub.ask(m.QueuePause())
    (told,) = hub.counts_told(2)
    assert told["paused"]
    assert hub.counts_told(2) == []


def test_hosts_that_are_silent_are_told_in_the_counts_once(hub: ReadHub) -> None:
    told = hub.counts_told(30)
    assert [each["agents"]["offline"] for each in told] == [2]


def test_while_the_disk_is_full_that_is_told_once_and_not_each_second(
    hub: ReadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.store, "commit", no_room)
    hub.ann.send(hub.ann.request(m.QueuePause()))
    hub.until_so(lambda: hub.broker.hub.degraded)
    (told,) = hub.counts_told(8)  # it looks again after ten
    assert told["degraded"]
    assert "the disk is full" in told["troubles"][0]


def test_counts_that_follow_from_an_event_that_is_kept_are_told(hub: ReadHub) -> None:
    hub.ask(m.ConfigChange(set={"queue.lease_s": 50}))
    (told,) = hub.counts_told(5)
    assert told["settings"]["stored"] == ["queue.lease_s"]


def test_agents_that_have_gone_are_told_in_the_counts(hub: ReadHub) -> None:
    hub.box.send(m.Bye(session=hub.box.token))
    hub.until_so(lambda: hub.agent().state == "offline")
    assert hub.counts_told(5)[-1]["agents"]["offline"] == 2
