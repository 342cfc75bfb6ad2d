"""The processes of one benchmark run: they start on free ports with homes of their own, and all of them go away
again with the run, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

from agentcom import auth, limits
from agentcom import messages as m
from agentcom.config import Home
from agentcom.lifeline import PARENT_PID_VARIABLE
from agentcom.model import Role
from bench.consumer import ask, dealer
from bench.words import Inbox

READY_S_MAX: Final = 30
STOP_S_MAX: Final = 5
ROOT: Final = Path(__file__).resolve().parent.parent

Socket = zmq.Socket[bytes]


class HubAt(NamedTuple):
    """A running hub, and an admin's session with it."""

    home: Home
    address: str
    key: str
    pid: int
    socket: Socket
    session: bytes
    ready_s: float  # from the start of its process to its ready line


class Stage:
    """Starts processes whose end is the end of `stack`. `profile`: a folder for what cProfile finds in hubs."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, profile: Path | None = None) -> None:
        self.folder = folder
        self.context: zmq.Context[Socket] = zmq.Context()
        self.stack = stack
        self._profile = profile
        stack.callback(self.context.destroy, linger=0)

    def hub(self, name: str, stack: contextlib.ExitStack | None = None) -> HubAt:
        """A hub on the home `name` in this folder, made when it is missing. It ends with `stack`, if given."""
        home = Home(self.folder / name).prepare()
        run = ["-m", "agentcom.cli", "hub"]
        if self._profile is not None:
            run = ["-m", "cProfile", "-o", str(self._profile / f"{name}.pstats"), *run]
        begun = time.monotonic()
        ready = self.start(*run, home=home.path, stack=stack)
        ready_s = time.monotonic() - begun
        address = auth.read_hub_address(home)
        assert address is not None, "a hub that is ready has written its address"
        socket = dealer(self.context, address.hub, address.key, auth.load_key(home.keys / "admin.key"))
        hello = m.Hello(protocol=limits.PROTOCOL_VERSION, process=secrets.token_hex(8), software="bench")
        welcome = ask(socket, hello)
        assert isinstance(welcome, m.Welcome)
        return HubAt(home, address.hub, address.key, ready["pid"], socket, welcome.session, ready_s)

    def invite(self, hub: HubAt, name: str) -> auth.KeyPair:
        """The one-time key with which the host `name` may join."""
        once = auth.KeyPair.make()
        invite = m.HostInvite(key=once.public, role=Role.host, name=name)
        ask(hub.socket, m.Request(session=hub.session, id=0, op=invite))
        return once

    def host(
        self, hub: HubAt, name: str, agents: int, done: Inbox, stack: contextlib.ExitStack | None = None
    ) -> None:
        """A host process that has joined `hub` and tells `done` of finished tasks."""
        order = {
            "name": name,
            "agents": agents,
            "hub": hub.address,
            "hub_key": hub.key,
            "invite_secret": self.invite(hub, name).secret,
            "done_to": str(done.path),
        }
        self.start("-m", "bench.consumer", "host", order=order, stack=stack)

    def inbox(self) -> Inbox:
        """What workers tell of what they did."""
        done = Inbox(self.folder / f"done-{secrets.token_hex(4)}")
        self.stack.callback(done.close)
        return done

    def start(
        self,
        *arguments: str,
        order: dict[str, Any] | None = None,
        home: Path | None = None,
        stack: contextlib.ExitStack | None = None,
    ) -> dict[str, Any]:
        """One Python process that ends with this one; the JSON line with which it says that it is ready."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AGENTCOM_")}
        environment[PARENT_PID_VARIABLE] = str(os.getpid())
        environment |= {"AGENTCOM_HUB_PORT": "0", "AGENTCOM_HUB_FEED_PORT": "0"}
        if home is not None:
            environment["AGENTCOM_HOME"] = str(home)
        log_path = self.folder / f"{arguments[-1]}-{secrets.token_hex(4)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        (stack or self.stack).callback(end, process)
        assert process.stdin is not None
        assert process.stdout is not None
        if order is not None:
            process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.close()
        line = process.stdout.readline()
        if not line:
            process.wait(READY_S_MAX)
            raise RuntimeError(f"{' '.join(arguments)} ended: {log_path.read_text(errors='replace')[-2000:]}")
        ready: dict[str, Any] = json.loads(line)
        return ready


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that takes no notice."""
    process.terminate()
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
