"""`agentcom doctor`: looks at this home and its hub, and says what to do about what it finds."""

from __future__ import annotations

import asyncio
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import lmdb
import msgspec
import zmq
from msgspec import Struct

from agentcom import __version__, compiled, config, sched
from agentcom.cli import output, storage
from agentcom.cli.command import HubCommand, Invocation, pass_invocation
from agentcom.config import Home
from agentcom.enrolment import joined
from agentcom.errors import AgentComError, HubUnreachable
from agentcom.model import JsonObject

if TYPE_CHECKING:
    from agentcom_sidecar.command import SandboxMode
    from agentcom_sidecar.isolation import Isolation


BUDGET_LOW = 0.2  # of it is left: people are told


class Finding(Struct, frozen=True):
    """One thing looked at. `status`: ok, warn (works, but read this) or fail; `hint` is the remedy.
    `figures` are the numbers behind the detail, where there are any."""

    name: str
    status: str
    detail: str
    hint: str = ""
    figures: JsonObject = {}


@click.command(cls=HubCommand)
@pass_invocation
def doctor(invocation: Invocation) -> int:
    """Check this home, its settings, its keys and its hub; exits with 1 if something fails."""
    findings = [
        finding
        for look in (_versions, _home, _settings, _keys, _core, _scheduler, _git, _sandbox, _programs, _checks, _hub)
        for finding in _looked(look, invocation)
    ]
    failed = any(finding.status == "fail" for finding in findings)
    if invocation.as_json:
        output.document({"ok": not failed, "version": __version__, "checks": msgspec.to_builtins(findings)})
        return int(failed)
    for finding in findings:
        mark = output.coloured(finding.status.ljust(4), output.STATE_COLOURS.get(finding.status))
        output.line(f"{mark}  {finding.name}: {output.plain(finding.detail)}")
        if finding.hint:
            output.line(f"      {output.plain(finding.hint)}")
    return int(failed)


def _looked(look: Callable[[Invocation], Iterator[Finding]], invocation: Invocation) -> Iterator[Finding]:
    """What `look` finds; an error that says what is wrong is a finding too."""
    try:
        yield from look(invocation)
    except AgentComError as error:
        yield Finding(look.__name__.lstrip("_"), "fail", error.message)


def _versions(_invocation: Invocation) -> Iterator[Finding]:
    parts = (
        f"agentcom {__version__}",
        f"Python {platform.python_version()}",
        f"libzmq {zmq.zmq_version()}",
        f"LMDB {'.'.join(map(str, lmdb.version()))}",
    )
    yield Finding("versions", "ok", ", ".join(parts))
    if not zmq.has("curve"):
        yield Finding("curve", "fail", "this libzmq has no CURVE", "install pyzmq from its wheel")


def _home(invocation: Invocation) -> Iterator[Finding]:
    from agentcom.store.start import StorePaths, require_disk

    home = invocation.home.check()
    if (home.keys / "hub.key").exists() or not any(home.keys.glob("*.key")):  # else no hub will start here
        require_disk(StorePaths.of_home(home.path))
    free = shutil.disk_usage(home.path).free
    status = "ok" if free > 2**30 else "warn"
    hint = "" if status == "ok" else "make room: on a full disk the hub takes no new tasks"
    yield Finding("home", status, f"{home.path}, {output.size(free) or 'nothing'} free", hint)


def _settings(invocation: Invocation) -> Iterator[Finding]:
    settings = config.load(invocation.home.path)
    yield Finding(
        "settings",
        "ok",
        f"hub {settings.hub.bind}:{settings.hub.port}, HTTP {settings.http.bind}:{settings.http.port}",
    )


def _keys(invocation: Invocation) -> Iterator[Finding]:
    home = invocation.home
    held = [name for name in ("hub", "admin", "web", "host", "user") if (home.keys / f"{name}.key").exists()]
    exposed = [path.name for path in _secret_files(home) if path.stat().st_mode & 0o077]
    if exposed:
        remedy = f"run: chmod 600 {home.keys}/*"
        yield Finding("keys", "fail", f"others can read {', '.join(exposed)}", remedy)
    elif not held:
        yield Finding("keys", "warn", "none yet", "run `agentcom up`, or `agentcom join CODE`")
    else:
        record = joined(home)
        yield Finding("keys", "ok", ", ".join(held) + (f"; this host is {record.name}" if record else ""))


def _secret_files(home: Home) -> list[Path]:
    return [path for path in (*home.keys.glob("*"), home.run / "token") if path.is_file()]


def _core(_invocation: Invocation) -> Iterator[Finding]:
    detail = "compiled" if compiled.why_python is None else f"as its sources: {compiled.why_python}"
    yield Finding("core", "ok", detail)


