"""Simulated sidecars: what a host's daemon says, remembers on disk, and does wrong when it is made to.

As the real one: an attempt is on disk before `accept`, a result before it is sent, and it is sent again until it
is acknowledged; hello lists what runs and what is in the outbox; a hub that is silent gets a new connection.
Beyond it: it crashes, freezes past its lease and goes on, says things twice, and lies.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
from msgspec import Struct

from agentcom import limits
from agentcom import messages as m
from agentcom.config import Settings
from agentcom.model import (
    Backend,
    EndpointKind,
    EndpointModel,
    EndpointProbe,
    FailureClass,
    ResultStatus,
    TaskError,
    TaskResult,
)
from tests.sim.money import Purse
from tests.sim.network import Link, Network
from tests.sim.timeline import Act, Timeline

Key = tuple[int, int]
Outcome = Literal["completed", "failed", "interrupted", "cancelled"]
RESEND_MS, RESEND_MS_MAX = 1000, 30_000
DELIVER_EVERY_MS = 250
HELLO_MS_MAX = 10_000  # a hello without an answer is said again after this
RESTART_MS = (200, 3000, 25_000)
WORK_MS_MAX = 20_000  # of a task without faults
HANG_MS_MAX = 120_000  # of one that hangs until its own time-out
ENDPOINT = "http://127.0.0.1:11434"
BACKENDS = (Backend.shell, Backend.ollama, Backend.claude)
ERRORS = {
    "infra": FailureClass.infrastructure,
    "window": FailureClass.usage_window,
    "config": FailureClass.configuration,
    "verify": FailureClass.verification,
}


@dataclass
class Entry:
    """A result in the outbox."""

    outcome: Outcome
    result: TaskResult | None = None
    error: TaskError | None = None
    held_as: Literal["finished", "interrupted", "unknown"] = "finished"
    due_ms: int = 0
    wait_ms: int = RESEND_MS


@dataclass
class Run:
    """An attempt that the process works on."""

    agent: str
    nature: str
    is_accepted: bool = False
    progress: int = 0
    is_stuck: bool = False
    is_paid: bool = False
    given_usd: float | None = None


@dataclass
class HostDisk:
    """What outlives the sidecar's process."""

    started: dict[Key, str] = field(default_factory=dict)
    outbox: dict[Key, Entry] = field(default_factory=dict)


