"""Blocked agents: a usage window that is closed keeps their host from that backend until it opens."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.model import FailureClass
from tests.core_rig import HostEnd, Rig
from tests.factories import complex_task, error, shell_task, task


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def box(rig: Rig) -> HostEnd:
    return rig.host(agents=2)


def closed(**fields: Any) -> Any:
    return error(
        FailureClass.usage_window,
        "rate_limited",
        **{"retry_after_s": 60.0, "message": "5 h used up", **fields},
    )


def agents(rig: Rig) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rig.admin.ask(m.AgentList())["agents"]
    return found


def test_r9_a_closed_usage_window_blocks_the_hosts_agents_and_spends_no_retry(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(complex_task(max_retries=0))
    box.fail(box.take(), closed())
    found = rig.admin.task(number)
    assert (found["state"], found["parked_count"], found["retries_used"]) == ("delayed", 1, 0)
    for agent in agents(rig):
        assert agent["state"] == "blocked"
        assert (agent["blocked"]["backend"], agent["blocked"]["reason"]) == ("claude", "5 h used up")
        assert agent["blocked"]["since"] < agent["blocked"]["until"]
    assert rig.admin.ask(m.QueueStats())["agents"]["blocked"] == 2


def test_r9_other_tasks_for_the_same_backend_wait_and_why_says_until_when(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), closed())
    other = rig.admin.submit(complex_task())
    assert rig.admin.state(other) == "ready"
    [host] = rig.admin.ask(m.TaskWhy(task=other))["hosts"]
    assert host["fails"] == "backend_blocked"
    assert agents(rig)[0]["blocked"]["until"] in host["message"]
    assert rig.admin.task(other)["attempt"] == 0


def test_a_blocked_agent_takes_work_for_its_other_backends(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), closed())
    number = rig.admin.submit(shell_task())
    assert box.take().task == number
    assert sorted(agent["state"] for agent in agents(rig)) == ["blocked", "working"]


def test_a_host_with_another_key_is_not_blocked(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), closed())
    den = rig.host("den")
    number = rig.admin.submit(complex_task())
    assert den.take().task == number


def test_what_was_blocked_goes_on_when_the_window_opens(rig: Rig, box: HostEnd) -> None:
    first = rig.admin.submit(complex_task())
    box.fail(box.take(), closed())
    second = rig.admin.submit(complex_task())
    for _ in range(11):
        rig.advance(5_000)
        box.beat()
    assert rig.admin.state(second) == "ready"
    rig.advance(5_000)
    assert sorted((box.take().task, box.take().task)) == [first, second]
    assert [agent["blocked"] for agent in agents(rig)] == [None, None]


def states(rig: Rig) -> set[tuple[str, str]]:
    """What the agents are, and since when."""
    return {(agent["state"], agent["since"]) for agent in agents(rig)}


def test_an_agent_is_blocked_since_the_block_and_idle_since_its_end(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(complex_task())
    work = box.take()
    rig.advance(2_000)
    box.fail(work, closed(retry_after_s=20.0))
    rig.admin.ask(m.TaskCancel(task=number))
    block = agents(rig)[0]["blocked"]
    assert states(rig) == {("blocked", block["since"])}
    rig.advance(3_000)
    box.beat()
    assert states(rig) == {("blocked", block["since"])}
    for _ in range(20):
        rig.advance(1_000)
        if not agents(rig)[0]["blocked"]:
            break
        box.beat()
    assert states(rig) == {("idle", rfc3339(rig.clock.now().wall_ms))}


def test_an_agent_whose_host_says_hello_again_is_idle_since_then(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), closed())
    rig.advance(3_000)
    box.hello()
    assert states(rig) == {("idle", rfc3339(rig.clock.now().wall_ms))}


def test_the_longer_of_two_windows_counts(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task(), complex_task())
    one, other = box.take(), box.take()
    box.fail(one, closed(retry_after_s=60.0))
    until = agents(rig)[0]["blocked"]["until"]
    box.fail(other, closed(retry_after_s=30.0, message="less"))
    assert agents(rig)[0]["blocked"]["until"] == until


def test_a_window_without_an_end_is_tried_again_after_the_parks_time(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), closed(retry_after_s=None))
    for _ in range(12):
        rig.advance(5_000)
        box.beat()
    assert agents(rig)[0]["blocked"] is None


def test_a_host_that_says_hello_again_may_have_another_key(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), closed())
    box.hello()
    assert [agent["state"] for agent in agents(rig)] == ["idle", "idle"]


def test_i10_a_wall_clock_that_is_set_opens_no_window(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), closed())
    rig.clock.jump(10 * 365 * 24 * 3_600_000)
    rig.advance(1_000)
    assert agents(rig)[0]["state"] == "blocked"


def test_a_busy_local_model_blocks_nobody(rig: Rig, box: HostEnd) -> None:
    box.see()
    rig.admin.submit(task())
    box.fail(box.take(), closed())
    assert [agent["state"] for agent in agents(rig)] == ["idle", "idle"]


def test_people_are_told_when_a_host_is_blocked_and_when_it_is_not_any_more(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), closed())
    assert "host_blocked" in [one["event"] for one in rig.published("host")]
    for _ in range(12):
        rig.advance(5_000)
        if any(one["event"] == "host_unblocked" for one in rig.published("host")):
            break
        box.beat()
    assert "host_unblocked" in [one["event"] for one in rig.published("host")]


def test_a_key_that_is_refused_holds_one_task_and_blocks_its_host_until_a_release(
    rig: Rig, box: HostEnd
) -> None:
    first, second = rig.admin.submit(complex_task()), rig.admin.submit(complex_task())
    refused = error(FailureClass.configuration, "auth_refused", message="401")
    other = [box.take(), box.take()]
    box.fail(other[0], refused)
    assert [rig.admin.state(number) for number in (first, second)] == ["held", "working"]
    third = rig.admin.submit(complex_task())
    assert rig.admin.state(third) == "ready"
    assert rig.admin.ask(m.TaskWhy(task=third))["hosts"][0]["fails"] == "backend_blocked"
    assert [agent["state"] for agent in agents(rig) if not agent["task"]] == ["blocked"]
    rig.admin.ask(m.TaskRelease(task=first))
    assert sorted(rig.admin.state(number) for number in (first, third)) == ["assigned", "ready"]
    assert agents(rig)[0]["blocked"] is None


def test_a_task_that_is_configured_wrongly_blocks_no_host(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(complex_task())
    box.fail(box.take(), error(FailureClass.configuration, "branch_missing"))
    assert [agent["state"] for agent in agents(rig)] == ["idle", "idle"]
