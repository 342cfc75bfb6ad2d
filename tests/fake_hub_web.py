"""A hub as the web process sees it, by a script: ROUTER and PUB with CURVE on free loopback ports; and a real
web process beside it.

The hub keeps tokens, a few tasks and a fleet in plain dicts. A test may replace the answer to any operation,
publish anything on the feed, leave out a sequence number, go away and come back on other ports.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from agentcom import messages as m
from agentcom.auth import HubAddress, load_or_make_key, sha256_hex, write_hub_address
from agentcom.config import Home
from agentcom.errors import NotFound, Refused
from agentcom.model import Role, TaskSpec

ROOT = Path(__file__).resolve().parent.parent
READY_S = 20.0
PATIENCE_S = 15.0
TOPICS = ("task", "agent", "host", "endpoint", "queue", "log", "route", "hub")
READERS = {Role.view, Role.operate, Role.admin}
Answer = Callable[[Any, "Caller"], Any]


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as the hub found out: the role of the bearer, or of the web process."""

    role: Role
    bearer: str | None


class FakeWebHub:
    """Serves `home` from a thread between `start` and `stop`."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home).prepare()
        self.pair = load_or_make_key(self.home.keys / "hub.key")
        load_or_make_key(self.home.keys / "web.key")
        self.tokens: dict[str, Role] = {}
        self.links: dict[str, Role] = {}
        self.page_tokens: dict[str, Role] = {}
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[Any, Caller]] = []
        self.hellos: list[m.Hello] = []
        self.tasks: dict[int, dict[str, Any]] = {}
        self.agents: list[dict[str, Any]] = []
        self.hosts: list[dict[str, Any]] = []
        self.endpoints: list[dict[str, Any]] = []
        self.paused = False
        self.troubles: list[str] = []
        self.pauses: list[str] = []
        self.ahead_s = 0.0  # of the clock of whoever asks
        self.beats = True
        self.epoch = ""
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    # --- life -------------------------------------------------------------------------------------------

    def start(self) -> FakeWebHub:
        self.epoch = secrets.token_hex(4)
        self.sequences = dict.fromkeys(TOPICS, 0)
        self.events: list[dict[str, Any]] = []  # kept ones, newest first
        self._sessions: set[bytes] = set()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = ThreadAuthenticator(self._context)
        self._gate.start()
        self._gate.configure_curve(domain="*", location=zmq.auth.CURVE_ALLOW_ANY)
        self._router = self._server_socket(zmq.ROUTER)
        self._feed = self._server_socket(zmq.PUB)
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind("inproc://wake")
        self._waker = self._context.socket(zmq.PAIR)
        self._waker.connect("inproc://wake")
        self.address = HubAddress(
            hub=self._router.getsockopt_string(zmq.LAST_ENDPOINT),
            key=self.pair.public,
            feed=self._feed.getsockopt_string(zmq.LAST_ENDPOINT),
            feed_key=self.pair.public,
        )
        self._thread = threading.Thread(target=self._serve, name="fake-hub")
        self._thread.start()
        write_hub_address(self.home.run / "hub.json", self.address)
        return self

    def stop(self) -> None:
        if self._thread is None:
            return
        self._commands.put(None)
        self._waker.send(b"")
        self._thread.join()
        self._thread = None
        self._gate.stop()
        self._context.destroy(linger=0)

    def restart(self) -> None:
        """Other ports, no sessions, a new epoch: as after a crash."""
        self.stop()
        self.start()

    def do(self, command: Callable[[], None]) -> None:
        """Run `command` on the hub's thread and wait for it."""
        done = threading.Event()

        def run() -> None:
            command()
            done.set()

        self._commands.put(run)
        self._waker.send(b"")
        assert done.wait(5)

    # --- what a test does -------------------------------------------------------------------------------

    def token(self, role: Role) -> str:
        token = f"act_{secrets.token_urlsafe(24)}"
        self.tokens[token] = role
        return token

    def revoke(self, token: str) -> None:
        del self.tokens[token]

    def link(self, role: Role = Role.admin) -> str:
        secret = f"acl_{secrets.token_urlsafe(24)}"
        self.links[sha256_hex(secret)] = role
        return secret

    def publish(self, topic: str, event: dict[str, Any], *, skip: int = 0) -> None:
        """Publish one event; `skip` sequence numbers are lost before it."""
        self.do(lambda: self._publish(topic, event, skip))

    def show_everything(self) -> None:
        """After the dicts were changed without a word on the feed: a gap makes its readers look again."""
        self.publish("queue", {"event": "queue_changed", "counts": self.counts()}, skip=1)

    def forget_sessions(self) -> None:
        self.do(self._sessions.clear)

    def put_task(self, task: dict[str, Any]) -> None:
        """A task is new or has changed: kept, and published with the counts."""

        def change() -> None:
            self.tasks[task["id"]] = task
            self._publish("task", {"event": "task_changed", "task": brief(task)})
            self._publish("queue", {"event": "queue_changed", "counts": self.counts()})

        self.do(change)

    def put_agent(self, agent: dict[str, Any]) -> None:
        def change() -> None:
            self.agents = [a for a in self.agents if a["name"] != agent["name"]] + [agent]
            self._publish("agent", {"event": "agent_changed", "agent": agent})

        self.do(change)

    def asked_of(self, kind: type) -> list[Any]:
        return [op for op, _ in self.asked if isinstance(op, kind)]

    def counts(self) -> dict[str, Any]:
        by_state: dict[str, int] = {}
        by_lane: dict[str, int] = {}
        for task in self.tasks.values():
            by_state[task["state"]] = by_state.get(task["state"], 0) + 1
            by_lane[task["lane"]] = by_lane.get(task["lane"], 0) + 1
        agents: dict[str, int] = {}
        for agent in self.agents:
            agents[agent["state"]] = agents.get(agent["state"], 0) + 1
        return {
            "paused": self.paused,
            "pauses": self.pauses,
            "degraded": bool(self.troubles),
            "troubles": self.troubles,
            "by_state": by_state,
            "by_lane": by_lane,
            "tasks_total": len(self.tasks),
            "agents": agents,
        }

    # --- the thread -------------------------------------------------------------------------------------

    def _server_socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.curve_server = True
        socket.curve_secretkey = self.pair.secret.encode()
        socket.setsockopt(zmq.ZAP_DOMAIN, b"hub" if kind == zmq.ROUTER else b"feed")
        socket.bind("tcp://127.0.0.1:*")
        return socket

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        beat_at = 0.0
        while True:
            ready = dict(poller.poll(200))
            if self.beats and time.monotonic() - beat_at >= 1.0:
                beat_at = time.monotonic()
                for topic in TOPICS:
                    self._publish(topic, {"event": "beat"})
            if self._wake in ready:
                self._wake.recv()
                command = self._commands.get()
                if command is None:
                    return
                command()
            if self._router in ready:
                peer, body = self._router.recv_multipart()
                answer = self._answer(m.decode_to_hub(body))
                if answer is not None:
                    self._router.send_multipart([peer, m.encode(answer)])

    def _publish(self, topic: str, event: dict[str, Any], skip: int = 0) -> None:
        self.sequences[topic] += 1 + skip
        position = msgspec.msgpack.encode([self.epoch, self.sequences[topic]])
        at = {"at": "2026-01-01T00:00:00.000Z"}
        self._feed.send_multipart([topic.encode(), position, msgspec.msgpack.encode({**event, **at})])

    def _answer(self, message: Any) -> Any:
        match message:
            case m.Hello():
                self.hellos.append(message)
                token = secrets.token_bytes(16)
                self._sessions.add(token)
                return m.Welcome(
                    session=token, epoch=self.epoch, name="web", role=Role.web, software="fake",
                    heartbeat_s=5, lease_s=45, feed=self.address.feed, feed_key=self.address.feed_key,
                    wall_ms=int((time.time() + self.ahead_s) * 1000),
                )  # fmt: skip
            case m.Bye():
                self._sessions.discard(message.session)
                return None
            case m.Request():
                if message.session not in self._sessions:
                    return m.Error(code="no_session", message="say hello", id=message.id)
                return self._reply(message)
        return m.Error(code="unexpected", message="not for this hub")

    def _reply(self, request: m.Request) -> Any:
        try:
            caller = Caller(self._role_of(request.bearer), request.bearer)
            self.asked.append((request.op, caller))
            tag = str(request.op.__struct_config__.tag)
            found = self.answers.get(tag) or getattr(self, f"_{tag}", None)
            if found is None:
                raise Refused("unscripted", f"{tag} is not in the script")
            return m.Reply(id=request.id, value=found(request.op, caller))
        except Refused as refused:
            return m.Error(
                id=request.id, code=refused.code, message=refused.message, field=refused.field,
                retry_after_s=refused.retry_after_s,
            )  # fmt: skip

    def _role_of(self, bearer: str | None) -> Role:
        if bearer is None:
            return Role.web
        role = self.tokens.get(bearer) or self.page_tokens.get(sha256_hex(bearer))
        if role is None:
            raise Refused("unauthorised", "this token is not known here or was revoked; ask for a new one")
        return role

    def _task_of(self, number: int) -> dict[str, Any]:
        if number not in self.tasks:
            raise NotFound(f"there is no task {number}", field="task")
        return self.tasks[number]

    # --- the script -------------------------------------------------------------------------------------

    def _whoami(self, _op: m.Whoami, caller: Caller) -> Any:
        return {"name": f"a-{caller.role}", "role": caller.role.value}

    def _link_trade(self, op: m.LinkTrade, caller: Caller) -> Any:
        assert caller.role is Role.web
        role = self.links.pop(op.secret_sha256, None)
        if role is None:
            raise Refused("unauthorised", "this link was used before or is too old; ask for a new one")
        self.page_tokens[op.token_sha256] = role
        return {"role": role.value, "name": "page", "expires": "2030-01-01T00:00:00.000Z"}

    def _snapshot(self, _op: m.Snapshot, caller: Caller) -> Any:
        assert caller.role is Role.web
        return {
            "epoch": self.epoch,
            "sequences": dict(self.sequences),
            "counts": self.counts(),
            "agents": self.agents,
            "hosts": self.hosts,
            "endpoints": self.endpoints,
            "events": self.events,
            "tasks": [brief(self.tasks[n]) for n in sorted(self.tasks, reverse=True)],
        }

    def _submit(self, op: m.Submit, caller: Caller) -> Any:
        if caller.role is Role.view:
            raise Refused("forbidden", "the role view may not submit")
        taken = []
        for spec in op.tasks:
            number = len(self.tasks) + 1
            task = task_of(number, spec)
            self.tasks[number] = task
            self._publish("task", {"event": "task_changed", "task": brief(task)})
            taken.append({"id": number, "state": "ready", "tier": task["tier"], "created": True})
        return {"tasks": taken}

    def _task_get(self, op: m.TaskGet, _caller: Caller) -> Any:
        return self._task_of(op.task)

    def _task_list(self, op: m.TaskList, _caller: Caller) -> Any:
        newest = [self.tasks[n] for n in sorted(self.tasks, reverse=True)]
        found = [t for t in newest if op.state in (None, t["state"]) and op.lane in (None, t["lane"])]
        return {"tasks": found[: op.limit], "next_cursor": None}

    def _task_cancel(self, op: m.TaskCancel, caller: Caller) -> Any:
        task = self._task_of(op.task)
        if caller.role is Role.view:
            raise Refused("forbidden", "the role view may not cancel")
        if task["state"] in ("completed", "cancelled"):
            raise Refused("wrong_state", f"task {op.task} is {task['state']}")
        task["state"] = "cancelled"
        self._publish("task", {"event": "task_changed", "task": brief(task)})
        return task

    def _task_why(self, op: m.TaskWhy, _caller: Caller) -> Any:
        task = self._task_of(op.task)
        hosts = [
            {
                "host": "orion", "fails": "model_missing", "message": "no endpoint there has qwen2.5-coder:32b",
                "change": "ollama pull qwen2.5-coder:32b",
            },
            {
                "host": "lyra", "fails": "host_offline", "message": "lyra is not connected",
                "change": "start `agentcom sidecar` on lyra",
            },
        ]  # fmt: skip
        return {
            "id": op.task, "state": task["state"], "shows": "present", "hosts": hosts,
            "reason": "no host can run it now; see the condition that fails on each",
        }  # fmt: skip

    def _task_reports(self, op: m.TaskReports, _caller: Caller) -> Any:
        task = self._task_of(op.task)
        return {"task": op.task, "attempts": [{"attempt": 1, "result": task["result"]}]}

    def _task_log(self, op: m.TaskLog, _caller: Caller) -> Any:
        text = self._task_of(op.task).get("log", "")
        return {
            "task": op.task, "attempt": 1, "offset": op.offset, "next_offset": len(text.encode()),
            "text": text[op.offset :], "complete": self.tasks[op.task]["state"] == "completed", "lost_bytes": 0,
        }  # fmt: skip

    def _queue_stats(self, _op: m.QueueStats, _caller: Caller) -> Any:
        return self.counts()

    def _queue_pause(self, op: m.QueuePause, _caller: Caller) -> Any:
        self.paused = op.paused
        self._publish("queue", {"event": "queue_changed", "counts": self.counts()})
        return self.counts()

    def _hub_status(self, _op: m.HubStatus, _caller: Caller) -> Any:
        return {"version": "0.1.0", "epoch": self.epoch}

    def _agent_list(self, _op: m.AgentList, _caller: Caller) -> Any:
        return {"agents": self.agents}

    def _host_list(self, _op: m.HostList, _caller: Caller) -> Any:
        return {"hosts": self.hosts}

    def _repo_list(self, _op: m.RepoList, _caller: Caller) -> Any:
        return {"repos": []}

    def _worktree_list(self, _op: m.WorktreeList, _caller: Caller) -> Any:
        return {"worktrees": [], "hosts": [], "next_cursor": None}

    def _endpoint_list(self, _op: m.EndpointList, _caller: Caller) -> Any:
        return {"endpoints": self.endpoints}

    def _endpoint_add(self, op: m.EndpointAdd, _caller: Caller) -> Any:
        number = len(self.endpoints) + 1
        endpoint = {
            "id": number, "name": op.name or f"ollama-{number}", "kind": "ollama", "url": op.url,
            "seen_from": "hub", "host": op.host, "healthy": False, "reason": "not checked yet", "since": None,
            "checked": None, "version": "", "cap": op.cap or 1, "num_ctx": None, "in_flight": {}, "models": [],
        }  # fmt: skip
        self.endpoints.append(endpoint)
        self._publish("endpoint", {"event": "endpoint_changed", "endpoint": endpoint})
        return endpoint

    def _endpoint_remove(self, op: m.EndpointRemove, _caller: Caller) -> Any:
        number = int(op.endpoint)
        self.endpoints = [e for e in self.endpoints if e["id"] != number]
        self._publish("endpoint", {"event": "endpoint_removed", "id": number, "name": ""})
        return {"ok": True}

    def _endpoint_probe(self, _op: m.EndpointProbeNow, _caller: Caller) -> Any:
        return {"ok": True}


