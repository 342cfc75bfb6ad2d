"""A wall clock that jumps by ten years, either way, at any moment: the same story as without the jump.

The story has leases that run out, heartbeats, an assignment that nobody accepts, backoffs of two failure classes,
a parked task, a wait with a timeout and four lanes. What is compared is every message to hosts and callers with
the monotonic time at which it was sent. Times that people gave follow the wall clock; a time to live does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.core.effects import Send, SendAssign
from agentcom.model import FailureClass, Lane
from tests import factories
from tests.core_rig import HostEnd, Rig
from tests.faults.report import Report

TEN_YEARS_MS = 10 * 365 * 24 * 3600 * 1000
STEP_MS = 500
STEPS = 240
JUMP_AT = (0, 3, 17, 40, 90, 150)
HOURS_MS = 3600 * 1000
Trace = list[tuple[int, str, Any]]


class Story:
    """Two hosts work on a dozen tasks by a fixed plan; one never accepts, one falls silent, one fails."""

    def __init__(self, jump: Callable[[Rig, int], None]) -> None:
        self.rig = Rig(factories.settings(lease_s=10, heartbeat_s=2, accept_s=4, offline_s=6, backoff_s=2))
        self._jump = jump
        self.trace: Trace = []
        self.held: dict[str, dict[tuple[int, int], tuple[m.Assign, int]]] = {"box": {}, "den": {}}
        self.hosts = {"box": self.rig.host("box", agents=2), "den": self.rig.host("den", agents=2)}
        for lane in (Lane.low, Lane.normal, Lane.high, Lane.urgent) * 4:
            self.rig.admin.submit(factories.shell_task(lane=lane))
        waiting = self.rig.admin.request(m.TaskWait(task=16, timeout_s=20))
        self.rig.admin.send(waiting)

    def run(self) -> Trace:
        for step in range(STEPS):
            self._jump(self.rig, step)
            self._note(self.rig.advance(STEP_MS))
            for name, host in self.hosts.items():
                silent = name == "den" and 6 <= step < 46
                if not silent:
                    self._turn(name, host, step)
        return self.trace

    def _turn(self, name: str, host: HostEnd, step: int) -> None:
        held = self.held[name]
        for assign in [one for one in host.received if isinstance(one, m.Assign)]:
            host.received.remove(assign)
            if (assign.task, assign.attempt) not in held and (assign.task, assign.attempt) != (5, 1):
                held[assign.task, assign.attempt] = assign, step + 3 + assign.task % 5
                host.accept(assign)
                self._note(self.rig.effects)
        if step % 4 == 0:
            host.beat(*(assign for assign, _ in held.values()))
            self._note(self.rig.effects)
        for key in [key for key, (_, due) in held.items() if due <= step]:
            assign, _ = held.pop(key)
            host.send(self._ended(host, assign))
            self._note(self.rig.effects)

    def _ended(self, host: HostEnd, assign: m.Assign) -> m.Result:
        if assign.attempt > 1 or assign.task % 4:
            return host.ended(assign, "completed", factories.result())
        kind = (FailureClass.usage_window, FailureClass.task_error, FailureClass.infrastructure)
        return host.ended(assign, "failed", error=factories.error(kind[assign.task // 4 % 3]))

    def _note(self, effects: list[Any]) -> None:
        mono_ms = self.rig.clock.now().mono_ms
        for effect in effects:
            if isinstance(effect, Send | SendAssign):
                message = effect.message
                told = {
                    n: getattr(message, n, None)
                    for n in ("task", "attempt", "agent", "verdict", "kill", "code")
                }
                self.trace.append((mono_ms, type(message).__name__, json.dumps(told, default=repr)))
            elif type(effect).__name__ == "Read":
                self.trace.append((mono_ms, "Read", effect.request))

    def outcomes(self) -> dict[int, tuple[Any, ...]]:
        tasks = self.rig.admin.ask(m.TaskList(limit=100))["tasks"]
        return {t["id"]: (t["state"], t["attempt"], t["retries_used"], t["losses"]) for t in tasks}


def told(jump: Callable[[Rig, int], None]) -> tuple[Trace, dict[int, tuple[Any, ...]]]:
    story = Story(jump)
    return story.run(), story.outcomes()


@pytest.fixture(scope="module")
def plain() -> tuple[Trace, dict[int, tuple[Any, ...]]]:
    return told(lambda _rig, _step: None)


def test_the_story_has_what_it_says(plain: tuple[Trace, dict[int, tuple[Any, ...]]]) -> None:
    trace, outcomes = plain
    assert {name for _, name, _ in trace} >= {"Assign", "Beat", "ResultAck", "Ping", "Read"}
    assert any(losses for _, _, _, losses in outcomes.values()), "a lease ran out"
    assert any(retries for _, _, retries, _ in outcomes.values()), "a retry was spent"
    assert all(state == "completed" for state, _, _, _ in outcomes.values()), outcomes


@pytest.mark.parametrize("at", JUMP_AT)
@pytest.mark.parametrize("years", [-10, 10])
def test_a_jump_of_ten_years_moves_no_lease_no_retry_no_timeout_and_no_order(
    plain: tuple[Trace, dict[int, tuple[Any, ...]]], at: int, years: int
) -> None:
    def jump(rig: Rig, step: int) -> None:
        if step == at:
            rig.clock.jump(years * TEN_YEARS_MS // 10)

    trace, outcomes = told(jump)
    assert outcomes == plain[1]
    assert trace == plain[0]


def test_jumps_there_and_back_again_and_again_move_nothing(
    plain: tuple[Trace, dict[int, tuple[Any, ...]]],
) -> None:
    trace, outcomes = told(lambda rig, step: rig.clock.jump((-1) ** step * TEN_YEARS_MS) and None)
    assert outcomes == plain[1]
    assert trace == plain[0]
    report = Report(
        "I10", "jumps of ten years in a story of 120 s", counts={"jumps": 2 * len(JUMP_AT) + STEPS}
    )
    report.add(events=len(trace))
    report.require()


def test_times_that_people_gave_follow_the_wall_clock() -> None:
    rig = Rig()
    host = rig.host()
    later = rig.admin.submit(factories.shell_task(not_before=rfc3339(rig.clock.now().wall_ms + HOURS_MS)))
    rig.advance(1000)
    assert rig.admin.state(later) == "delayed"
    rig.clock.jump(HOURS_MS)
    rig.advance(1000)
    assert host.assigned().task == later
