"""`agentcom up`: hub, web and one sidecar on this machine, nothing else to install."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agentcom import __version__, config
from agentcom.cli import demo, output
from agentcom.cli.command import Invocation, LocalCommand, json_option, pass_invocation
from agentcom.client import Client
from agentcom.config import Home, Settings
from agentcom.errors import AgentComError, ConfigError
from agentcom.lifeline import own_command
from agentcom.startup import check_home, dashboard_link, ensure_host, ensure_token
from agentcom.supervisor import Start, StartFailed, Stopped, Supervisor, hub_pid, only_one, write_start

HUB_READY_S = 300.0  # a check of a large store may come first
READY_S = 60.0


@dataclass(frozen=True)
class Wishes:
    """The options of one `up`."""

    as_json: bool
    web: bool
    demo: bool
    once: bool
    repo: Path | None


@click.command(cls=LocalCommand, params=[json_option()])
@click.option("--http", metavar="ADDR:PORT", help="Where the dashboard listens; port 0 takes a free one.")
@click.option(
    "--hub-port",
    type=click.IntRange(0, 65_534),
    metavar="N",
    help="The hub's port, its feed's is the next; 0: free ones.",
)
@click.option("--no-web", is_flag=True, help="Neither dashboard nor HTTP API.")
@click.option("--demo", "with_demo", is_flag=True, help="Put a first task through it.")
@click.option("--once", is_flag=True, help="With --demo: end after it, 0 if it was verified.")
@click.option("--repo", type=click.Path(path_type=Path), help="With --demo: the repository to work in.")
@pass_invocation
def up(
    invocation: Invocation,
    http: str | None,
    hub_port: int | None,
    no_web: bool,
    with_demo: bool,
    once: bool,
    repo: Path | None,
) -> int:
    """Run hub, dashboard and a sidecar on this machine until Ctrl-C.

    --json prints one line when ready.
    """
    if once and not with_demo:
        raise click.UsageError("--once ends after the demo: give --demo too")
    wishes = Wishes(invocation.as_json, not no_web, with_demo, once, repo)
    home = invocation.home.prepare()
    check_home(home)
    running = hub_pid(home)
    if running is not None and with_demo:
        return demo.run(invocation, repo)
    if running is not None:
        raise ConfigError(
            f"a hub runs on {home.path} already (process {running}); stop it, or set AGENTCOM_HOME"
        )
    environment = _environment(home, http, hub_port)
    settings = config.load(home.path, environment)
    with only_one(home):
        return _Up(home, settings, environment, wishes).run()


def _environment(home: Home, http: str | None, hub_port: int | None) -> dict[str, str]:
    """The children's: this process's own with the ports that the options ask for."""
    environment = {**os.environ, "AGENTCOM_HOME": str(home.path)}
    environment.pop("AGENTCOM_HUB", None)  # the children belong to this home's hub
    if http is not None:
        address, separator, port = http.rpartition(":")
        if not separator or not port.isdecimal():
            raise click.UsageError(f"--http {http}: it has the form ADDR:PORT, as 127.0.0.1:7422")
        environment["AGENTCOM_HTTP_BIND"] = address.strip("[]") or "127.0.0.1"
        environment["AGENTCOM_HTTP_PORT"] = port
    if hub_port is not None:
        environment["AGENTCOM_HUB_PORT"] = str(hub_port)
        environment["AGENTCOM_HUB_FEED_PORT"] = str(hub_port + 1 if hub_port else 0)
    return environment


class _Up:
    """One run of `up`: start in order, tell, supervise, stop."""

    def __init__(self, home: Home, settings: Settings, environment: dict[str, str], wishes: Wishes) -> None:
        self._home = home
        self._settings = settings
        self._wishes = wishes
        self._supervisor = Supervisor(home, environment, output.note)
        self._code = 0
        self._hub = ""  # given to each client: AGENTCOM_HUB may name another hub than this home's

    def run(self) -> int:
        self._supervisor.catch_signals()
        try:
            self._serve()
        except Stopped:
            return 0
        finally:
            self._supervisor.stop()
            (self._home.run / "up.json").unlink(missing_ok=True)
        return self._code

    def _serve(self) -> None:
        hub = self._start("hub", HUB_READY_S)
        self._hub = str(hub["hub"])
        # A restarted hub must be where the others look for it, also when the first one took any free port.
        self._supervisor.keep(
            "hub", AGENTCOM_HUB_PORT=_port(hub["hub"]), AGENTCOM_HUB_FEED_PORT=_port(hub["feed"])
        )
        with Client.connect(self._home, self._hub) as client:
            warning = ensure_host(client, self._home, self._settings)
            token_file = ensure_token(client, self._home)
            http = None
            if self._wishes.web:
                http = str(self._start("web", READY_S)["http"]).rstrip("/")
                self._supervisor.keep("web", AGENTCOM_HTTP_PORT=_port(http))
            sidecar = None if warning else self._start_sidecar()
            start = Start(http, hub["hub"], hub["feed"], str(self._home.path), os.getpid(), token_file)
            write_start(self._home, start)
            if self._wishes.as_json:
                _print_ready(start)
            else:
                link = None if http is None else dashboard_link(client, http)
                _start_screen(start, hub, sidecar, link, client.hub_status())
        if warning:
            output.note(warning)
        self._go_on()

    def _start(self, name: str, timeout_s: float) -> dict[str, Any]:
        return self._supervisor.start(name, own_command("agentcom.cli", name), timeout_s)

    def _start_sidecar(self) -> dict[str, Any] | None:
        """A hub without a sidecar still serves: one that does not start is told and tried again."""
        try:
            return self._start("sidecar", READY_S)
        except StartFailed as failed:
            output.note(failed.message)
            return None

    def _go_on(self) -> None:
        if not self._wishes.demo:
            self._supervisor.run()
            return
        # In a thread, so that a daemon that ends meanwhile is started again.
        first = threading.Thread(target=self._first_task, name="first-task", daemon=True)
        first.start()
        self._supervisor.run(until=lambda: not first.is_alive())
        if not self._wishes.once:
            self._code = 0
            self._supervisor.run()

    def _first_task(self) -> None:
        self._code = 1
        say = output.note if self._wishes.as_json else output.line
        try:
            with Client.connect(self._home, self._hub) as client:
                found = demo.perform(client, self._wishes.repo, say)
            demo.tell(found, say)
            self._code = demo.exit_code(found)
        except AgentComError as error:
            output.note(f"agentcom: the first task could not be run: {error.message}")


def _port(address: str) -> str:
    return address.rsplit(":", 1)[1]


def _print_ready(start: Start) -> None:
    click.echo(
        json.dumps(
            {
                "ready": True, "http": start.http, "hub": start.hub, "feed": start.feed, "home": start.home,
                "pid": start.pid, "token_file": start.token_file,
            }
        )
    )  # fmt: skip
    sys.stdout.flush()


def _start_screen(
    start: Start,
    hub: dict[str, Any],
    sidecar: dict[str, Any] | None,
    link: str | None,
    status: dict[str, Any],
) -> None:
    scheduler = f"scheduler {hub.get('scheduler', '')}"
    if status.get("scheduler_note"):
        scheduler += f" ({status['scheduler_note']})"
    agents = ", ".join(map(str, (sidecar or {}).get("agents") or []))
    output.line(f"AgentCom {__version__} is running. Ctrl-C stops it; what was submitted stays.")
    output.line()
    output.pairs(
        [
            (
                "dashboard",
                f"{link}   (opens once, within 10 minutes; another: agentcom token link)" if link else "",
            ),
            ("hub", f"{start.hub}, {scheduler}"),
            ("host", f"{sidecar['host']} with {agents}" if sidecar else ""),
            ("home", start.home),
            ("logs", f"{start.home}/logs"),
            ("try", 'agentcom submit "say hello" --command "echo hello" --wait'),
        ]
    )
    output.line()
    sys.stdout.flush()