def task_of(number: int, spec: TaskSpec) -> dict[str, Any]:
    """A whole task as the hub would answer it, ready in its lane."""
    tier = spec.tier or "standard"
    return {
        **msgspec.to_builtins({f: getattr(spec, f) for f in spec.__struct_fields__}),
        "id": number,
        "state": "ready",
        "lane": spec.lane.value,
        "tier": str(tier),
        "tier_source": "explicit" if spec.tier else "inferred",
        "inferred_tier": "standard",
        "attempt": 0,
        "retries_used": 0,
        "losses": 0,
        "parked_count": 0,
        "stalled": False,
        "route": None,
        "result": None,
        "error": None,
        "created_at": "2026-01-01T00:00:00.000Z",
        "assigned_at": None,
        "finished_at": None,
    }


def brief(task: dict[str, Any]) -> dict[str, Any]:
    """What the feed shows of a task."""
    route = task["route"] or {}
    names = (
        "id", "state", "lane", "tier", "tier_source", "inferred_tier", "attempt", "retries_used", "losses",
        "repo", "labels", "error", "created_at", "assigned_at", "finished_at",
    )  # fmt: skip
    return {
        **{name: task[name] for name in names},
        "description": task["description"][:200],
        "agent": route.get("agent"),
        "host": route.get("host"),
        "strategy": route.get("strategy"),
        "model": route.get("model"),
        "status": task["result"]["status"] if task["result"] else task.get("status"),
    }