def _scheduler(_invocation: Invocation) -> Iterator[Finding]:
    if sched.why_python is None:
        yield Finding("scheduler", "ok", "compiled")
    else:
        hint = "works, but slower with many tasks; install again with a C compiler and the Python headers"
        yield Finding("scheduler", "warn", f"the twin in Python, because: {sched.why_python}", hint)


def _git(_invocation: Invocation) -> Iterator[Finding]:
    path = shutil.which("git")
    if path is None:
        yield Finding("git", "fail", "git is not on the PATH", "install git: tasks with a repository need it")
        return
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    yield Finding("git", "ok" if done.returncode == 0 else "fail", done.stdout.strip() or done.stderr.strip())


def _programs(invocation: Invocation) -> Iterator[Finding]:
    """Which agent programs are on this machine, with their versions, and which of them tasks may ask for."""
    from agentcom_sidecar.programs import catalogue

    settings = config.load(invocation.home.path).programs
    found, absent = [], []
    for name in dict.fromkeys((*catalogue.names(settings), *settings.offer)):
        try:
            path = catalogue.find(catalogue.adapter_of(name, settings))
        except AgentComError as error:
            if name in settings.offer:
                yield Finding("program", "fail", f"{name} is offered to tasks and cannot be used", error.message)
            absent.append(name)
            continue
        version, fault = _version(path) if name in catalogue.KNOWN else ("", "")
        if fault and name in settings.offer:
            yield Finding("program", "fail", f"{name} is offered to tasks and cannot be used", fault)
        found.append(f"{name} {version}".strip() + ("" if name in settings.offer else " (not in programs.offer)"))
    said = f"found {', '.join(found) or 'none'}" + (f"; not there: {', '.join(absent)}" if absent else "")
    yield Finding("programs", "ok", said)


def _version(path: Path) -> tuple[str, str]:
    """What it says of its version, and what is the matter with it where it does not: see capabilities.Tools."""
    from agentcom_sidecar.capabilities import broken

    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return "(does not answer)", ""  # perhaps it is slow: a sidecar offers it all the same
    except OSError as error:
        return "(does not answer)", str(error)
    if done.returncode:
        return "(broken)", broken(done.returncode, done.stdout + done.stderr)
    return next(iter(done.stdout.splitlines()), "")[:60], ""


def _checks(_invocation: Invocation) -> Iterator[Finding]:
    """Which kinds of checks packages of this machine add, and which of them cannot be used."""
    from agentcom_sidecar.verify.plugins import Plugins

    found = Plugins()
    found.start()
    found.wait()
    for line in found.lines():
        yield Finding("check", "fail", line, "mend or remove the package, then start the sidecar anew")
    added = [f"{name} ({found.origins[name]})" for name in sorted(found.checks)]
    yield Finding("checks", "ok", f"the built-in kinds{', and ' if added else ''}{', '.join(added)}")


def _sandbox(invocation: Invocation) -> Iterator[Finding]:
    settings = config.load(invocation.home.path).sandbox
    found = _tried_out(settings.mode)
    if found.holds:
        from agentcom_sidecar import guards

        said = f"{found.name}: a command was tried out and was isolated; its guard is {guards.kind()}"
        hint = "" if guards.kind() == "compiled" else "commands start slower; install again with a C compiler"
        yield Finding("sandbox", "warn" if hint else "ok", said, hint)
        return
    if settings.mode == "require":
        detail = f"sandbox.mode is require, and commands cannot be isolated: {found.reason}"
        remedy = found.remedy or "see docs/sandbox.md"
        yield Finding("sandbox", "fail", detail, f'{remedy}; or set sandbox.mode = "auto" to go without')
        return
    hint = "a command can read what this user can read; take tasks only from people whom you trust"
    hint = f"{found.remedy}; until then {hint}" if found.remedy else hint
    if settings.accept_unisolated:
        hint += "; sandbox.accept_unisolated is on: commands of every submitter run"
    yield Finding("sandbox", "warn", f"none: commands are not isolated ({found.reason})", hint)


def _tried_out(mode: SandboxMode) -> Isolation:
    from agentcom_sidecar import sandbox  # only here: a hub's machine need not load it

    return asyncio.run(sandbox.isolation_of(mode))


