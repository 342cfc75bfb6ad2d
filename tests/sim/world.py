"""One simulated run from one seed: a hub, hosts, callers, faults; then everything is healed and must come to rest.

Safety phase: faults of every kind, at times that the seed gives; the checker watches every step. Liveness phase:
all faults end, callers stop, and every task must end within a bound that is computed from the settings.
"""

from __future__ import annotations

import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agentcom import messages as m
from agentcom.config import QueueSettings, RetentionSettings, Settings
from agentcom.core.effects import key_u64
from agentcom.model import OPEN_ATTEMPT, PrincipalRecord, Role, State, TaskRow, Tier
from agentcom.store.base import Batch
from tests.sim.checker import PERSON_RETRIES, Checker, key_of
from tests.sim.clients import CHANGED, LIMITED, REPOS, FakeClient, Known
from tests.sim.disk import SimDisk
from tests.sim.history import check_end
from tests.sim.money import CODE as BUDGET
from tests.sim.money import OWN_TOLD, Purse, Treasurer
from tests.sim.network import KEEPALIVE_MS, Network
from tests.sim.shell import KILL_POINTS, HubShell
from tests.sim.sidecars import HANG_MS_MAX, RESTART_MS, WORK_MS_MAX, FakeSidecar
from tests.sim.timeline import START_MS, Timeline

TEN_YEARS_MS = 10 * 366 * 24 * 3600 * 1000
JUMPS_MS = (0, 0, -TEN_YEARS_MS, TEN_YEARS_MS, -5000, 50_000, 3_000_000)
HOUR_MS = 3_600_000
REST_LOOK_MS = 500
BOUND_LOOK_MS = 10_000  # how often the run is compared with the bound on its length
HELP_EVERY_MS = 15_000  # in the end somebody releases what is held, this often
HELPS_WHOLE = (0, 1, 2)  # in which everything is let go on; what callers had asked for before may come in late
HELPS_WHOLE_EVERY = 8  # and after these once in so many


@dataclass(frozen=True)
class Report:
    """What one run came to."""

    seed: int
    trace_hash: str
    simulated_ms: int
    steps: int
    tasks: int
    leases: int
    cpu_s: float
    seen: Counter[str]


class SimulationFailed(AssertionError):
    """A run broke a rule; the message says which, and how to see it again."""