class WebProcess:
    """`agentcom web` over a home, as a process of its own."""

    def __init__(self, home: Path, **environment: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AGENTCOM_")}
        paths = os.pathsep.join(str(ROOT / part) for part in (".", "sidecar", "web"))
        run = (
            "import sys\n"
            "from agentcom.config import Home, home_path, load\n"
            "from agentcom_web.server import main\n"
            "sys.exit(main(Home(home_path()).prepare(), load(home_path())))\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", run],
            env={
                **inherited, "PYTHONPATH": paths, "AGENTCOM_HOME": str(home), "AGENTCOM_HTTP_PORT": "0",
                **environment,
            },
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.ready = self._read_ready()
        self.url = self.ready["http"]

    def _read_ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], READY_S)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.stop()
            raise AssertionError(
                f"the web process did not say that it is ready (exit {self.process.returncode})"
            )
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self, how: signal.Signals = signal.SIGTERM, within_s: float = 10.0) -> float:
        """Seconds that it took to end."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        if self.process.stdout is not None:
            self.process.stdout.close()
        return time.monotonic() - began


@contextmanager
def web_beside(hub: FakeWebHub, **environment: str) -> Iterator[WebProcess]:
    """A web process over the hub's home, ended at the end."""
    web = WebProcess(hub.home.path, **environment)
    try:
        yield web
    finally:
        web.stop()


def client(web: WebProcess, token: str | None = None) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.Client(base_url=web.url, headers=headers, timeout=PATIENCE_S)


def eventually(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not become true in time"
        time.sleep(0.03)


def problem_of(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert set(problem) >= {"type", "title", "status", "code", "detail", "field"}
    return problem


class Stream:
    """An open event stream, read line by line."""

    def __init__(self, web: WebProcess, token: str, query: str = "") -> None:
        self._client = client(web, token)
        self._request = self._client.stream("GET", f"/api/v1/events{query}")
        self.response = self._request.__enter__()
        self._lines = self.response.iter_lines() if self.response.status_code == 200 else iter(())

    def next(self) -> tuple[str, Any]:
        """The next event: its name and its value."""
        name = ""
        for line in self._lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))
        raise EOFError("the stream ended")

    def until(self, wanted: Callable[[str, Any], bool]) -> Any:
        while True:
            name, value = self.next()
            if wanted(name, value):
                return value

    def comment(self) -> str:
        return next(line for line in self._lines if line.startswith(":") and "welcome" not in line)

    def ended(self) -> None:
        """Read to the end."""
        for _ in self._lines:
            pass

    def close(self) -> None:
        self._request.__exit__(None, None, None)
        self._client.close()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths
