"""The sidecar daemon: one per host and home. Takes assignments, runs them, delivers their results.

Order at start: lock, key, what is left of an earlier process (killed, noted as interrupted), connection,
hello, heartbeats, and only then repositories. Rules it keeps:
* An attempt is on disk before the hub hears `accept`; its result is on disk before the hub hears that.
* An agent works on one attempt; it is free when everything that the attempt started is dead.
* Nothing here blocks the loop: disk, kills and samples are done in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import os
import secrets
import shutil
import signal
import time
from collections.abc import Awaitable, Coroutine, Iterator
from datetime import datetime
from functools import partial
from typing import IO, Any

from agentcom import lifeline, limits, logs, messages
from agentcom.auth import SIGNING_KEY, HubAddress, KeyPair, load_key, read_hub_address, ready_line
from agentcom.config import Home, Settings
from agentcom.errors import AgentComError, ConfigError, Refused
from agentcom.facts import overruled
from agentcom.messages import Assign, AttemptBeat, AttemptHeld, Beat, Cancel, HostOffer, ResultAck, Welcome
from agentcom.model import FailureClass, Resources, TaskError, TaskSpec
from agentcom.redaction import redact_text
from agentcom_sidecar import agents, capabilities, cleanup, guards, isolation, policy, quiet, spares, verify
from agentcom_sidecar.attempts import Attempts, Leftover
from agentcom_sidecar.endpoints import EndpointWatch
from agentcom_sidecar.git import WorkspaceError
from agentcom_sidecar.loader import ModelLoader
from agentcom_sidecar.outbox import Entry, Key, Outbox, Sign
from agentcom_sidecar.programs import catalogue
from agentcom_sidecar.questions import QUESTION, questions_of
from agentcom_sidecar.resources import ResourceProbe
from agentcom_sidecar.runs import Run
from agentcom_sidecar.sandbox import isolation_of, kill_stale
from agentcom_sidecar.session import Offers, Session, SessionEnded
from agentcom_sidecar.signer import Signer
from agentcom_sidecar.spare_keeper import SpareKeeper
from agentcom_sidecar.tree_report import TreeReport
from agentcom_sidecar.work import Execute, Outcome, Work
from agentcom_sidecar.workspace import CLONES

EXECUTION = "agentcom_sidecar.execution"  # imported late: with all backends it takes seconds
SEND_AT_ONCE = 16  # results per round, so that heartbeats get between large ones
SEND_ROUND_S = 0.25
LOG_ROUND_S = 0.25
SAMPLES_PER_REPORT = 1.25  # so that each report has a sample of its own
SAMPLE_OLD_REPORTS = 2  # a sample this old is told no more: what it comes from hangs
SWEEP_EVERY_S = 3600.0
FULL_ROUND_S = 30.0  # between two looks of a host over its quota: somebody may have made room
DISK_RETRY_S = 5.0
STOP_S_MAX = 2.2  # for running attempts to end, of the three seconds that a stop may take
STOP_GRACE_S = 0.9
END_S_MAX = 0.5  # for the daemon's own parts to end, after that
FAREWELL_S = 0.4  # for the hub to acknowledge what was interrupted


class Daemon:
    """One host's agents. `run` returns the exit status."""

    def __init__(self, home: Home, settings: Settings, key: KeyPair, execute: Execute) -> None:
        self.home, self.settings = home, settings
        self.attempts = Attempts(home.sidecar / "attempts")
        self.outbox = Outbox(home.sidecar / "outbox")
        self.questions = questions_of(home.sidecar)
        self.asked: set[Key] = set()  # the attempts whose questions are kept
        self.runs: dict[Key, Run] = {}
        self._execute = execute
        self._log = logs.get()
        self._name = agents.host_name(settings)
        self._signer = Signer(home.keys / SIGNING_KEY)
        self._agents = agents.agent_names(home, settings.sidecar.agents)
        self._hub_names: dict[str, str] = {}
        self._carriers: set[asyncio.Task[None]] = set()
        self._probe = ResourceProbe(home.sidecar)
        self._sample: Resources | None = None
        self._sampled_at = 0.0
        self._tools = capabilities.Tools(programs=catalogue.offered(settings.programs))
        self._told = Offers()  # what the hub knows of: see `new_offers`
        self._program_faults: tuple[str, ...] = ()
        self._overruled: tuple[str, ...] = ()  # what was declared of this machine, and is not so
        self._faults: dict[str, str] = {}  # that the log has told
        self._stop = asyncio.Event()
        self._is_broken = False
        self._full = ""
        self._attempt_ended = asyncio.Event()
        self._result_waiting = asyncio.Event()
        self._welcome: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self.session = Session(
            self,
            key=key,
            address=self._address,
            process=secrets.token_hex(16),
            heartbeat_s=settings.queue.heartbeat_s,
            lease_s=settings.queue.lease_s,
            resources_s=settings.sidecar.resources_s,
        )
        self._watch = EndpointWatch(settings.endpoints, self.session.send)
        self._loader = ModelLoader(settings, self.session.send, self._watch.loaded)
        self._trees = TreeReport(
            home, settings, lambda: cleanup.in_use({*self.runs, *self.asked}), self.session.send
        )
        self._spares = SpareKeeper(home, settings, lambda: not all(run.is_placed for run in self.runs.values()))

    async def run(self) -> int:
        """Serves until a signal; status 4 when the hub refuses this process for good, 1 after a fault of ours."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        await self._recover()
        verify.PLUGGED.start()
        await asyncio.gather(
            self._take_sample(),
            asyncio.to_thread(self._tools.list),
            asyncio.to_thread(self._look_at_programs),
            asyncio.to_thread(verify.PLUGGED.wait),
        )
        await self._try_isolation()
        parts = (
            self.session.run(),
            self._stop.wait(),
            self._deliver(),
            self._stream_logs(),
            self._keep_sampling(),
            self._keep_looking(),
            self._watch.run(),
            self._watch.answer(),
            self._loader.run(),
            self._keep_sweeping(),
            self._tell_trees(),
            self._keep_spares(),
            self._announce(),
        )
        tasks = [asyncio.create_task(_as_task(part)) for part in parts]
        try:
            status = await self._until_over(tasks)
            await self._wind_up()
        finally:
            for task in tasks:
                task.cancel()
            _, left = await asyncio.wait(tasks, timeout=END_S_MAX)
            if left:
                self._log.error("parts_not_ended", parts=len(left))
                self._leave_at_once()
        return status

    def _on_signal(self) -> None:
        """The first signal stops in order; a second one leaves at once: what ran is killed by its guards, and
        told at the next start."""
        if self._stop.is_set():
            self._leave_at_once()
        self._stop.set()

    @staticmethod
    def _leave_at_once() -> None:
        os._exit(1)

    async def _until_over(self, tasks: list[asyncio.Task[None]]) -> int:
        announcing = tasks[-1]
        pending = set(tasks)
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if isinstance(error, SessionEnded):
                    logs.say(f"agentcom sidecar: {error.message}")
                    return 4
                if error is not None:
                    raise error
            if done - {announcing}:
                return 1 if self._is_broken else 0

    # --- start ------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Kills what an earlier process left behind, then notes its attempts as interrupted."""
        await asyncio.to_thread(self.outbox.load)
        leftovers = await asyncio.to_thread(self.attempts.leftovers)
        marks = [mark for each in leftovers for mark in each.marks]
        killed = await asyncio.to_thread(kill_stale, marks)
        if leftovers:
            self._log.warning("attempts_interrupted", attempts=len(leftovers), killed=killed)
        for each in leftovers:
            await asyncio.to_thread(self.outbox.put, _interrupted(each))
            self.attempts.remove(each.key)
        self.asked.update(await asyncio.to_thread(self.questions.keys))
        for folder in ("scratch", CLONES):
            await asyncio.to_thread(shutil.rmtree, self.home.sidecar / folder, ignore_errors=True)
        spares.begin(self.home, self.settings.sidecar.spare_worktrees)

    async def _try_isolation(self) -> None:
        """Before the hub hears what this host can do."""
        found = await isolation_of(self.settings.sandbox.mode)
        say = self._log.info if found.holds else self._log.warning
        say("sandbox_probed", sandbox=found.name, reason=found.reason, remedy=found.remedy, guard=guards.kind())

    def _address(self) -> HubAddress | None:
        try:
            return read_hub_address(self.home)
        except ConfigError as error:
            self._log.error("hub_address_unreadable", reason=error.message)
            return None

    async def _announce(self) -> None:
        welcome = await self._welcome
        names = [welcome.names.get(name, name) for name in self._agents]
        print(ready_line(host=welcome.name, agents=names, pid=os.getpid()), flush=True)
        if self._execute is _default_execute:
            await asyncio.to_thread(
                importlib.import_module, EXECUTION
            )  # seconds: not within the first attempt

    # --- what the session asks ----------------------------------------------------------------------------

    def offer(self) -> HostOffer:
        usable = agents.backends(self.settings)
        own = self.settings.sidecar.capabilities
        offers = tuple(
            messages.AgentOffer(name=name, backends=usable, capabilities=own[: limits.CAPABILITIES_MAX])
            for name in self._agents
        )
        held = [
            AttemptHeld(task=k[0], attempt=k[1], state="running", agent=self._local(self.runs[k]))
            for k in self._accepted()
        ]
        isolated_by = isolation.known(self.settings.sandbox.mode)
        held += [
            AttemptHeld(task=each.task, attempt=each.attempt, state=each.held_as)
            for each in self.outbox
            if each.key not in self.runs
        ]
        held += [AttemptHeld(task=k[0], attempt=k[1], state="asked") for k in sorted(self.asked)]
        self._told = self._offers()
        return HostOffer(
            name=self._name,
            agents=offers,
            capabilities=self._told.capabilities,
            check_faults=self._told.check_faults,
            program_faults=self._told.program_faults,
            attempts=tuple(held[: limits.ATTEMPTS_PER_HOST_MAX]),
            resources=self.resources(),
            quiet_until_ms=self.quiet_until_ms(),
            no_room=self.no_room()[: limits.REASON_CHARS_MAX],
            preferred=self.settings.sidecar.preferred,
            sandbox=isolated_by.name,
            sandbox_note=isolated_by.note[: limits.REASON_CHARS_MAX],
            account=agents.account(self.settings),
            preloads=policy.may_preload(self.settings),
            signing_key=self._signer.key,
        )

    def quiet_until_ms(self) -> int:
        """When the quiet hours of this machine end, by its clock and its zone; 0 while there are none."""
        return quiet.until_ms(self.settings.sidecar.quiet_hours, datetime.now().astimezone())

    def _local(self, run: Run) -> str:
        """The local name of the agent that it runs on."""
        return self._hub_names.get(run.assign.agent, run.assign.agent)

    def beats(self) -> tuple[AttemptBeat, ...]:
        return tuple(self.runs[key].beat for key in self._accepted())

    def _accepted(self) -> list[Key]:
        """The attempts that lie on disk: to list an attempt is to accept it."""
        return [key for key, run in self.runs.items() if run.is_accepted]

    def resources(self) -> Resources | None:
        """None when the last sample is old: what the host cannot find out the hub must not take for new."""
        age_s = time.monotonic() - self._sampled_at
        return self._sample if age_s <= SAMPLE_OLD_REPORTS * self.settings.sidecar.resources_s else None

    def new_offers(self) -> Offers | None:
        """None while the hub knows them."""
        found = self._offers()
        if found == self._told:
            return None
        self._told = found
        return found

    def _offers(self) -> Offers:
        return Offers(self._capabilities(), verify.PLUGGED.lines(), self._program_faults)

    def _capabilities(self) -> tuple[str, ...]:
        declared, found = self.settings.sidecar.capabilities, capabilities.found_on(self._sample)
        wrong = overruled(declared, (*found, *self._tools.known))
        if wrong != self._overruled:
            self._overruled = wrong
            if wrong:
                self._log.warning("capabilities_overruled", setting="sidecar.capabilities", not_found=list(wrong))
        return capabilities.offered(declared, (*found, *verify.PLUGGED.capabilities()), self._tools.known)

    def welcomed(self, welcome: Welcome) -> None:
        self._trees.hurry()
        self._hub_names = {hub_wide: local for local, hub_wide in welcome.names.items()}
        for verdict in welcome.verdicts:
            run = self.runs.get((verdict.task, verdict.attempt))
            if verdict.verdict == "kill" and run is not None:
                run.end("cancelled", "the hub no longer leases it to this host")
            elif verdict.verdict == "kill" and (verdict.task, verdict.attempt) in self.asked:
                self._forget((verdict.task, verdict.attempt))
        self._watch.ask(welcome.probe, welcome.kinds, welcome.probe_every_s)
        self._watch.hurry()
        self.outbox.hurry()
        self._result_waiting.set()
        self._log.info("hub_welcomed", hub=welcome.software, name=welcome.name, running=len(self.runs))
        if not self._welcome.done():
            self._welcome.set_result(welcome)

    def received(self, message: Assign | Cancel | ResultAck | Beat | messages.Preload) -> None:
        match message:
            case Assign():
                self._assigned(message)
            case Cancel():
                self._end((message.task, message.attempt), message.reason or "cancelled", is_answered=True)
            case Beat():
                for each in message.kill:
                    self._end((each.task, each.attempt), "no longer leased", is_answered=False)
                every_s = message.pace.probe_every_s if message.pace else None
                self._watch.ask(message.probe, message.kinds, every_s)
                self._watch.ask_models(message.asks)
            case messages.Preload():
                self._loader.load(message)
            case ResultAck():
                self._log.info(
                    "result_acknowledged", task=message.task, attempt=message.attempt, verdict=message.verdict
                )
                self.outbox.acknowledge(message.task, message.attempt)

    # --- assignments --------------------------------------------------------------------------------------

    def _assigned(self, assign: Assign) -> None:
        key = (assign.task, assign.attempt)
        if key in self.runs:
            return  # a repeat: its accept has gone, or goes when it is on disk
        if key in self.outbox:
            self._hurry(key)
            return
        try:
            spec = messages.decode_spec(bytes(assign.spec))
        except Refused as error:
            self._decline(assign, "invalid_task", f"this host cannot read the task: {error}", is_ours=False)
            return
        agent = self._hub_names.get(assign.agent, assign.agent)
        if agent not in self._agents:
            self._decline(assign, "unknown_agent", f"no agent {assign.agent!r} here")
        elif self._stop.is_set():
            self._decline(assign, "stopping", "this sidecar is stopping")
        elif any(
            self._hub_names.get(run.assign.agent, run.assign.agent) == agent for run in self.runs.values()
        ):
            self._decline(assign, "agent_busy", f"{assign.agent} works on another attempt")
        elif self._full:
            self._decline(assign, "disk_quota", self._full)
        elif why := policy.refusal_of(assign, spec, self.settings.policy):
            self._decline(assign, "policy_refused", why)
        else:
            run = self._run_of(assign, spec)
            self.runs[key] = run
            self._start(self._carry(run))

    def _run_of(self, assign: Assign, spec: TaskSpec) -> Run:
        key = (assign.task, assign.attempt)
        return Run(
            assign,
            spec,
            home=self.home,
            settings=self.settings,
            session=self.session,
            execute=self._execute,
            on_process=lambda mark: self.attempts.mark(key, mark),
            sign=partial(self._signer.signed, task=key[0], attempt=key[1], host=assign.route.host),
            on_place=self._spares.handed_out,
        )

    def _decline(self, assign: Assign, code: str, message: str, *, is_ours: bool = True) -> None:
        self._log.warning("assignment_declined", task=assign.task, attempt=assign.attempt, code=code)
        failure = FailureClass.infrastructure if is_ours else FailureClass.configuration
        self.session.send(
            lambda token: messages.Decline(
                session=token,
                task=assign.task,
                attempt=assign.attempt,
                failure_class=failure,
                code=code,
                message=redact_text(message)[: limits.REASON_CHARS_MAX],
            )
        )

    async def _carry(self, run: Run) -> None:
        """An attempt from the disk to the outbox."""
        task, attempt = run.key
        try:
            await asyncio.to_thread(self.attempts.add, run.assign)
        except OSError as error:
            self.runs.pop(run.key)
            self._decline(run.assign, "disk_failed", f"the attempt cannot be written down: {error}")
            return
        run.is_accepted = True
        self.session.send(lambda token: messages.Accept(session=token, task=task, attempt=attempt))
        self._log.info("attempt_started", task=task, attempt=attempt, agent=run.assign.agent)
        outcome = await run.outcome()
        run.log.close()
        self._log.info("attempt_ended", task=task, attempt=attempt, outcome=outcome.outcome)
        if outcome.error is not None and outcome.error.code == QUESTION:
            self.asked.add(run.key)
        await self._keep(
            Entry(
                task=task,
                attempt=attempt,
                outcome=outcome.outcome,
                result=outcome.result,
                error=outcome.error,
            ),
            run.sign,
        )
        self.attempts.remove(run.key)
        self.runs.pop(run.key)
        if run.assign.resume:
            self._forget((task, run.assign.resume))
        self._hurry(run.key)
        self._attempt_ended.set()
        self._spares.hurry()
        if not self.runs:
            self._trees.hurry()

    def _forget(self, key: Key) -> None:
        """The question of that attempt is over; its worktree goes with its keep time."""
        self.asked.discard(key)
        self.questions.remove(key)

    async def _keep(self, entry: Entry, sign: Sign | None = None) -> None:
        """Into the outbox, however long the disk takes to have room again: nothing is reported before."""
        while True:
            try:
                await asyncio.to_thread(self.outbox.put, entry, sign)
                return
            except OSError as error:
                self._log.error(
                    "result_not_written", task=entry.task, attempt=entry.attempt, reason=str(error)
                )
                await asyncio.sleep(DISK_RETRY_S)

    def _end(self, key: Key, reason: str, *, is_answered: bool) -> None:
        """Kills an attempt. One that is not here is dead already; `is_answered`: the hub waits to hear so."""
        run = self.runs.get(key)
        if run is not None:
            self._log.info("attempt_cancelled", task=key[0], attempt=key[1], reason=reason)
            run.end("cancelled", reason)
        elif key in self.asked:
            self._forget(key)
        elif key in self.outbox:
            self._hurry(key)
        elif is_answered:
            self._start(self._answer_cancelled(key))

    async def _answer_cancelled(self, key: Key) -> None:
        await self._keep(Entry(task=key[0], attempt=key[1], outcome="cancelled"))
        self._hurry(key)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._carriers.add(task)
        task.add_done_callback(self._carried)

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._carriers.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._is_broken = True
            self._stop.set()  # ours, and unknown: a restart recovers from what is on disk
            self._log.error("attempt_not_carried", exc_info=task.exception())

    # --- in the background --------------------------------------------------------------------------------

    def _hurry(self, key: Key) -> None:
        self.outbox.hurry(key)
        self._result_waiting.set()

    async def _deliver(self) -> None:
        """Sends results until each is acknowledged."""
        while True:
            self._result_waiting.clear()
            if self.session.is_open:
                for entry in self.outbox.due(SEND_AT_ONCE):
                    self.session.send(entry.message)
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the event, and this loop
            # would go on for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEND_ROUND_S):
                    await self._result_waiting.wait()

    async def _stream_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_ROUND_S)
            for run in self.runs.values():
                run.log.flush()

    async def _keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(self.settings.sidecar.resources_s / SAMPLES_PER_REPORT)
            await self._take_sample()

    async def _take_sample(self) -> None:
        self._sample = await asyncio.to_thread(self._probe.sample)
        self._sampled_at = time.monotonic()
        self._tell_faults("figure_not_read", self._probe.faults)

    def _tell_faults(self, event: str, faults: dict[str, str]) -> None:
        """Each reason once."""
        for name, reason in faults.items():
            if self._faults.get(f"{event} {name}") != reason:
                self._faults[f"{event} {name}"] = reason
                self._log.info(event, name=name, reason=reason)

    def _look_at_programs(self) -> None:
        self._program_faults = catalogue.faults(self.settings.programs, self._tools.faults)

    async def _keep_looking(self) -> None:
        """Which tools there are; a new or updated one is offered at the next heartbeat."""
        await self._welcome
        while True:
            await self._tools.look()
            await asyncio.to_thread(self._look_at_programs)
            self._tell_faults("tool_not_offered", self._tools.faults)
            every_s = self.settings.sidecar.tools_s
            await (asyncio.sleep(every_s) if every_s else self._stop.wait())

    async def _keep_sweeping(self) -> None:
        await self._welcome
        while True:
            try:
                swept = await cleanup.sweep(self.home, self.settings, cleanup.in_use({*self.runs, *self.asked}))
                self._log.debug("workspaces_swept", removed=swept.removed)
                self._be_full(swept.full)
            except (OSError, WorkspaceError) as error:
                self._log.warning("workspaces_not_swept", reason=str(error))
            await self._until_a_sweep()

    async def _tell_trees(self) -> None:
        await self._welcome
        await self._trees.run()

    async def _keep_spares(self) -> None:
        await self._welcome
        await self._spares.run()

    async def _until_a_sweep(self) -> None:
        """An hour; where there is a quota until an attempt has left it behind, or what was too much may be less."""
        until = time.monotonic() + SWEEP_EVERY_S
        while time.monotonic() < until:
            self._attempt_ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FULL_ROUND_S if self._full else SWEEP_EVERY_S):
                    await self._attempt_ended.wait()
            if self._full or await cleanup.is_full(self.home, self.settings):
                return

    def _be_full(self, why: str) -> None:
        if bool(why) is not bool(self._full):
            self._log.warning("host_full" if why else "host_has_room", reason=why)
        self._full = why

    def no_room(self) -> str:
        """Why this host takes no new attempts; empty when it does."""
        return self._full

    # --- the end ------------------------------------------------------------------------------------------

    async def _wind_up(self) -> None:
        """Ends what runs and tells the hub, within the bounds above; the rest is told at the next start."""
        self._stop.set()
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + STOP_S_MAX
        carriers = set(self._carriers)
        if carriers:
            self._end_all()
            _, left = await asyncio.wait(carriers, timeout=STOP_GRACE_S)
            if left:
                self._end_all()
                await asyncio.wait(left, timeout=max(0.0, give_up_at - loop.time() - FAREWELL_S))
        farewell_at = min(give_up_at, loop.time() + FAREWELL_S)
        while self.session.is_open and len(self.outbox) and loop.time() < farewell_at:
            await asyncio.sleep(0.02)
        self.session.send(lambda token: messages.Bye(session=token))
        for task in self._carriers:
            task.cancel()  # its record stays: the next start reports it interrupted

    def _end_all(self) -> None:
        for run in list(self.runs.values()):
            run.end("interrupted", "the sidecar was stopped")


