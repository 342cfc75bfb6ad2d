"""Removing endpoints, agents and hosts: they drain first, and go at once only when asked to."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.store.base import Batch
from agentcom.store.journaled import tells_only
from agentcom.store.memory_store import MemoryStore
from tests.core_rig import Rig
from tests.factories import endpoint_probe, resources, shell_task, task

URL = "http://10.0.0.5:11434"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def shared(rig: Rig, **fields: Any) -> int:
    number = int(rig.admin.ask(m.EndpointAdd(url=URL, name="gpu", **fields))["id"])
    rig.probed(number, endpoint_probe())
    return number


def endpoints(rig: Rig) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rig.admin.ask(m.EndpointList())["endpoints"]
    return found


def agents(rig: Rig) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rig.admin.ask(m.AgentList())["agents"]
    return found


# --- endpoints --------------------------------------------------------------------------------------------


def test_an_idle_endpoint_goes_at_once(rig: Rig) -> None:
    shared(rig)
    assert rig.admin.ask(m.EndpointRemove(endpoint="gpu")) == {
        "endpoint": "gpu", "removed": True, "draining": False,
    }  # fmt: skip
    assert endpoints(rig) == []


def test_a_busy_endpoint_drains_and_goes_when_its_last_call_has_ended(rig: Rig) -> None:
    box, _ = rig.host(agents=2), shared(rig, cap=2)
    rig.admin.submit(task())
    running = box.take()
    found = rig.admin.ask(m.EndpointRemove(endpoint="gpu"))
    assert (found["removed"], found["draining"]) == (False, True)
    waiting = rig.admin.submit(task())
    assert rig.admin.state(waiting) == "ready"
    [row] = rig.admin.ask(m.TaskWhy(task=waiting))["hosts"]
    assert row["fails"] == "endpoint_draining"
    assert endpoints(rig)[0]["draining"]
    assert box.complete(running) == "accepted"
    assert endpoints(rig) == []
    assert rig.store.count("endpoints") == 0


def test_an_endpoint_that_goes_now_gives_its_work_back_without_spending_a_retry(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    number = rig.admin.submit(task(max_retries=0))
    box.take()
    assert rig.admin.ask(m.EndpointRemove(endpoint="gpu", now=True))["removed"]
    assert box.expect(m.Cancel).task == number
    found = rig.admin.task(number)
    assert (found["state"], found["retries_used"], found["losses"]) == ("ready", 0, 0)
    assert endpoints(rig) == []
    reports = rig.admin.ask(m.TaskReports(task=number))["attempts"]
    assert [one["outcome"] for one in reports] == ["withdrawn"]


def test_what_is_withdrawn_runs_elsewhere_and_its_late_result_changes_nothing(rig: Rig) -> None:
    one, other = rig.host("one"), rig.host("other")
    first = shared(rig)
    number = rig.admin.submit(task())
    holder, idle = (one, other) if one.received else (other, one)
    old = holder.take()
    rig.admin.ask(m.EndpointAdd(url="http://10.0.0.6:11434", name="second"))
    rig.probed(2, endpoint_probe())
    rig.admin.ask(m.EndpointRemove(endpoint="gpu", now=True))
    again = idle.take()
    assert (again.task, again.attempt, again.route.endpoint) == (number, old.attempt + 1, "second")
    assert holder.report(holder.ended(old, "cancelled")) == "stale"
    assert idle.complete(again) == "accepted"
    assert first == 1


def test_adding_an_endpoint_that_drains_keeps_it(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    running = box.take()
    rig.admin.ask(m.EndpointRemove(endpoint="gpu"))
    rig.admin.ask(m.EndpointAdd(url=URL))
    box.complete(running)
    assert [one["draining"] for one in endpoints(rig)] == [False]


def test_a_start_of_the_hub_goes_on_with_what_drains(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    running = box.take()
    rig.admin.ask(m.EndpointRemove(endpoint="gpu"))
    rig.start()
    rig.admin.hello()
    assert endpoints(rig)[0]["draining"]
    box.hello(attempts=(box.held(running),))
    box.complete(running)
    assert endpoints(rig) == []


# --- agents -----------------------------------------------------------------------------------------------


def test_a_busy_agent_drains_and_goes_when_its_attempt_has_ended(rig: Rig) -> None:
    box = rig.host()
    rig.admin.submit(shell_task())
    running = box.take()
    found = rig.admin.ask(m.AgentRemove(agent="box-1"))
    assert (found["removed"], found["draining"]) == (False, True)
    assert [one["draining"] for one in agents(rig)] == [True]
    rig.admin.submit(shell_task())
    box.complete(running)
    assert rig.sent(m.Assign) == []
    assert agents(rig) == []


def test_an_agent_that_goes_now_gives_its_task_back_without_spending_a_retry(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = rig.admin.submit(shell_task(max_retries=0))
    running = box.take()
    rig.admin.ask(m.AgentRemove(agent=running.agent, now=True))
    assert box.expect(m.Cancel).task == number
    again = box.take()
    assert (again.task, again.agent != running.agent) == (number, True)
    assert rig.admin.task(number)["retries_used"] == 0
    box.send(box.ended(running, "cancelled"))
    assert [one["name"] for one in agents(rig)] == [again.agent]


def test_uncordoning_an_agent_that_drains_keeps_it(rig: Rig) -> None:
    box = rig.host()
    rig.admin.submit(shell_task())
    running = box.take()
    rig.admin.ask(m.AgentRemove(agent="box-1"))
    rig.admin.ask(m.AgentCordon(agent="box-1", cordoned=False))
    box.complete(running)
    assert [one["removing"] for one in agents(rig)] == [False]


def test_an_agent_whose_host_was_lost_goes_when_its_lease_has_ended(rig: Rig) -> None:
    box = rig.host()
    rig.admin.submit(shell_task())
    box.take()
    box.leave()
    rig.admin.ask(m.AgentRemove(agent="box-1"))
    assert len(agents(rig)) == 1
    rig.advance(60_000)
    assert agents(rig) == []


# --- hosts ------------------------------------------------------------------------------------------------


def test_a_busy_host_drains_and_its_key_is_revoked_when_its_last_attempt_has_ended(rig: Rig) -> None:
    box = rig.host(agents=2)
    rig.admin.submit(shell_task())
    running = box.take()
    found = rig.admin.ask(m.HostRemove(host="box"))
    assert (found["removed"], found["draining"]) == (False, True)
    rig.admin.submit(shell_task())
    assert rig.sent(m.Assign) == []
    [shown] = rig.admin.ask(m.HostList())["hosts"]
    assert (shown["draining"], shown["removing"]) == (True, True)
    assert box.complete(running) == "accepted"
    assert rig.admin.ask(m.HostList())["hosts"] == []
    assert box.expect(m.Error).code == "revoked"


def test_a_host_that_goes_now_gives_its_work_back_without_spending_a_retry(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(max_retries=0))
    box.take()
    assert rig.admin.ask(m.HostRemove(host="box", now=True))["removed"]
    found = rig.admin.task(number)
    assert (found["state"], found["retries_used"], found["losses"]) == ("ready", 0, 0)


def test_undraining_a_host_keeps_it(rig: Rig) -> None:
    box = rig.host()
    rig.admin.submit(shell_task())
    running = box.take()
    rig.admin.ask(m.HostRemove(host="box"))
    rig.admin.ask(m.HostDrain(host="box", draining=False))
    box.complete(running)
    assert [one["removing"] for one in rig.admin.ask(m.HostList())["hosts"]] == [False]


def test_removing_what_is_not_there_says_so(rig: Rig) -> None:
    for op in (m.EndpointRemove(endpoint="x"), m.AgentRemove(agent="x"), m.HostRemove(host="x")):
        with pytest.raises(Refused) as refused:
            rig.admin.ask(op)
        assert refused.value.code == "not_found"


# --- backups ----------------------------------------------------------------------------------------------


class Told(MemoryStore):
    """Remembers of each batch whether it does no more than to tell."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool] = []

    def commit(self, batch: Batch, sequence: int) -> None:
        self.told.append(tells_only(batch))
        super().commit(batch, sequence)


def test_what_a_person_does_to_a_host_is_a_change_that_a_backup_is_wanted_for_and_its_own_reports_are_none() -> None:
    store = Told()
    rig = Rig(store=store)
    box = rig.host("box")
    rig.admin.submit(shell_task())
    box.take()
    told = store.told
    told.clear()
    rig.clock.advance(60_000)
    box.beat(resources=resources())
    assert told == [True]
    told.clear()
    rig.admin.ask(m.HostDrain(host="box", draining=False))
    assert (told, rig.published("host")) == ([], [])
    for op in (
        m.HostDrain(host="box"),
        m.HostDrain(host="box", draining=False),
        m.QueuePause(host="box"),
        m.HostRemove(host="box"),
    ):
        told.clear()
        rig.admin.ask(op)
        assert told == [False], op
    told.clear()
    rig.admin.ask(m.HostDrain(host="box"))
    assert (told, rig.published("host")) == ([], [])
    rig.admin.ask(m.HostDrain(host="box", draining=False))
    assert told == [False]
    assert [one["removing"] for one in rig.admin.ask(m.HostList())["hosts"]] == [False]