class FakeSidecar:
    """One host. `is_gentle`: it does nothing wrong by itself; `is_healed` ends every fault of its own making."""

    def __init__(
        self, name: str, key: str, line: Timeline, network: Network, settings: Settings, rng: random.Random
    ) -> None:
        self.name, self.key = name, key
        self.disk = HostDisk()
        self.runs: dict[Key, Run] = {}
        self.is_up = self.is_healed = self.is_gentle = False
        self.frozen_until_ms = 0
        self._line, self._network, self._settings, self._rng = line, network, settings, rng
        self.agents = tuple(f"{name}-a{n}" for n in range(rng.choice((1, 1, 2, 3))))
        self._link: Link | None = None
        self._token = b""
        self._starts = 0
        self._process = ""
        self._beat = self._hellos = 0
        self._heard_ms = 0
        self._is_delivering = False
        self._pace_s = settings.queue.heartbeat_s
        self.purse: Purse | None = None

    @property
    def is_quiet(self) -> bool:
        """Nothing runs and nothing waits to be told."""
        return self.is_up and not self.runs and not self.disk.outbox

    def is_running(self, key: Key) -> bool:
        """Whether this process accepted the attempt and works on it."""
        return self.is_up and key in self.runs and self.runs[key].is_accepted

    # --- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process: what an earlier one was at is interrupted."""
        if self.is_up:
            return
        self._starts += 1
        self.is_up, self.frozen_until_ms = True, 0
        self._process = f"{self._rng.getrandbits(64):016x}"
        for key in self.disk.started:
            held: Literal["interrupted", "unknown"] = "unknown" if self._rng.random() < 0.2 else "interrupted"
            error = _error(FailureClass.infrastructure, "sidecar_stopped")
            self.disk.outbox[key] = Entry("interrupted", error=error, held_as=held)
        self.disk.started = {}
        self._connect()
        self.later(self._beat_ms, self._heartbeat)
        self._is_delivering = False
        self._has_results()

    def crash(self) -> None:
        """Power or process gone; the disk stays. A supervisor starts it again."""
        if not self.is_up:
            return
        self._line.note("crash", self.name)
        self._line.reach("sidecar_crashed")
        self.is_up, self.runs = False, {}
        self._drop_link("clean" if self._rng.random() < 0.7 else "owner_gone")
        wait_ms = RESTART_MS[0] if self.is_healed else self._rng.choice(RESTART_MS)
        self._line.after(wait_ms, self.start)

    def freeze(self, ms: int) -> None:
        """The process stops and goes on later, believing that no time has passed."""
        self._line.note("freeze", self.name, ms)
        self._line.reach("sidecar_frozen")
        self.frozen_until_ms = self._line.now_ms + ms

    def heal(self) -> None:
        self.is_healed = True
        self.frozen_until_ms = 0
        self.start()

    def later(self, ms: int, act: Act) -> None:
        """Call `act` in `ms` if this process is still there; after the thaw while it is frozen."""
        start = self._starts

        def due() -> None:
            if not self.is_up or self._starts != start:
                return
            if self._line.now_ms < self.frozen_until_ms:
                self._line.at(self.frozen_until_ms, due)
            else:
                act()

        self._line.after(ms, due)

    # --- the connection ---------------------------------------------------------------------------------

    @property
    def _beat_ms(self) -> int:
        return int(self._pace_s * 1000)

    def _connect(self) -> None:
        self._token = b""
        self._link = self._network.connect(self)
        self._heard_ms = self._line.now_ms
        if self._link is None:
            self.later(self._rng.randrange(100, 2000), self._connect)
        else:
            self._hello()

    def _drop_link(self, kind: str) -> None:
        link, self._link, self._token = self._link, None, b""
        if link is not None and link.is_open_here:
            link.cut(kind)

    def broken(self, link: Link) -> None:
        if link is self._link:
            self._link, self._token = None, b""
            self.later(self._rng.randrange(100, 1500), self._reconnect)

    def _reconnect(self) -> None:
        if self._link is None:
            self._connect()

    def _hello(self) -> None:
        self._hellos += 1
        held = [
            m.AttemptHeld(task=k[0], attempt=k[1], state="running")
            for k, r in self.runs.items()
            if r.is_accepted
        ]
        held += [
            m.AttemptHeld(task=k[0], attempt=k[1], state=e.held_as)
            for k, e in self.disk.outbox.items()
            if k not in self.runs
        ]
        offers = tuple(m.AgentOffer(name=name, backends=BACKENDS) for name in self.agents)
        offer = m.HostOffer(
            name=self.name, agents=offers, attempts=tuple(held[: limits.ATTEMPTS_PER_HOST_MAX])
        )
        self._put(m.Hello(protocol=limits.PROTOCOL_VERSION, process=self._process, host=offer))
        self._hello_again_in(HELLO_MS_MAX)

    def _hello_again_in(self, ms: int) -> None:
        link, start = self._link, self._hellos

        def ask() -> None:
            if not self._token and self._link is link and link is not None and self._hellos == start:
                self._hello()

        self.later(ms, ask)

    def _put(self, message: Struct) -> None:
        if self._link is not None and self._link.is_open_here:
            self._link.up(m.encode(message))

    def delivered(self, link: Link, body: bytes) -> None:
        if link is self._link:
            self.later(0, lambda: self._take(link, m.decode_from_hub(body)))

    def _take(self, link: Link, message: m.FromHub) -> None:
        if link is not self._link:
            return
        self._heard_ms = self._line.now_ms
        match message:
            case m.Welcome():
                self._welcomed(message)
            case m.Assign():
                self._assigned(message)
            case m.Cancel():
                self._end((message.task, message.attempt), is_answered=True)
            case m.Beat():
                if message.pace is not None:
                    self._pace_s = message.pace.heartbeat_s
                    self._line.reach("pace_told")
                for one in message.kill:
                    self._end((one.task, one.attempt), is_answered=False)
            case m.ResultAck():
                self.disk.outbox.pop((message.task, message.attempt), None)
            case m.Ping():
                if self._token:
                    self._put(m.Pong(session=self._token, agent=message.agent))
            case m.Error():
                self._refused(message)
            case _:
                pass

    def _welcomed(self, welcome: m.Welcome) -> None:
        self._token, self._pace_s = welcome.session, welcome.heartbeat_s
        for verdict in welcome.verdicts:
            key = (verdict.task, verdict.attempt)
            if verdict.verdict == "kill" and key in self.runs:
                self._end(key, is_answered=False)
        for entry in self.disk.outbox.values():
            entry.due_ms, entry.wait_ms = 0, RESEND_MS
        model = EndpointModel(name=self._settings.models.standard, warm=True)
        probe = EndpointProbe(healthy=True, models=(model,))
        sighting = m.EndpointSighting(kind=EndpointKind.ollama, url=ENDPOINT, probe=probe)
        self._put(m.Endpoints(session=self._token, sightings=(sighting,)))

    def _refused(self, error: m.Error) -> None:
        if error.code == "no_session":
            if self._token:  # one hello, however many messages the hub no longer knew
                self._token = b""
                self._hello()
        elif error.code in ("replaced", "revoked"):
            self.crash()
        elif not self._token and self._link is not None:
            self._hello_again_in(int((error.retry_after_s or 5) * 1000))

    # --- beats and results ------------------------------------------------------------------------------

    def _heartbeat(self) -> None:
        self._beat += 1
        silent_ms = self._line.now_ms - self._heard_ms
        if self._link is not None and silent_ms > 3 * self._beat_ms + 5000:
            self._drop_link("owner_gone" if self._rng.random() < 0.2 else "clean")
            self._connect()
        elif self._token:
            for run in self.runs.values():
                run.progress += not run.is_stuck
            beats = tuple(
                m.AttemptBeat(k[0], k[1], r.progress) for k, r in self.runs.items() if r.is_accepted
            )
            self._put(m.Heartbeat(session=self._token, beat=self._beat, attempts=beats))
            if self._beat % 3 == 0:
                self._sight()
        self.later(self._beat_ms, self._heartbeat)

    def _sight(self) -> None:
        is_healthy = self.is_healed or self._rng.random() < 0.9
        sighting = m.EndpointSighting(
            kind=EndpointKind.ollama, url=ENDPOINT, probe=EndpointProbe(healthy=is_healthy)
        )
        self._put(m.Endpoints(session=self._token, sightings=(sighting,)))

    def _deliver(self) -> None:
        if self._token:
            for key, entry in self.disk.outbox.items():
                if entry.due_ms <= self._line.now_ms:
                    self._send_result(key, entry)
                    entry.due_ms = self._line.now_ms + entry.wait_ms
                    entry.wait_ms = min(2 * entry.wait_ms, RESEND_MS_MAX)
        self._is_delivering = False
        self._has_results()

    def _has_results(self) -> None:
        """Look at the outbox again while there is something in it."""
        if self.disk.outbox and not self._is_delivering:
            self._is_delivering = True
            self.later(DELIVER_EVERY_MS, self._deliver)

    def _send_result(self, key: Key, entry: Entry, times: int = 1) -> None:
        result = m.Result(
            session=self._token,
            task=key[0],
            attempt=key[1],
            outcome=entry.outcome,
            result=entry.result,
            error=entry.error,
        )
        if not self.is_healed and self._rng.random() < 0.15:
            times = 2
            self._line.reach("result_sent_twice")
        for _ in range(times):
            self._put(result)

    # --- attempts ---------------------------------------------------------------------------------------

    def _assigned(self, assign: m.Assign) -> None:
        key = (assign.task, assign.attempt)
        if key in self.runs or key in self.disk.outbox:
            return
        nature = m.decode_spec(bytes(assign.spec)).description.split(" ")[1]
        draw = 0.9 if self.is_healed or self.is_gentle else self._rng.random()
        if draw < (0.7 if nature == "shy" else 0.03):
            self._line.reach("assignment_ignored")
            return
        if draw > 0.97 or any(run.agent == assign.agent for run in self.runs.values()):
            self._decline(assign)
            return
        is_paid = assign.route.backend is Backend.claude
        self.runs[key] = Run(assign.agent, nature, is_paid=is_paid, given_usd=assign.budget_usd)
        self.later(self._rng.choice((1, 5, 30)), lambda: self._accept(key))

    def _decline(self, assign: m.Assign) -> None:
        self._line.reach("assignment_declined")
        if self._token:
            self._put(
                m.Decline(session=self._token, task=assign.task, attempt=assign.attempt, code="agent_busy")
            )

    def _accept(self, key: Key) -> None:
        run = self.runs.get(key)
        if run is None:
            return
        self.disk.started[key] = run.nature
        run.is_accepted = True
        if self._token:
            self._put(m.Accept(session=self._token, task=key[0], attempt=key[1]))
        run.is_stuck = (
            run.nature == "stuck" and not (self.is_healed or self.is_gentle) and self._rng.random() < 0.6
        )
        if run.is_stuck:
            self._line.reach("worker_got_stuck")
            return  # it beats, and gets nowhere until somebody ends it
        draw = self._rng.random()
        ms = self._rng.randrange(50, WORK_MS_MAX if self.is_healed or draw < 0.95 else HANG_MS_MAX)
        self.later(ms, lambda: self._work_ended(key))

    def _work_ended(self, key: Key) -> None:
        run = self.runs.get(key)
        if run is None:
            return
        if run.nature == "poison":
            self._line.reach("poison_killed_its_sidecar")
            self.crash()
            return
        self._finish(key, self._billed(run, self._entry(run.nature)))

    def _billed(self, run: Run, entry: Entry) -> Entry:
        """With what a paid attempt has cost; that of a failed one is not always told."""
        purse = self.purse
        if purse is None or not run.is_paid or not (entry.result or purse.says()):
            return entry
        cost_usd = purse.spent_usd(run.given_usd)
        result = entry.result or TaskResult(status=ResultStatus.partial_pass, backend=Backend.claude, model="none")
        return replace(entry, result=msgspec.structs.replace(result, cost_usd=cost_usd))

    def _entry(self, nature: str) -> Entry:
        """What a task of this nature comes to; what is not the task's own fault ends with the faults."""
        draw = self._rng.random()
        if nature == "bad":
            return Entry("failed", error=_error(FailureClass.task_error, "exit_code"))
        if nature in ERRORS and not self.is_healed and draw < 0.8:
            return Entry("failed", error=_error(ERRORS[nature], nature, self._rng.choice((None, 5.0, 90.0))))
        if nature == "flaky" and draw < 0.5 and not self.is_healed:
            return Entry("failed", error=_error(FailureClass.task_error, "flaky") if draw < 0.4 else None)
        result = TaskResult(status=ResultStatus.unchecked, backend=Backend.shell, model="none", output=nature)
        return Entry("completed", result=result)

    def _finish(self, key: Key, entry: Entry) -> None:
        self.disk.outbox.setdefault(key, entry)
        self._has_results()
        self.disk.started.pop(key, None)
        self.runs.pop(key, None)
        if self._token:
            self._send_result(key, entry)
            entry.due_ms = self._line.now_ms + entry.wait_ms

    def _end(self, key: Key, *, is_answered: bool) -> None:
        """Kill an attempt; one that is not here is dead already, and the hub hears so if it waits for it."""
        if key in self.runs and self.runs[key].is_accepted:
            self.later(self._rng.choice((1, 500, 2500)), lambda: self._killed(key))
        elif key in self.disk.outbox:
            self.disk.outbox[key].due_ms = 0
        elif is_answered and key not in self.runs:
            self.disk.outbox[key] = Entry("cancelled")
            self._has_results()

    def _killed(self, key: Key) -> None:
        if key in self.runs:
            self._finish(key, Entry("cancelled"))

    # --- what breaks the protocol -----------------------------------------------------------------------

    def lie(self, tasks: int) -> None:
        """Say something about an attempt that is not this host's, or nothing that makes sense."""
        if not self.is_up or self._line.now_ms < self.frozen_until_ms or self._link is None or not tasks:
            return
        token = self._rng.choice((self._token or b"\0" * 16, b"x" * 16))
        task, attempt = self._rng.randrange(1, tasks + 2), self._rng.randrange(4)
        own = self._rng.choice(list(self.runs)) if self.runs else (task, attempt)
        if own in self.runs and self._rng.random() < 0.5:
            task, attempt = own[0], own[1] + self._rng.choice((-1, 1))
        result = TaskResult(
            status=ResultStatus.unchecked, backend=Backend.shell, model="none", output="a lie", cost_usd=0.01
        )
        self._line.reach("sidecar_lied")
        message = self._rng.choice(
            (
                m.Result(
                    session=token, task=task, attempt=max(0, attempt), outcome="completed", result=result
                ),
                m.Result(session=token, task=task, attempt=max(0, attempt), outcome="completed"),
                m.Heartbeat(session=token, beat=0, attempts=(m.AttemptBeat(task, max(0, attempt), 1),)),
                m.Accept(session=token, task=task, attempt=max(0, attempt)),
                m.Decline(session=token, task=task, attempt=max(0, attempt), code="a lie"),
            )
        )
        body = m.encode(message)
        self._link.up(body if self._rng.random() < 0.8 else body[: self._rng.randrange(len(body))] + b"\xc1")


def _error(kind: FailureClass, code: str, retry_after_s: float | None = None) -> TaskError:
    return TaskError(failure_class=kind, code=code, message=f"simulated {code}", retry_after_s=retry_after_s)
