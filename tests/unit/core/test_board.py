"""The scheduler's rows follow fleet and registry: what has changed is set anew, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom._pysched import COST_US_MAX, STEP_US_MAX
from agentcom.core.estimates import RUN_US_MAX
from agentcom.core.score import WAIT_US_MAX
from agentcom.model import FailureClass
from tests.core_rig import HostEnd, Rig
from tests.factories import (
    agent_offer,
    endpoint_model,
    endpoint_probe,
    error,
    host_offer,
    shell_task,
    sighting,
    task,
)


class Spy:
    """The rows, and the changes that they were told: (call, first arguments)."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.told: list[tuple[str, tuple[int, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._rows, name)
        if not name.startswith(("set_", "drop_")):
            return call

        def told(*arguments: Any) -> Any:
            self.told.append((name, arguments[:2]))
            return call(*arguments)

        return told

    def numbers(self, name: str) -> set[int]:
        return {arguments[0] for call, arguments in self.told if call == name}


def fleet(rig: Rig, hosts: int) -> list[HostEnd]:
    """Hosts of two agents with an endpoint each, whose pools are known."""
    rig.validates = False  # which looks at all rows, too
    boxes = [rig.host(f"box{n}", agents=2) for n in range(hosts)]
    for box in boxes:
        box.see(sighting(probe=endpoint_probe(endpoint_model(warm=True))))
    rig.admin.submit(task(), shell_task())
    for assign in rig.sent(m.Assign):
        box = next(box for box in boxes if box.offer.name == assign.route.host)
        box.accept(assign)
        box.complete(assign)
    rig.admin.submit(shell_task())
    rig.sent(m.Assign)
    return boxes


def spied(rig: Rig) -> Spy:
    rig.hub.board.refresh(rig.clock.now())
    spy = Spy(rig.hub.board._rows)
    rig.hub.board._rows = spy  # type: ignore[assignment]
    return spy


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_refresh_in_which_nothing_has_changed_sets_no_row(rig: Rig) -> None:
    boxes = fleet(rig, 3)
    spy = spied(rig)
    rig.hub.board.refresh(rig.clock.now())
    boxes[0].beat()
    rig.hub.board.refresh(rig.clock.now())
    assert spy.told == []


@pytest.mark.parametrize("hosts", [3, 12])
def test_a_start_sets_the_rows_of_its_host_and_its_endpoint_however_many_there_are(rig: Rig, hosts: int) -> None:
    fleet(rig, hosts)
    spy = spied(rig)
    rig.admin.submit(task())
    [assign] = rig.sent(m.Assign)
    rig.hub.board.refresh(rig.clock.now())
    assert spy.numbers("set_host") == {rig.hub.fleet.host_by_name[assign.route.host].record.id}
    assert spy.numbers("set_agent") == {rig.hub.fleet.agent_by_name[assign.route.agent].record.id}
    assert len(spy.numbers("set_endpoint")) == 1
    assert len(spy.told) < 10


def test_the_cost_that_is_stored_is_the_one_by_which_the_scheduler_chose(rig: Rig) -> None:
    boxes = fleet(rig, 4)
    boxes[2].beat()
    rig.validates = True
    wanted = next(each for each in rig.hub.board.pools if each[0].tier == "standard")
    rig.hub.board.refresh(rig.clock.now())
    best = rig.hub.board.tops(wanted, 1)[0]
    rig.admin.submit(task())
    [assign] = rig.sent(m.Assign)
    assert assign.route.score is not None
    agent = rig.hub.fleet.agent_by_name[assign.route.agent].record.id
    assert (assign.route.score.cost_us, agent) == best[:2]
    assert sum(assign.route.score.parts.values()) == best[0]


def test_the_pool_used_longest_ago_goes_when_there_are_too_many(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SCHEDULED_POOLS_MAX", 2)
    box = rig.host("box", agents=1, capabilities=("a", "b", "c"))
    for need in ("a", "b", "a", "c", "b"):
        rig.admin.submit(shell_task(needs=(need,)))
        box.complete(box.take())
    assert {group.needs for group, _ in rig.hub.board.pools} == {("c",), ("b",)}


def test_agents_of_one_host_may_lack_different_things_that_a_task_prefers(rig: Rig) -> None:
    key = rig.invited("host", "box")  # type: ignore[arg-type]
    agents = tuple(agent_offer(name, capabilities=(name,)) for name in ("red", "blue", "green"))
    HostEnd(rig, key, rig.peer(), offer=host_offer("box", agents)).hello()
    rig.admin.submit(*[shell_task(prefers=("blue",))] * 2)
    assert [one.route.agent for one in rig.sent(m.Assign)] == ["blue", "red"]


def test_an_endpoint_that_is_removed_and_comes_back_is_used_again(rig: Rig) -> None:
    [box] = fleet(rig, 1)
    rig.validates = True
    rig.admin.ask(m.EndpointRemove(endpoint="1"))
    rig.admin.submit(task())
    assert rig.sent(m.Assign) == []
    box.see(sighting(probe=endpoint_probe(endpoint_model(warm=True))))
    assert [one.route.host for one in rig.sent(m.Assign)] == ["box0"]


def test_a_failure_counts_until_its_minute_is_over_though_nothing_else_has_changed(rig: Rig) -> None:
    first, second = rig.host("first"), rig.host("second")
    rig.admin.submit(shell_task())
    first.fail(first.take(), error(FailureClass.infrastructure, "cut"))
    rig.advance(2_000)
    second.complete(second.take())
    rig.hub.board.refresh(rig.clock.now())
    wanted = next(iter(rig.hub.board.pools))
    assert [agent for _, agent, _ in rig.hub.board.tops(wanted, 2)] == [2, 1]
    for _ in range(7):
        rig.advance(9_000)
        first.beat()
        second.beat()
    rig.hub.board.refresh(rig.clock.now())
    assert [agent for _, agent, _ in rig.hub.board.tops(wanted, 2)] == [1, 2]


def test_the_longest_that_the_score_knows_fits_the_rows() -> None:
    heaviest = 10  # times, as [scoring] allows a part to weigh
    assert RUN_US_MAX * heaviest <= STEP_US_MAX
    assert max(WAIT_US_MAX, RUN_US_MAX) * heaviest <= COST_US_MAX


def test_more_pools_than_there_are_rows_for_are_never_taken_for_each_other(rig: Rig) -> None:
    rig.validates = False
    rig.admin.submit(*(shell_task(needs=(f"none-{n}",)) for n in range(300)))
    rig.admin.submit(*(shell_task(needs=(f"none-{n}",)) for n in range(300, 600)))
    able = rig.admin.submit(shell_task(needs=("there",)))
    rig.admin.submit(*(shell_task(needs=(f"none-{n}",)) for n in range(600, 900)))
    rig.host("box", agents=4, capabilities=("there",))
    for _ in range(5):
        rig.advance(1000)
    assigned = [one.task for host in rig.hub.fleet.hosts.values() for one in host.agents.values() if one.task]
    assert assigned == [able]
    rig.hub.validate()
