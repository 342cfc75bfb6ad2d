"""Tasks that wait, are bound by deadlines, lose workers, stall, are held, cancelled, retried and purged, at random.

After every event the walk over the indexes must hold, and the databases must agree with each other. The seed says
what happens; none of the calls may end in anything but an answer or a refusal.
"""

from __future__ import annotations

import contextlib
import random

import pytest

from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.errors import Refused
from agentcom.model import FailureClass, TaskSpec
from agentcom.store.crosscheck import cross_check, walk_store
from tests.core_rig import HostEnd, Rig
from tests.factories import complex_task, error, settings, shell_task

STEPS = 150


class Life:
    """One hub, one or two hosts, and a person who does not know what she wants."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        queue = {"max_losses": draw.choice((1, 2, 3)), "ttl_s": draw.choice((60, 3600))}
        self.rig = Rig(settings(held_s=120, stall_s=20, **queue))
        self.hosts = [
            self.rig.host(f"h{n}", agents=draw.choice((1, 2, 3))) for n in range(draw.choice((1, 2)))
        ]
        self.held: dict[str, list[m.Assign]] = {host.key: [] for host in self.hosts}
        self.tasks: list[int] = []

    def step(self) -> None:
        for host in self.hosts:
            self._take(host)
        host, draw = self.draw.choice(self.hosts), self.draw.random()
        with contextlib.suppress(Refused):
            if draw < 0.25:
                self.tasks.append(self.rig.admin.submit(self._spec()))
            elif draw < 0.45:
                self.rig.advance(self.draw.choice((100, 3_000, 20_000, 46_000)))
            elif draw < 0.6:
                self._end_one(host)
            elif draw < 0.68:
                host.beat(*self.held[host.key], progress=self.draw.choice((None, 3)))
            elif draw < 0.73:
                self.held[host.key] = [one for one in self.held[host.key] if self.draw.random() < 0.5]
                self._hello(host)
            elif draw < 0.76:
                self._restart()
            elif self.tasks:
                self.rig.admin.ask(self._wish(self.draw.choice(self.tasks)))

    def _take(self, host: HostEnd) -> None:
        for assign in [one for one in host.received if isinstance(one, m.Assign)]:
            if self.draw.random() < 0.9:
                host.accept(assign)
                self.held[host.key].append(assign)
        host.received.clear()

    def _spec(self) -> TaskSpec:
        after = self.draw.sample(self.tasks, min(len(self.tasks), self.draw.choice((0, 1, 2))))
        within_s = {"complete_by": 60, "start_by": 20, "not_before": 15}
        moments = {
            field: rfc3339(self.rig.clock.now().wall_ms + self.draw.randrange(1, most) * 1000)
            for field, most in within_s.items()
            if self.draw.random() < 0.2
        }
        make = shell_task if self.draw.random() < 0.8 else complex_task
        return make(depends_on=tuple(after), **moments)

    def _end_one(self, host: HostEnd) -> None:
        held = self.held[host.key]
        if not held:
            return
        assign, draw = held.pop(self.draw.randrange(len(held))), self.draw.random()
        if draw < 0.4:
            host.complete(assign)
        elif draw < 0.7:
            blame = self.draw.choice(list(FailureClass))
            host.fail(assign, error(blame, retry_after_s=self.draw.choice((None, 30.0))))
        else:
            host.report(host.ended(assign, self.draw.choice(("interrupted", "cancelled"))))

    def _hello(self, host: HostEnd) -> None:
        host.hello(
            attempts=tuple(
                m.AttemptHeld(task=one.task, attempt=one.attempt, state="running", agent=one.agent)
                for one in self.held[host.key]
            )
        )

    def _restart(self) -> None:
        self.rig.start()
        self.rig.admin.hello()
        for host in self.hosts:
            self._hello(host)

    def _wish(self, task: int) -> m.Operation:
        wishes: tuple[m.Operation, ...] = (
            m.TaskCancel(task=task), m.TaskRetry(task=task), m.TaskHold(task=task), m.TaskRelease(task=task),
            m.DeadRetry(), m.DeadPurge(tasks=(task,)), m.DeadPurge(state="dead"),
            m.DeadRetry(state="cancelled"), m.TaskWhy(task=task), m.AgentList(), m.TaskStory(task=task),
        )  # fmt: skip
        return self.draw.choice(wishes)


@pytest.mark.parametrize("seed", range(16))
def test_whatever_becomes_of_tasks_every_index_fits_every_other(seed: int) -> None:
    life = Life(seed)
    for step in range(STEPS):
        life.step()
        if step % 25 == 0:
            assert cross_check(walk_store(life.rig.store)) == (0, [])
    assert life.tasks