class World:
    """The run of one seed. `safety_ms` overrides how long its safety phase is, `only` which faults it has.

    A core is compared with itself every `check_every` ticks, and with the store every `equality_every`: both walk
    everything, and a run has some thousand ticks.
    """

    check_every, equality_every = 97, 149
    money_share = 0.5  # of the seeds have budgets

    def __init__(
        self,
        seed: int,
        safety_ms: int | None = None,
        shows: bool = False,
        only: tuple[str, ...] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.seed = seed
        self.jumps_ms: tuple[int, ...] = JUMPS_MS
        self.rng = self._stream("world")
        self.settings = settings or settings_of(seed)
        self.line = Timeline(shows)
        self.disk = SimDisk(self.line, self._stream("disk"))
        self.network = Network(self.line, self._stream("network"))
        self.checker = Checker(self.line, self.settings, self.check_every, self.equality_every)
        self.hub = HubShell(
            self.line, self.network, self.disk, self.checker, self.settings, self._stream("hub")
        )
        self.checker.running = lambda: self.hub.hub
        self.known = Known(self.checker.live, has_poison=self.rng.random() < 0.7)
        self.treasurer: Treasurer | None = None
        self.safety_ms = safety_ms or self.rng.choice((60_000, 180_000, 400_000))
        self.sidecars = self._make_sidecars()
        self.clients = self._make_clients()
        if only is None and self.has_money:
            self._set_up_money()
        self._faults = self._choose_faults(only)
        self._helps = 0
        self.checker.is_running = lambda key: any(sidecar.is_running(key) for sidecar in self.sidecars)
        self._enrol()

    def run(self) -> Report:
        """Both phases and the last check; raises AssertionError at the first thing that is wrong."""
        begun_s = time.process_time()
        self.hub.start()
        for sidecar in self.sidecars:
            sidecar.start()
        for client in self.clients:
            client.start()
        self.line.after(1, self._cause_faults)
        self._run_until(START_MS + self.safety_ms)
        self._heal()
        self._come_to_rest()
        self.checker.run_ended(self.hub.hub, self.hub.store, self.line.now())
        check_end(self.clients, self.checker, self.hub.hub, self.hub.store, self.line)
        return Report(
            seed=self.seed,
            trace_hash=self.line.trace_hash,
            simulated_ms=self.line.now_ms - START_MS,
            steps=self.line.steps,
            tasks=len(self.checker.marks),
            leases=sum(row.attempt for row in self.checker.rows.values()),
            cpu_s=time.process_time() - begun_s,
            seen=self.line.seen,
        )

    def _come_to_rest(self) -> None:
        """Every task ends within the bound. What callers had asked for before they stopped may still come in and
        adds to it."""
        healed_ms, looked_ms, known = self.line.now_ms, 0, set[int]()
        budgets: list[TaskRow] = []
        while True:
            budgets += [self.checker.rows[task] for task in self.checker.live - known]
            known = set(self.checker.live)
            if self._is_at_rest():
                return
            if self.line.now_ms - looked_ms >= BOUND_LOOK_MS:
                looked_ms, bound_ms = self.line.now_ms, self.bound_ms(budgets)
                assert looked_ms < healed_ms + bound_ms, (
                    f"not at rest {bound_ms} ms after all faults were healed: {self._left()}"
                )
            self._run_until(self.line.now_ms + REST_LOOK_MS)

    def bound_ms(self, live: list[TaskRow]) -> int:
        """From the settings: how long until these tasks have ended once nothing fails any more.

        What is left of each task's budget, one after the other on one agent, and before that the longest time
        until the hub knows what is gone. A task that stops its sidecar in order, again and again, ends only with the
        last of the attempts that such failures are allowed.
        """
        queue = self.settings.queue
        lease_s = max(queue.lease_s, *CHANGED["queue.lease_s"])
        settle_s = lease_s + queue.offline_s + queue.accept_s + queue.heartbeat_s * 3 + 30
        settle_ms = settle_s * 1000 + 2 * KEEPALIVE_MS + 90_000 + max(RESTART_MS)
        attempts = sum(row.max_retries + 1 + queue.max_losses for row in live)
        each_ms = WORK_MS_MAX + queue.heartbeat_s * 1000 + RESTART_MS[0] + 5000
        waits_s = max((row.max_retries + 1 for row in live), default=0) * queue.backoff_max_s
        parked_ms = max(queue.park_s, 90) * 1000
        stalls_ms = 2 * queue.stall_s * 1000
        waits_ms = waits_s * 1000 + parked_ms + stalls_ms + 4 * HELP_EVERY_MS
        now = [self.checker.rows.get(row.id, row) for row in live]  # retention may have taken one
        stoppers = sum(row.error_code == "sidecar_stopped" for row in now)
        again_ms = queue.max_infrastructure * (each_ms + queue.backoff_max_s * 1000)
        return int(settle_ms + HANG_MS_MAX + attempts * each_ms + waits_ms + stoppers * again_ms)

    # --- making it --------------------------------------------------------------------------------------

    def _stream(self, name: str) -> random.Random:
        """Numbers for one part alone, so that a change in one part leaves the others as they were."""
        return random.Random(f"{self.seed}/{name}")

    def _make_sidecars(self) -> list[FakeSidecar]:
        made = []
        for n in range(self.rng.choice((1, 2, 3))):
            name = f"host{n}"
            made.append(
                FakeSidecar(name, key_of(name), self.line, self.network, self.settings, self._stream(name))
            )
            self.known.hosts.append(name)
            self.known.agents += made[-1].agents
        return made

    def _make_clients(self) -> list[FakeClient]:
        made = []
        for n in range(self.rng.choice((1, 2, 3))):
            name = f"caller{n}"
            client = FakeClient(name, key_of(name), self.line, self.network, self.known, self._stream(name))
            client.issued = self.checker.issued
            self.known.callers.append(name)
            made.append(client)
        return made

    @property
    def has_money(self) -> bool:
        return self._stream("money").random() < self.money_share

    def _set_up_money(self) -> None:
        """Somebody sets budgets, tasks have some of their own, and hosts say what paid work has cost."""
        self.treasurer = Treasurer(
            "treasurer", key_of("treasurer"), self.line, self.network, self.known, self._stream("treasurer")
        )
        for one in self.sidecars:
            one.purse = Purse(self._stream(f"purse of {one.name}"))
        for client in self.clients:
            client.own_usd = Purse(self._stream(f"purse of {client.name}")).own_usd
        self.clients.append(self.treasurer)

    def _enrol(self) -> None:
        """The keys of all, in the store from the start."""
        names = [(s.name, s.key, Role.host) for s in self.sidecars]
        names += [(c.name, c.key, Role.admin) for c in self.clients]
        batch = Batch()
        for number, (name, key, role) in enumerate(names, 1):
            record = PrincipalRecord(id=number, name=name, role=role, key=key)
            batch.put("principals", b"p" + key_u64(number), msgspec.msgpack.encode(record))
        store = self.disk.open()
        self.disk.commit(store, batch)
        store.close()

    # --- faults -----------------------------------------------------------------------------------------

    def _choose_faults(self, only: tuple[str, ...] | None) -> list[Callable[[], None]]:
        """Which kinds this seed has, so that some runs show one kind alone and some show all."""
        every = {
            "network": self.network.misbehave,
            "disk": self.disk.misbehave,
            "kill": self._kill_hub,
            "freeze": self._freeze_hub,
            "crash": self._crash_sidecar,
            "zombie": self._freeze_sidecar,
            "jump": self._jump,
            "lie": self._lie,
            "drain": self._drain_little,
        }
        if only is not None:
            return [every[name] for name in only]
        chosen = [fault for fault in every.values() if self.rng.random() < 0.6]
        return [*chosen, self.network.misbehave]

    def _cause_faults(self) -> None:
        if self.line.now_ms >= START_MS + self.safety_ms:
            return
        self.rng.choice(self._faults)()
        self.line.after(self.rng.choice((100, 2000, 5000, 20_000)), self._cause_faults)

    def _kill_hub(self) -> None:
        draw = self.rng.random()
        if draw < 0.1:
            self.hub.die("killed between ticks")
        elif draw < 0.2:
            self.hub.die("power between ticks")
            self.disk.lose_power()
        elif draw < 0.5:
            self.disk.crash_in_commit = self.rng.choice(("process", "power", "power"))
        else:
            self.hub.kill_at = self.rng.choice(KILL_POINTS)

    def _freeze_hub(self) -> None:
        is_long = self.rng.random() < 0.1
        self.hub.freeze(self.rng.choice((20_000, 100_000) if is_long else (900, 1500, 3000, 5000)))

    def _crash_sidecar(self) -> None:
        self.rng.choice(self.sidecars).crash()

    def _freeze_sidecar(self) -> None:
        lease_ms = int(self.settings.queue.lease_s * 1000)
        self.rng.choice(self.sidecars).freeze(self.rng.choice((2000, lease_ms, 2 * lease_ms)))

    def _jump(self) -> None:
        self.line.wall_offset_ms = self.rng.choice(self.jumps_ms)
        self.line.note("jump")
        if any(self.checker.rows[task].state in OPEN_ATTEMPT for task in self.checker.live):
            self.line.reach("wall_jump_during_a_lease")

    def _lie(self) -> None:
        self.rng.choice(self.sidecars).lie(len(self.checker.marks))

    def _drain_little(self) -> None:
        self.hub.drain_max = self.rng.choice((1, 2, 5, 1000, 1000))

    # --- the end ----------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.line.note("heal")
        self.hub.drain_max, self.hub.kill_at = 1000, None
        self.line.wall_offset_ms = 0
        self.disk.heal()
        if self.disk.is_damaged:
            self.hub.die("found damaged by the scrubber")
        self.network.heal()
        self.hub.thaw()
        for client in self.clients:
            client.is_stopped = True
        for sidecar in self.sidecars:
            sidecar.heal()
        self.line.after(1, self._help)

    def _help(self) -> None:
        """What people do in the end: let everything go on, and release what is held."""
        if self._helps in HELPS_WHOLE or self._helps % HELPS_WHOLE_EVERY == 0:
            self._let_go_on()
        self._helps += 1
        for row in [self.checker.rows[task] for task in sorted(self.checker.live)]:
            is_for_the_ledger = row.error_code == BUDGET and not OWN_TOLD.match(row.error_message)
            if row.state is State.held and not is_for_the_ledger:
                is_lost = self._waits_in_vain(row.id) or row.error_code == BUDGET
                self.clients[0].ask(m.TaskCancel(task=row.id) if is_lost else m.TaskRelease(task=row.id))
        self.line.after(HELP_EVERY_MS, self._help)

    def _let_go_on(self) -> None:
        """Every pause, limit, cordon, drain and changed setting is taken back."""
        person = self.clients[0]
        person.ask(m.QueuePause(paused=False))
        for repo in REPOS:
            person.ask(m.QueuePause(paused=False, repo=repo))
        for tier in Tier:
            person.ask(m.QueuePause(paused=False, tier=tier))
        for key in LIMITED:
            person.ask(m.QueueLimit(key=key))
        person.ask(m.ConfigChange(unset=tuple(CHANGED)))
        for host in self.known.hosts:
            person.ask(m.QueuePause(paused=False, host=host))
            person.ask(m.HostDrain(host=host, draining=False))
        for agent in self.known.agents:
            person.ask(m.AgentCordon(agent=agent, cordoned=False))
        if self.treasurer is not None:
            self.treasurer.let_go()

    def _waits_in_vain(self, task: int) -> bool:
        """For a task that has ended without completing."""
        found = [self.checker.rows.get(one) for one in self.checker.starts.specs[task].depends_on]
        return any(row is None or row.state in PERSON_RETRIES for row in found)

    def _is_at_rest(self) -> bool:
        return (
            self.hub.is_up
            and not self.checker.live
            and all(sidecar.is_quiet for sidecar in self.sidecars)
            and not any(agent.task for agent in self.hub.hub.fleet.agents.values())
        )

    def _left(self) -> str:
        live = [self.checker.rows[task] for task in sorted(self.checker.live)]
        rows = [f"{r.id} {r.state}.{r.attempt}" for r in live]
        hosts = [
            f"{s.name} {sorted(s.runs)} {sorted(s.disk.outbox)}" for s in self.sidecars if not s.is_quiet
        ]
        return f"tasks {rows}, hosts {hosts}, hub up {self.hub.is_up}"

    def _run_until(self, until_ms: int) -> None:
        while self.line.step(until_ms):
            pass


def simulate(
    seed: int, safety_ms: int | None = None, shows: bool = False, kind: type[World] = World
) -> Report:
    """The run of one seed. SimulationFailed carries the command that shows it again."""
    world = kind(seed, safety_ms, shows)
    try:
        return world.run()
    except Exception as error:
        at_s = (world.line.now_ms - START_MS) / 1000
        raise SimulationFailed(
            f"seed {seed}, at {at_s:.3f} s: {type(error).__name__}: {error}\n"
            f"see it again: {replay_command(seed, safety_ms, kind)}"
        ) from error


def replay_command(seed: int, safety_ms: int | None, kind: type[World]) -> str:
    """What shows the run of a seed again, to be pasted where this one was started: by the same Python, since no other
    may have what the tests need."""
    python = Path(sys.executable or "python3")
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    asked = f" --steps {safety_ms // 1000}" if safety_ms is not None else ""
    asked += " --alive" if kind is not World else ""
    return f"{shlex.quote(str(python))} -m tests.sim --seed {seed}{asked} --trace"


def settings_of(seed: int) -> Settings:
    """Settings within their bounds, short enough that every deadline is met in one run."""
    rng = random.Random(f"{seed}/settings")
    return Settings(
        retention=RetentionSettings(
            tasks_s=rng.choice((90 * 24 * 3600, 60, 300)), tasks_max=rng.choice((200_000, 200_000, 10))
        ),
        queue=QueueSettings(
            heartbeat_s=5,
            lease_s=rng.choice((15, 20, 45)),
            accept_s=rng.choice((5, 15)),
            offline_s=rng.choice((10, 15)),
            max_retries=rng.choice((0, 1, 3)),
            max_losses=rng.choice((1, 2, 3)),
            max_unaccepted=rng.choice((2, 5)),
            max_infrastructure=rng.choice((1, 3, 20)),
            backoff_s=rng.choice((1, 2, 5)),
            backoff_max_s=rng.choice((10, 60)),
            park_s=rng.choice((5, 60)),
            stall_s=rng.choice((20, 60, 300)),
            held_s=rng.choice((60, 14 * 24 * 3600)),
        ),
    )
