"""The one door: the same events at the same times give the same effects; what the clocks and the walk find."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom.core import invariants
from agentcom.core.effects import Effect, Event, Probed
from agentcom.core.hub import Hub
from agentcom.core.succession import NoSubmits
from agentcom.errors import Refused
from agentcom.loading import load
from agentcom.model import State
from tests import factories
from tests.core_rig import Rig
from tests.factories import endpoint_probe, shell_task, task

# --- determinism ----------------------------------------------------------------------------------------


class Recorded(Rig):
    """Keeps every event with its time."""

    def __init__(self) -> None:
        self.story: list[tuple[Any, tuple[Event, ...]]] = []
        super().__init__()

    def tick(self, *events: Event) -> list[Effect]:
        now = self.clock.now()
        self.story.append((now, tuple(self._looked_up(event, now) for event in events)))
        return super().tick(*events)


def a_story() -> Recorded:
    rig = Recorded()
    one, other = rig.host("one", agents=3), rig.host("other", agents=3)
    one.see()
    for n in range(12):
        rig.admin.submit(shell_task(max_retries=1), task(idempotency_key=f"k{n}"), task(not_before=None))
        rig.advance(700)
        for box in (one, other):
            box.beat(resources=factories.resources())
    for box in (one, other):
        box.fail(box.take())
        box.complete(box.take())
    rig.admin.ask(m.TaskCancel(task=36))
    one.leave()
    rig.advance(45_000)
    return rig


def test_the_same_events_at_the_same_times_give_the_same_effects() -> None:
    rig = a_story()
    first, second = [play(rig) for _ in range(2)]
    assert len(first) > 100
    assert spoken(first) == spoken(second)


def play(rig: Recorded) -> list[Effect]:
    """The effects of a hub that lives through the story from an empty store on."""
    fresh = Rig()
    hub = Hub(rig.settings, random.Random(7), "epoch1")
    start = rig.story[0][0]
    effects: list[Effect] = hub.load(load(fresh.store), start)
    for now, events in rig.story:
        for event in events:
            effects += hub.handle(event, now)
        effects += hub.schedule(now)
        hub.end_tick()
    return effects


def spoken(effects: list[Effect]) -> bytes:
    """Effects by value."""
    return msgspec.msgpack.encode([[type(effect).__name__, effect] for effect in effects])


def test_no_effect_depends_on_the_order_of_a_set() -> None:
    """Strings hash differently in each process: run the story in two and compare."""
    program = (
        "import hashlib, tests.unit.core.test_hub as t;"
        "print(hashlib.sha256(t.spoken(t.play(t.a_story()))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


# --- time -----------------------------------------------------------------------------------------------


def test_the_next_timer_is_the_earliest_deadline_on_either_clock() -> None:
    rig = Rig()
    assert rig.hub.next_due_ms(rig.clock.now()) is None
    rig.admin.submit(task(ttl_s=60))
    rig.advance(0)  # notes where the clock of terms stands
    now = rig.clock.now()
    assert rig.hub.next_due_ms(now) == now.mono_ms + 60_000
    rig.admin.send(rig.admin.request(m.TaskWait(task=1, timeout_s=5)))
    assert rig.hub.next_due_ms(now) == now.mono_ms + 5_000
    rig.host()
    assert rig.hub.next_due_ms(now) == now.mono_ms + 1_000


def test_a_tick_in_which_nothing_changed_schedules_nothing() -> None:
    rig = Rig()
    rig.host()
    rig.admin.submit(task())
    assert rig.hub.schedule(rig.clock.now()) == []
    assert not rig.hub.tasks.changed


def test_a_probe_of_an_endpoint_that_is_gone_is_nothing() -> None:
    assert Rig().tick(Probed(9, endpoint_probe())) == []


def test_no_submits_are_taken_while_the_disk_is_full_and_all_else_goes_on() -> None:
    rig = Rig()
    box = rig.host()
    number = rig.admin.submit(shell_task())
    rig.hub.no_submits = NoSubmits("storage_full", "the disk is full", 30)
    with pytest.raises(Refused) as refused:
        rig.admin.submit(task())
    assert (refused.value.code, refused.value.retry_after_s) == ("storage_full", 30)
    assert box.complete(box.take()) == "accepted"
    assert rig.admin.state(number) == "completed"


# --- the walk over the indexes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "breakage",
    [
        lambda hub: hub.tasks.counts.update({State.ready: 9}),
        lambda hub: hub.tasks.by_lane.update(dict.fromkeys(hub.tasks.by_lane, 9)),
        lambda hub: hub.tasks.deadlines._terms.clear(),
        lambda hub: hub.tasks.ready._flows.clear(),
        lambda hub: hub.attempts._timers.clear(),
        lambda hub: setattr(hub.fleet.agent_named("box-1"), "task", 9),
        lambda hub: setattr(hub.fleet.host_named("box"), "busy_count", 0),
        lambda hub: hub.registry.in_flight.update({(1, "x"): 1}),
        lambda hub: hub.attempts.calls.update({(9, 9): (1, "x")}),
        lambda hub: hub.fleet.host_by_name.clear(),
        lambda hub: hub.fleet.agent_by_name.clear(),
        lambda hub: hub.sessions.by_token.popitem(),
        lambda hub: hub.sessions.by_peer.popitem(),
        lambda hub: setattr(hub.tasks.waits, "count", 3),
        lambda hub: hub.principals.by_name.popitem(),
        lambda hub: hub.principals.by_key.popitem(),
    ],
)
def test_the_walk_finds_an_index_that_does_not_fit(breakage: Any) -> None:
    rig = Rig()
    box = rig.host()
    box.see()
    rig.admin.submit(task(), task(), task(not_before=None))
    rig.hub.validate()
    breakage(rig.hub)
    with pytest.raises(AssertionError):
        invariants.check(rig.hub)


def test_ticks_that_come_more_often_than_timers_do_not_put_them_off() -> None:
    """A hub that was never quiet for a second checked no endpoint: the next look was counted from each tick anew."""
    rig = Rig()
    box = rig.host()
    rig.admin.ask(m.EndpointAdd(url="http://10.0.0.5:11434"))
    rig.advance(0)
    due_ms = rig.hub.next_due_ms(rig.clock.now())
    assert due_ms is not None
    for _ in range(5):
        rig.clock.advance(300)
        box.beat()
        assert rig.hub.next_due_ms(rig.clock.now()) == due_ms


def test_endpoints_are_checked_where_no_host_is_there() -> None:
    rig = Rig()
    rig.admin.ask(m.EndpointAdd(url="http://10.0.0.5:11434"))
    rig.advance(0)
    now = rig.clock.now()
    assert rig.hub.next_due_ms(now) == now.mono_ms + 10_000
