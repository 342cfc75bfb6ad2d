"""Rules of the queue that users of this field have suffered from, each by its number in FIELD.md."""

from __future__ import annotations

from agentcom import messages as m
from tests.core_rig import HostEnd, Rig
from tests.factories import endpoint_model, endpoint_probe, shell_task, sighting, task


def gpu(rig: Rig, name: str, *, warm: bool, cap: int) -> HostEnd:
    """A host with an endpoint of its own, and agents enough."""
    box = rig.host(name, agents=4)
    box.see(sighting(probe=endpoint_probe(endpoint_model(warm=warm))))
    rig.admin.ask(m.EndpointUpdate(endpoint=f"ollama-{name}", cap=cap))
    return box


def test_r6_queued_work_is_bound_to_no_host_and_a_dead_host_holds_none() -> None:
    rig = Rig()
    box = rig.host("box")
    running, *waiting = [rig.admin.submit(shell_task()) for _ in range(3)]
    assert box.take().task == running
    box.leave()
    other = rig.host("other")
    assign = other.take()
    assert assign.task == waiting[0]
    other.complete(assign)
    assert other.take().task == waiting[1]


def test_r11_work_spreads_by_what_is_in_flight_and_does_not_pile_up_on_the_warm_host() -> None:
    rig = Rig()
    warm, cold = gpu(rig, "warm", warm=True, cap=4), gpu(rig, "cold", warm=False, cap=4)
    for _ in range(6):
        rig.admin.submit(task())
    given = [[one for one in box.received if isinstance(one, m.Assign)] for box in (warm, cold)]
    assert [len(one) for one in given] == [4, 2], "four slots, and the rest to the cold one"
    for assign in given[0][:3]:
        warm.complete(warm.accept(assign))
    rig.admin.submit(task())
    assert warm.expect(m.Assign) is not None
    assert rig.hub.registry.calls_on(1) + rig.hub.registry.calls_on(2) == 4


def test_r11_of_two_warm_hosts_the_one_with_less_in_flight_gets_the_next() -> None:
    rig = Rig()
    one, two = gpu(rig, "one", warm=True, cap=4), gpu(rig, "two", warm=True, cap=4)
    for _ in range(6):
        rig.admin.submit(task())
    assert [sum(isinstance(got, m.Assign) for got in box.received) for box in (one, two)] == [3, 3]


def test_r13_a_task_has_one_open_attempt_and_its_key_gives_the_first_task() -> None:
    rig = Rig()
    box, other = rig.host("box"), rig.host("other")
    first = rig.admin.submit(shell_task(idempotency_key="k"))
    assert rig.admin.submit(shell_task(idempotency_key="k")) == first
    assign = box.take()
    for _ in range(3):
        rig.advance(1_000)
        box.beat(assign)
        other.beat()
        assert not any(isinstance(one, m.Assign) for one in other.received)
    assert box.complete(assign) == "accepted"
    assert rig.admin.submit(shell_task(idempotency_key="k")) == first
    assert rig.admin.task(first)["attempt"] == 1


def test_r23_no_task_waits_behind_a_long_one_while_an_agent_is_free() -> None:
    """Nothing is given to an agent in advance: each gets one task, when it is free."""
    rig = Rig()
    box = rig.host(agents=2)
    long, short, *behind = [rig.admin.submit(shell_task()) for _ in range(5)]
    first, second = box.take(), box.take()
    assert (first.task, second.task) == (long, short)
    assert not any(isinstance(one, m.Assign) for one in box.received)
    for number in behind:
        box.complete(second)
        second = box.take()
        assert second.task == number
        assert second.agent == "box-2"
