"""The hub as a process: open the store of a home, serve until a signal, close in order.

What the start did to the store goes to the log and into the ready line. After a kill the core is loaded while a child
still checks the store; where the check then finds something amiss, the process starts anew, the check first. So it does
where it meets a damaged record that it cannot go on without: the start restores it. Exit status 1 when the disk failed:
nothing more is acknowledged then, and the supervisor starts again from what is on disk.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from agentcom import __version__, auth, compiled, lifeline, logs, sched
from agentcom.broker import Broker
from agentcom.clock import SystemClock
from agentcom.config import Home, Settings
from agentcom.errors import AgentComError, StoreDamaged
from agentcom.store.start import CheckFailed, OpenedStore, StartReport, StorePaths, open_store
from agentcom.upkeep import Upkeep

GC_ALLOCATIONS = 50_000  # between two looks of the collector at young objects
CHECK_FIRST = "AGENTCOM_CHECK_FIRST"  # in the environment of a start after one whose check has failed beside it
DAMAGED_AT = "AGENTCOM_DAMAGED_AT"  # there, too: monotonic seconds when the run before met a damaged record
ANEW_EVERY_S = 600.0  # what is damaged again so soon is not the store alone


def opened(home: Home, settings: Settings) -> OpenedStore:
    """The home's store, checked, repaired and brought up to its journal; what was done goes to the log. Where the check
    still goes on (`is_confirmed`), that is for who waits for it."""
    log = logs.get()
    made = open_store(
        StorePaths.of_home(home.path, settings.backups.folder),
        map_bytes=settings.hub.map_bytes,
        progress=lambda done, of: log.info("store_check_progress", rows=done, of=of),
        tell=lambda text: log.warning("store_start", text=text),
        may_go_ahead=not os.environ.pop(CHECK_FIRST, ""),
    )
    if made.is_confirmed:
        _log_opened(made)
    return made


def _log_opened(made: OpenedStore) -> None:
    log, report = logs.get(), made.report
    for note in report.notes:
        log.warning("store_start", text=note)
    for doubt in made.doubts.found:
        log.error("store_uncertain", text=doubt.text, found=doubt.at)
    log.info("store_opened", **_start_summary(report))


def _start_summary(report: StartReport) -> dict[str, object]:
    """What opening did, for the log and the ready line."""
    return {
        "how": report.how,
        "sequence": report.sequence,
        "applied": report.applied,
        "uncertain": len(report.uncertain),
        "duration_ms": report.duration_ms,
    }


def main(home: Home, settings: Settings) -> int:
    """Run a hub on `home` until SIGTERM or SIGINT. Returns the exit status."""
    lifeline.follow_parent()
    logs.configure("hub", settings.log.level)
    gc.disable()  # or the collector walks all that is being loaded, a sixth of a start with many tasks
    try:
        store = opened(home, settings)
    except CheckFailed as error:
        _start_anew(error)
    try:
        broker = _loaded(home, settings, store)
    except StoreDamaged as error:
        _start_anew_unless_it_was(error)
        raise
    broker.notice("hub", "hub_started", version=__version__, store=store.report.how)
    _stop_on_signals(broker)
    _tell_ready(home, broker, store.report)
    # What is loaded now stays: without this the collector walks every live task's objects again and again, a
    # tenth of the loop's time under load. The loop itself makes no cycles to speak of.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
    gc.enable()
    return _run(broker, store)


def _loaded(home: Home, settings: Settings, store: OpenedStore) -> Broker:
    """The hub with all that the store holds, and that known to be good. CheckFailed where it is not, whatever else has
    failed before that was known; StoreDamaged where nothing was checked and a record is damaged."""
    is_checked, upkeep = store.is_confirmed, Upkeep(store, settings)
    try:
        try:
            broker = Broker(home, settings, store.journaled, SystemClock(), upkeep=upkeep)
        except Exception:
            store.confirm()
            raise
        store.confirm()
    except CheckFailed:
        raise  # its files stay as they are
    except BaseException as error:
        if isinstance(error, StoreDamaged):
            store.found_damaged()
        upkeep.close()
        raise
    if not is_checked:
        _log_opened(store)
    return broker


def _start_anew(error: StoreDamaged, **environment: str) -> NoReturn:
    """The same command in the same process, which lets go of ports, threads and locks."""
    logs.get().warning("store_start", text=f"{error.message}; starting anew, the check first")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # as of a log on a full disk
            stream.flush()
    os.execve(sys.executable, sys.orig_argv, {**os.environ, CHECK_FIRST: "1", **environment})  # noqa: S606


def _start_anew_unless_it_was(error: StoreDamaged, **environment: str) -> None:
    """Nothing where the run before has ended like that a moment ago."""
    now = time.monotonic()
    before = os.environ.get(DAMAGED_AT, "")
    if isinstance(error, CheckFailed):
        _start_anew(error)
    elif not before or now - float(before) >= ANEW_EVERY_S:
        _start_anew(error, **{DAMAGED_AT: str(now)}, **environment)


def _run(broker: Broker, store: OpenedStore) -> int:
    """Until it is stopped, or the disk fails: then nothing more is acknowledged, and the supervisor starts
    again from what is on disk. A damaged record starts it anew."""
    log, address = logs.get(), broker.address
    try:
        try:
            broker.run()
        except StoreDamaged:
            store.found_damaged()
            raise
        finally:
            broker.close()
    except AgentComError as error:
        if isinstance(error, StoreDamaged):  # at the same ports, also where any were taken: its hosts know them
            ports = {"AGENTCOM_HUB_PORT": _port(address.hub), "AGENTCOM_HUB_FEED_PORT": _port(address.feed)}
            _start_anew_unless_it_was(error, **ports)
        log.error("hub_failed", code=error.code, error=str(error))
        logs.say(f"agentcom hub: {error}")
        return 1
    log.info("hub_stopped")
    return 0


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _stop_on_signals(broker: Broker) -> None:
    def on_signal(_number: int, _frame: FrameType | None) -> None:
        broker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _tell_ready(home: Home, broker: Broker, report: StartReport) -> None:
    auth.write_hub_address(home.run / "hub.json", broker.address)
    note = f" ({sched.why_python})" if sched.why_python else ""
    logs.get().info(
        "hub_started",
        hub=broker.address.hub,
        scheduler=sched.IMPLEMENTATION + note,
        core=compiled.IMPLEMENTATION,
    )
    print(
        auth.ready_line(
            hub=broker.address.hub,
            feed=broker.address.feed,
            pid=os.getpid(),
            home=str(home.path),
            scheduler=sched.IMPLEMENTATION,
            store=_start_summary(report),
        ),
        flush=True,
    )
