"""Row I11 in small: tasks go through a hub with short terms, and rows, file and memory stop growing.

The real core, the real LMDB store, no sockets and no waiting: time is moved by hand, so 20,000 tasks take seconds.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import msgspec

from agentcom import messages as m
from agentcom.config import RetentionSettings
from agentcom.store.crosscheck import cross_check, walk_store
from agentcom.store.lmdb_store import LmdbStore
from tests.core_rig import HostEnd, Rig
from tests.factories import result, settings, shell_task

TASKS = 20_000
ROUND = 50  # tasks that are submitted, run and reported together
KEPT = RetentionSettings(tasks_max=1_000, reports_max=500, stories_max=20, events_max=100)
GROWTH_MAX = 0.05
DATABASES = (
    "tasks",
    "bodies",
    "lanes",
    "attempts",
    "routes",
    "reports",
    "stories",
    "feed",
    "idempotency",
    "dead",
)


def test_after_20_000_tasks_rows_file_and_memory_are_as_after_10_000(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_bytes=1 << 28)
    rig = Rig(msgspec.structs.replace(settings(), retention=KEPT), store=store)
    rig.validates = False
    box = rig.host(agents=ROUND)
    through(rig, box, TASKS // 2)
    half = figures(rig)
    through(rig, box, TASKS // 2)
    whole = figures(rig)
    assert rig.hub.tasks.next_id == TASKS + 1
    most = {
        "tasks": KEPT.tasks_max,
        "reports": KEPT.reports_max,
        "stories": KEPT.stories_max,
        "feed": KEPT.events_max,
    }
    for database, allowed in most.items():
        assert store.count(database) <= allowed, database
    assert {name: store.count(name) for name in ("bodies", "attempts", "idempotency")} == dict.fromkeys(
        ("bodies", "attempts", "idempotency"), KEPT.tasks_max
    )
    for name, before in half.items():
        assert whole[name] <= before * (1 + GROWTH_MAX), f"{name}: {before} at half, {whole[name]} at the end"
    assert cross_check(walk_store(store)) == (0, [])
    assert rig.hub.tasks.counts == rig.twin().tasks.counts
    rig.hub.validate()
    store.close()


def through(rig: Rig, box: HostEnd, count: int) -> None:
    """Tasks all the way, one of each round held and released before; retention takes its turns as the hub ticks."""
    for _ in range(0, count, ROUND):
        rig.admin.received.clear()
        specs = tuple(shell_task(idempotency_key=f"{rig.hub.tasks.next_id + n}") for n in range(ROUND))
        rig.admin.ask(m.QueuePause())
        first = rig.admin.submit(*specs)
        rig.admin.ask(m.TaskHold(task=first))
        rig.admin.ask(m.TaskRelease(task=first))
        rig.admin.ask(m.QueuePause(paused=False))
        taken = [message for message in box.received if isinstance(message, m.Assign)]
        assert len(taken) == ROUND
        box.received.clear()
        told = [m.Accept(session=box.token, task=one.task, attempt=one.attempt) for one in taken]
        done = [box.ended(one, "completed", result(output="done " * 40)) for one in taken]
        rig.tick(*map(box.event, told))
        rig.tick(*map(box.event, done))
        box.received.clear()
        rig.retire(2)
        rig.advance(1)
    rig.retire(20)


def figures(rig: Rig) -> dict[str, int]:
    gc.collect()
    stats = rig.store.stats()
    return {
        "rows": sum(rig.store.count(name) for name in DATABASES),
        "used_bytes": stats["used_bytes"],
        "file_bytes": stats["file_bytes"],
        "memory_blocks": sys.getallocatedblocks(),
    }
