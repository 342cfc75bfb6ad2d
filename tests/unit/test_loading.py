"""What a core is given at start: the live tasks in order, the routes of those that an agent has, counts of the
rest; a store whose lanes and tasks do not fit together is refused."""

from __future__ import annotations

import msgspec
import pytest

from agentcom.errors import StoreDamaged
from agentcom.loading import load
from agentcom.model import Backend, Lane, Route, State, Strategy, TaskRow, Tier, TierSource
from agentcom.store import base
from agentcom.store.base import Batch
from agentcom.store.memory_store import MemoryDisk, MemoryStore
from agentcom.store.record import key_u64, key_u64x2

ROUTE = Route(
    strategy=Strategy.trivial,
    backend=Backend.shell,
    agent="a",
    host="h",
    model="none",
    reason="command",
    tier=Tier.trivial,
)


def store_of(states: dict[int, State], lanes: list[int], routes: tuple[int, ...] = ()) -> MemoryStore:
    """A store with a row for each task, and these of them in their lanes."""
    batch = Batch()
    for task, state in states.items():
        row = TaskRow(
            task, state, Lane.normal, 1, 1, Tier.trivial, TierSource.command, Tier.trivial, 1, 1, 3, 1
        )
        batch.put("tasks", key_u64(task), msgspec.msgpack.encode(row))
    for task in lanes:
        batch.put("lanes", key_u64(task), b"")
    for task in routes:
        batch.put("routes", key_u64x2(task, 1), msgspec.msgpack.encode(ROUTE))
    store = MemoryStore(MemoryDisk())
    store.commit(batch, 1)
    return store


@pytest.fixture(params=[1, 2, 1000])
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one page: what is read must not depend on where a page ends."""
    rows = request.param

    def pages(store: base.Store, database: str) -> object:
        return base.pages(store, database, rows=rows)

    monkeypatch.setattr("agentcom.loading.pages", pages)


def test_live_tasks_come_in_order_and_final_ones_are_counted(page: None) -> None:
    states = {
        1: State.completed,
        2: State.ready,
        3: State.working,
        4: State.dead,
        5: State.completed,
        300: State.held,
        301: State.cancelled,
    }
    loaded = load(store_of(states, [2, 3, 300], routes=(2, 3)))

    assert [task for page in loaded.pages for task in page.columns["id"]] == [2, 3, 300]
    assert loaded.finals == {State.completed: 2, State.dead: 1, State.cancelled: 1, State.expired: 0}
    assert loaded.routes == {3: ROUTE}


def test_a_store_without_tasks_gives_none(page: None) -> None:
    assert list(load(store_of({}, [])).pages) == []


@pytest.mark.parametrize("missing", [1, 3, 9])
def test_a_task_in_a_lane_without_a_row_is_damage(page: None, missing: int) -> None:
    loaded = load(store_of({2: State.ready, 4: State.completed}, sorted([2, missing])))
    with pytest.raises(StoreDamaged, match=f"task {missing} is in its lane and has no row"):
        list(loaded.pages)


def test_a_final_task_in_a_lane_is_damage(page: None) -> None:
    loaded = load(store_of({2: State.dead}, [2]))
    with pytest.raises(StoreDamaged, match="task 2 is dead and still in its lane"):
        list(loaded.pages)