def _hub(invocation: Invocation) -> Iterator[Finding]:
    keys = invocation.home.keys
    if (keys / "host.key").exists() and not any((keys / f"{k}.key").exists() for k in ("admin", "user")):
        yield Finding("hub", "ok", "this home has a host's key only: the sidecar uses it, commands do not")
        return
    try:
        with invocation.client() as client:
            caller = client.whoami()
            if caller["role"] == "submit":
                yield Finding("hub", "ok", f"reached; you are {caller['name']} ({caller['role']})")
                return
            status = client.hub_status()
            hosts = client.host_list()["hosts"]
            budgets, endpoints = client.budget_list(), client.endpoint_list()["endpoints"]
            ignored = (client.queue_stats().get("settings") or {}).get("ignored") or {}
    except HubUnreachable as error:
        yield Finding("hub", "fail", error.message)
        return
    note = f" ({status['scheduler_note']})" if status.get("scheduler_note") else ""
    detail = (
        f"version {status['version']}, scheduler {status['scheduler']}{note}, started {status['started']}"
    )
    yield Finding("hub", "ok", f"{detail}; you are {caller['name']} ({caller['role']})")
    if status["version"] != __version__:
        hint = "restart the hub after an update"
        yield Finding("hub version", "warn", f"the hub is {status['version']}, this is {__version__}", hint)
    for each in hosts:
        if each["state"] != "online":
            hint = "start `agentcom sidecar` there, or `agentcom host remove` it"
            yield Finding("host", "warn", f"{each['name']} is offline, last seen {each['last_seen']}", hint)
    for name, why in ignored.items():
        hint = f"run `agentcom config set {name} VALUE`, or `agentcom config unset {name}`"
        yield Finding("stored setting", "warn", f"{name} was set and does not apply: {why}", hint)
    yield from budget_findings(budgets, endpoints)
    if "store" in status:
        yield from store_findings(status["store"], status["troubles"])
    if status.get("paused"):
        yield Finding("queue", "warn", "paused: no task is started", "run `agentcom queue resume`")
    for key in status.get("pauses") or ():
        scope, _, name = key.partition(":")
        hint = f"run `agentcom queue resume --{scope} {name}`"
        yield Finding("queue", "warn", f"the {scope} {name} is paused", hint)


def budget_findings(found: JsonObject, endpoints: list[JsonObject]) -> Iterator[Finding]:
    """Budgets that hold work or soon will, and paid work that none bounds."""
    for each in found["budgets"]:
        name, per, usd, left = each["key"], each["per"], each["usd"], each["left_usd"]
        used = f"{usd - left:.2f} of {usd:.2f} USD are spent or reserved"
        wait = f", or wait until the next {per} (UTC)" if per != "ever" else ""
        hint = f"run `agentcom budget set {name} USD --per {per}` with more{wait}"
        if left < found["attempt_usd"]:
            held = f"; tasks that it holds: {each['held']}" if each["held"] else ""
            text = f"that of {name} per {per} is reached: {used}, no further attempt fits{held}"
            yield Finding("budget", "warn", text, hint, each)
        elif left <= usd * BUDGET_LOW:
            yield Finding("budget", "warn", f"that of {name} per {per} is nearly reached: {used}", hint, each)
        else:
            yield Finding("budget", "ok", f"that of {name} per {per}: {used}", figures=each)
    paid = [each["name"] for each in endpoints if each["kind"] == "anthropic"]
    if paid and not found["budgets"]:
        text = f"{', '.join(paid)} costs money, and no budget is set: nothing bounds what tasks may spend there"
        yield Finding("budget", "warn", text, "run `agentcom budget set all USD` (see docs/budgets.md)")


def store_findings(store: JsonObject, troubles: list[str]) -> Iterator[Finding]:
    """How the store of a hub is, what is wrong with it and lasts, and what was done to it."""
    unwell = storage.unwell(store)
    for name, text in storage.lines(store):
        if name != "alarm":
            status, hint = unwell.get(name, ("ok", ""))
            yield Finding(name, status, text, hint, storage.figures(name, store))
    for repair, text, hint in storage.repairs(store):
        yield Finding("restored", "warn" if storage.is_news(repair) else "ok", text, hint, repair)
    aside = store.get("set_aside") or []
    if aside:
        hint = "nothing needs what a start or a restore sets aside: delete it when nobody wants to see it"
        yield Finding("set aside", "ok", storage.set_aside(aside), hint, {"files": aside})
    alarms = [(alarm["text"], "see docs/operations.md") for alarm in store.get("alarms", ())]
    doubts = {doubt["text"] for doubt in store.get("uncertain", ())}
    hint = "when you have seen what is missing: agentcom backup acknowledge"
    others = [(text, "see docs/operations.md") for text in troubles if text not in doubts]
    for text, remedy in [*alarms, *others, *((text, hint) for text in sorted(doubts))]:
        yield Finding("degraded" if text in doubts or text in troubles else "alarm", "warn", text, remedy)
