"""Kinds of checks from other packages on this host: entry points of the group `agentcom.checks`.

A plugin is code that this host's owner has installed; it runs in the sidecar's process. Rules kept here:
* None of them ends or holds up the sidecar: each is imported in a thread of its own, and one that is late is offered
  when it is there.
* Of two with one name neither is used, and none takes the name of a kind that every host has.
* What a check gives back is bounded and about what was asked, whatever the plugin says; one that does not end in time
  is given up.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from agentcom import limits, logs
from agentcom.errors import AgentComError
from agentcom.model import CheckKind, CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.verify.report import report
from agentcom_sidecar.work import Work

GROUP: Final = "agentcom.checks"
PREFIX: Final = "check:"  # of the capability that the hub knows a kind by
FIRST_LOOK_S: Final = 3.0  # how long the sidecar's start waits for imports; what is later is told by a heartbeat
END_S: Final = 5.0  # for a check that was told to end
_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,39}")

Check = Callable[[CheckSpec, Work], Awaitable[CheckReport] | CheckReport]


class PluginFailed(AgentComError):
    """A plugin did not do what it must; the message names it."""


@dataclass(slots=True)
class Plugins:
    """What was found: checks by their kind, and for each that cannot be used why. Filled by threads."""

    checks: dict[str, Check] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # the package and version of each kind
    pending: dict[str, float] = field(default_factory=dict)  # since when the import has been going on
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, found: Iterable[EntryPoint] | None = None) -> None:
        """Begin to import all of them; those that are refused by name are known at once."""
        by_name: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=GROUP) if found is None else found:
            by_name.setdefault(point.name, []).append(point)
        for name, points in sorted(by_name.items()):
            self.origins[name] = _origin(points[0])
            fault = _fault(name, points)
            if fault:
                self.faults[name] = fault
                continue
            self.pending[name] = time.monotonic()
            thread = threading.Thread(target=self._load, args=(points[0],), name=f"check {name}", daemon=True)
            self.threads.append(thread)
            thread.start()

    def wait(self, seconds: float = FIRST_LOOK_S) -> None:
        """Until all imports have ended, or so long. Blocks."""
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def capabilities(self) -> tuple[str, ...]:
        return tuple(f"{PREFIX}{name}" for name in sorted(dict(self.checks)))

    def lines(self) -> tuple[str, ...]:
        """Those that cannot be used, a line each with the reason."""
        told = {**dict(self.faults), **dict.fromkeys(dict(self.pending), "its import has not ended yet")}
        lines = (f"{name} ({self.origins[name]}): {told[name]}" for name in sorted(told))
        return tuple(line[: limits.REASON_CHARS_MAX] for line in lines)[: limits.CHECK_FAULTS_MAX]

    def _load(self, point: EntryPoint) -> None:
        try:
            check = point.load()
            if not callable(check):
                raise PluginFailed(f"{point.value} is no function")
        except BaseException as error:  # also SystemExit: an import must not end the thread without a word
            self.faults[point.name] = f"{point.value} cannot be imported: {_said(error)}"
            logs.get().warning("check_plugin_refused", kind=point.name, reason=self.faults[point.name])
        else:
            self.checks[point.name] = check
        finally:
            self.pending.pop(point.name, None)


def _fault(name: str, points: list[EntryPoint]) -> str:
    """Why a name cannot be used, whatever is behind it; empty for nothing."""
    if name in frozenset(CheckKind):
        return "a kind of this name is built in; the plugin needs another name"
    if not _NAME.fullmatch(name):
        return "a name is lower-case letters, digits, '_', '.' and '-', 40 at most, a letter first"
    if len(points) > 1:
        packages = " and ".join(sorted(_origin(point) for point in points))
        return f"two plugins have this name, of {packages}, and neither is used; remove one"
    return ""


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown package"


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


async def run(check: Check, spec: CheckSpec, work: Work, timeout_s: float) -> CheckReport:
    """The plugin's report. Raises TimeoutError when it does not end in time, PluginFailed when it fails or gives back
    something else. Plain functions run in a thread: one that does not end is left to itself."""
    task = asyncio.ensure_future(_called(check, spec, work))
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            raise TimeoutError
        return _bounded(task.result(), spec)
    finally:
        if not task.done():
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            task.cancel()
            await asyncio.wait({task}, timeout=END_S)


async def _called(check: Check, spec: CheckSpec, work: Work) -> Any:
    try:
        if inspect.iscoroutinefunction(check):
            return await check(spec, work)
        answer: Any = await _in_thread(lambda: check(spec, work))
        return await answer if inspect.isawaitable(answer) else answer
    except AgentComError:
        raise
    except (SystemExit, KeyboardInterrupt, Exception) as error:  # from a task the first two would end the sidecar
        raise PluginFailed(f"the plugin failed: {_said(error)}") from error


async def _in_thread(call: Callable[[], Any]) -> Any:
    """What `call` gives. The thread is a daemon's: one that hangs holds up nobody, not even the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error is not None else future.set_result(value)

    def body() -> None:
        try:
            value, error = call(), None
        except BaseException as raised:
            value, error = None, raised if isinstance(raised, Exception) else PluginFailed(_said(raised))
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any longer

    threading.Thread(target=body, daemon=True).start()
    return await future


def _bounded(answer: Any, spec: CheckSpec) -> CheckReport:
    """The plugin's answer as a report on this check: its status and its output, no more."""
    if not isinstance(answer, CheckReport) or not isinstance(answer.output, str):
        raise PluginFailed(f"the plugin gave back {type(answer).__name__} where a report is due")
    try:
        status = CheckStatus(answer.status)
    except ValueError as error:
        raise PluginFailed(f"the plugin's report has the status {str(answer.status)[:40]!r}") from error
    return report(spec, status, answer.output.encode("utf-8", "replace").decode(), 0)
