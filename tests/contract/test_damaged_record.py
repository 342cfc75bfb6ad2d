"""A record that is damaged while a hub runs: who needs it is told, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcom import messages as m
from agentcom.errors import Refused, StoreDamaged
from agentcom.model import FailureClass, TaskError
from agentcom.store.record import key_u64
from tests.contract.test_failed_commit import FailingHub
from tests.factories import shell_task


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FailingHub]:
    made = FailingHub(tmp_path)
    yield made
    made.close()


def damage(hub: FailingHub, database: str, task: int) -> None:
    records = hub.disk.tables[database].records
    whole = records[key_u64(task)]
    records[key_u64(task)] = whole[:-1] + bytes([whole[-1] ^ 1])


@pytest.mark.parametrize(
    ("database", "op"),
    [("bodies", m.TaskGet), ("tasks", m.TaskGet), ("tasks", m.TaskRetry), ("bodies", m.TaskRetry)],
)
def test_i4_a_request_that_needs_a_damaged_record_is_refused_and_changes_nothing(
    hub: FailingHub, database: str, op: type[m.TaskGet] | type[m.TaskRetry]
) -> None:
    ended, other = hub.submit(), hub.submit()
    hub.ask(m.TaskCancel(task=ended))
    damage(hub, database, ended)
    sequence = hub.store.sequence
    for _ in range(2):
        with pytest.raises(Refused, match=f"in '{database}'.*start the hub again") as caught:
            hub.ask(op(task=ended))
        assert caught.value.code == "store_damaged"
    assert hub.store.sequence == sequence
    shown = hub.ask(m.TaskGet(task=other))
    assert isinstance(shown, m.Reply)
    assert hub.submit() == other + 1
    hub.broker.hub.validate()


def test_i4_a_submit_whose_key_leads_to_a_damaged_record_is_refused_alone(hub: FailingHub) -> None:
    keyed = m.Submit(tasks=(shell_task(idempotency_key="mine"),))
    answer = hub.ask(keyed)
    assert isinstance(answer, m.Reply)
    damage(hub, "tasks", answer.value["tasks"][0]["id"])
    with pytest.raises(Refused) as caught:
        hub.ask(keyed)
    assert caught.value.code == "store_damaged"
    assert hub.submit()


def test_i4_what_the_hub_itself_cannot_go_on_without_ends_it_before_anything_is_said(hub: FailingHub) -> None:
    hub.box.received.clear()
    number = hub.submit()
    assign = hub.until(hub.box, m.Assign)
    damage(hub, "bodies", number)
    error = TaskError(failure_class=FailureClass.infrastructure, code="endpoint_unreachable", message="away")
    hub.box.send(hub.box.ended(assign, outcome="failed", error=error))

    def until_it_is_given_out_again() -> None:
        for _ in range(500):
            hub.clock.advance(1000)
            hub.broker.tick()
            hub.box.socket.poll(2)

    with pytest.raises(StoreDamaged):
        until_it_is_given_out_again()
    assert not any(isinstance(one, m.Assign) for one in hub.box.received)
