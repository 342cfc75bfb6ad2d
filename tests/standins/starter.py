"""Starts a stand-in as a process of its own for the length of a `with` block.

    with standin("ollama", script={"replies": [{"fault": "503"}]}) as server:
        ...server.url...

Nothing stays behind: the process is ended by its pid, and it ends by itself when this process dies, since
its standard input closes then.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 20.0
CONTROL_S_MAX = 10.0
POLL_S = 0.01

Kind = Literal["ollama", "openai", "anthropic", "forge"]


class StandIn:
    """A running stand-in. `url` stays the same over `kill` and `restart`."""

    def __init__(self, kind: Kind, script: dict[str, Any] | None = None, *options: str) -> None:
        self.kind = kind
        self._script = script or {}
        self._options = options
        self._start(port=0)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)

    def log(self, path: str | None = None) -> list[dict[str, Any]]:
        """The requests so far in order, or only those for `path`. An entry has n, at_ms, method, path, query,
        headers (lower-case names), body, status, and outcome: None while it goes on, then done, refused,
        client_left, cut or dropped."""
        entries: list[dict[str, Any]] = self._control("GET", "/__log")
        return [entry for entry in entries if path in (None, entry["path"])]

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._control("GET", "/__state")
        return state

    def set_script(self, script: dict[str, Any]) -> None:
        """Plays another script from now on; what it does not name stays. ValueError when it is not valid."""
        self._control("POST", "/__script", script)
        self._script = self._script | script

    def reset(self) -> None:
        """As new: the default script, no log, no counts, all cold, up; open connections are cut."""
        self._script = {}
        if self._child.poll() is None:
            self._control("POST", "/__reset")
        else:
            self.restart()

    def down(self) -> None:
        """Looks dead: open connections are cut, new ones are closed without an answer."""
        self._control("POST", "/__down")

    def up(self) -> None:
        self._control("POST", "/__up")

    def kill(self) -> None:
        """Ends the process; from now on connections to `url` are refused."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                pipe.close()

    def restart(self) -> None:
        """Starts it anew on the same port with the same script, with an empty log and as cold as at first."""
        self.kill()
        self._start(port=self.port)

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 10.0) -> dict[str, Any]:
        """The first state for which `condition` is true; AssertionError with the state after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition(state := self.state()):
            assert time.monotonic() < deadline, f"the stand-in did not get there in {seconds} s: {state}"
            time.sleep(POLL_S)
        return state

    def wait_for_outcome(self, outcome: str, path: str, seconds: float = 10.0) -> dict[str, Any]:
        """The first log entry for `path` that ended in `outcome`; AssertionError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            entries = self.log(path)
            if ended := [entry for entry in entries if entry["outcome"] == outcome]:
                return ended[0]
            assert time.monotonic() < deadline, f"no {path} ended in {outcome} within {seconds} s: {entries}"
            time.sleep(POLL_S)

    def _start(self, port: int) -> None:
        command = [
            sys.executable,
            "-m",
            f"tests.standins.{self.kind}",
            "--port",
            str(port),
            "--end-with-stdin",
        ]
        self._child = subprocess.Popen(
            [*command, *self._options], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            self.url: str = self._ready_line()["url"]
            self._control("POST", "/__script", self._script)
        except BaseException:
            self.kill()
            raise

    def _ready_line(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        readable, _, _ = select.select([self._child.stdout], [], [], READY_S_MAX)
        line = self._child.stdout.readline() if readable else b""
        assert line, f"the {self.kind} stand-in was not ready within {READY_S_MAX} s"
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _control(self, method: str, route: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CONTROL_S_MAX)
        try:
            connection.request(method, route, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"])
        return answer


@contextlib.contextmanager
def standin(kind: Kind, script: dict[str, Any] | None = None, *, key: str | None = None) -> Iterator[StandIn]:
    """A stand-in that is ready, ended with the block. `key` (anthropic only): all other keys are refused."""
    server = StandIn(kind, script, *(["--key", key] if key else []))
    try:
        yield server
    finally:
        server.kill()