def _interrupted(left: Leftover) -> Entry:
    is_known = left.assign is not None
    error = TaskError(
        failure_class=FailureClass.infrastructure,
        code="sidecar_restarted" if is_known else "record_damaged",
        message="the sidecar ended while the attempt ran; everything that it had started was killed",
    )
    return Entry(
        task=left.key[0],
        attempt=left.key[1],
        outcome="interrupted",
        error=error,
        held_as="interrupted" if is_known else "unknown",
    )


async def _as_task(part: Awaitable[Any]) -> None:
    await part


@contextlib.contextmanager
def locked(home: Home) -> Iterator[None]:
    """Holds home.sidecar/lock, or raises ConfigError that names the process which does."""
    file: IO[str]
    with (home.sidecar / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            raise ConfigError(
                f"a sidecar already runs on {home.path} (process {owner}); stop it, or set AGENTCOM_HOME"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _host_key(home: Home) -> KeyPair:
    if not (home.keys / "host.key").exists() or read_hub_address(home) is None:
        raise ConfigError(
            f"{home.path} has not joined a hub: run `agentcom join CODE` with a code from "
            "`agentcom host invite` on the hub's machine"
        )
    return load_key(home.keys / "host.key")


async def _default_execute(work: Work) -> Outcome:
    execution = await asyncio.to_thread(importlib.import_module, EXECUTION)
    outcome: Outcome = await execution.execute(work)
    return outcome


async def serve(home: Home, settings: Settings, key: KeyPair, execute: Execute = _default_execute) -> int:
    """Runs the daemon in this loop; the exit status. The caller holds the lock of `home`."""
    return await Daemon(home, settings, key, execute).run()


def main(home: Home, settings: Settings, execute: Execute = _default_execute) -> int:
    """The daemon until it is stopped; the exit status. Raises ConfigError with the remedy."""
    logs.configure("sidecar", settings.log.level)
    lifeline.follow_parent()
    home.prepare()
    with locked(home):
        key = _host_key(home)
        try:
            return asyncio.run(serve(home, settings, key, execute))
        except ConfigError:
            raise
        except AgentComError as error:
            logs.say(f"agentcom sidecar: {error.message}")
            return 1
