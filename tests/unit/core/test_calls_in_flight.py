"""Calls in flight: counted from assignment to the end of the attempt, however it ends, and again after a restart."""

from __future__ import annotations

import pytest

from agentcom import messages as m
from agentcom.model import FailureClass
from tests.core_rig import ACCEPT_MS, LEASE_MS, HostEnd, Rig
from tests.factories import MODEL, endpoint_probe, error, sighting, task


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def ollama(rig: Rig) -> HostEnd:
    box = rig.host("gpu", agents=2)
    box.see()
    return box


def in_flight(rig: Rig) -> dict[tuple[int, str], int]:
    return rig.hub.registry.in_flight


def test_a_call_is_in_flight_from_assignment_to_result(rig: Rig, ollama: HostEnd) -> None:
    rig.admin.submit(task(), task())
    assert in_flight(rig) == {(1, MODEL): 1}
    assign = ollama.take()
    assert rig.sent(m.Assign) == []
    ollama.complete(assign)
    assert in_flight(rig) == {(1, MODEL): 1}
    ollama.complete(ollama.take())
    assert in_flight(rig) == {}


@pytest.mark.parametrize("end", ["fail", "lost", "unaccepted", "host", "endpoint"])
def test_no_end_of_an_attempt_leaves_its_call_in_flight(rig: Rig, ollama: HostEnd, end: str) -> None:
    number = rig.admin.submit(task(max_retries=0))
    assert in_flight(rig) == {(1, MODEL): 1}
    if end == "fail":
        ollama.fail(ollama.take())
    elif end == "lost":
        ollama.take()
        rig.advance(LEASE_MS)
    elif end == "unaccepted":
        rig.admin.ask(m.AgentCordon(agent="gpu-1"))
        rig.admin.ask(m.AgentCordon(agent="gpu-2"))
        rig.advance(ACCEPT_MS)
    elif end == "host":
        rig.admin.ask(m.HostRemove(host="gpu", now=True))
    else:
        rig.admin.ask(m.EndpointRemove(endpoint="1"))
        assert rig.admin.state(number) == "assigned"
        ollama.complete(ollama.take())
        ollama.see()
    assert in_flight(rig) == {}


def test_the_call_of_a_cancelled_task_is_in_flight_until_it_is_killed(rig: Rig, ollama: HostEnd) -> None:
    """The server still works on it: another call at once would be one too many."""
    number = rig.admin.submit(task())
    assign = ollama.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.admin.ask(m.TaskRetry(task=number))
    assert (in_flight(rig), rig.admin.state(number)) == ({(1, MODEL): 1}, "ready")
    ollama.report(ollama.ended(assign, "cancelled"))
    assert (in_flight(rig), rig.admin.state(number)) == ({(1, MODEL): 1}, "assigned")


def test_calls_are_counted_again_after_a_restart_although_the_endpoint_was_renamed(
    rig: Rig, ollama: HostEnd
) -> None:
    rig.admin.submit(task())
    ollama.take()
    rig.admin.ask(m.EndpointUpdate(endpoint="1", name="renamed"))
    rig.start()
    assert in_flight(rig) == {(1, MODEL): 1}


def test_a_call_that_failed_makes_the_endpoint_worth_less_for_a_while(rig: Rig) -> None:
    one, other = rig.host("one"), rig.host("other")
    one.see()
    other.see(sighting(probe=endpoint_probe()))
    rig.admin.submit(task())
    one.fail(one.take(), error(FailureClass.infrastructure, "connection_refused"))
    rig.advance(2_000)
    assert other.assigned().attempt == 2
