"""The HTTP ground that both stand-in servers stand on.

One thread per connection, HTTP/1.1 with chunked streams, and the control routes that tests use: `/__log`,
`/__state`, `/__script`, `/__reset`, `/__down`, `/__up`. Standard library only: a stand-in is ready at once.
Rules: a thread that waits always watches its client, so that a client that leaves is noticed within
WATCH_S; control routes never appear in the log and work while the server plays dead.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import select
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

BODY_BYTES_MAX = 64 * 1024 * 1024
LOG_ENTRIES_MAX = 20_000  # the oldest entry is dropped beyond this
WATCH_S = 0.05  # how late a departed client may be noticed by a thread that waits for another thread
FOREVER_S = 10 * 365 * 86_400.0
TLS_RECORD = b"\x16"  # a handshake's first byte; no HTTP method begins with it

JsonObject = dict[str, Any]


class ClientLeft(Exception):
    """The client closed its connection, or the server cut it by playing dead."""


class Refusal(Exception):
    """An answer with an error status. `body` is sent as JSON, or as nothing at all when None."""

    def __init__(self, status: int, body: JsonObject | None, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
        self.headers = headers or {}


class Gauge:
    """Counts what is going on per name, now and at most so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now: collections.Counter[str] = collections.Counter()
        self.peak: dict[str, int] = {}
        self.total: collections.Counter[str] = collections.Counter()

    def enter(self, name: str) -> None:
        with self._lock:
            self.now[name] += 1
            self.total[name] += 1
            self.peak[name] = max(self.peak.get(name, 0), self.now[name])

    def leave(self, name: str) -> None:
        with self._lock:
            self.now[name] -= 1

    def state(self) -> JsonObject:
        """`{"in_flight", "peak_in_flight", "calls"}`, each per name."""
        with self._lock:
            in_flight = {name: count for name, count in self.now.items() if count}
            return {"in_flight": in_flight, "peak_in_flight": dict(self.peak), "calls": dict(self.total)}


class Application:
    """What a stand-in adds to the ground: its routes, its script and its state.

    `route_faults` maps a path to `{"delay_s"?, "status"?, "hang"?, "held"?}`; it is applied before `answer`. What is
    `held` goes on when a later script no longer says so.
    """

    name = "stand-in"

    def __init__(self) -> None:
        self.gauge = Gauge()
        self.route_faults: dict[str, JsonObject] = {}

    def answer(self, exchange: Exchange) -> None:
        """Answers one request, on its connection's thread. May raise Refusal or ClientLeft."""
        raise Refusal(404, None)

    def refusal(self, status: int, message: str) -> Refusal:
        """An error in the words and shape of the server that is stood in for."""
        return Refusal(status, {"error": message})

    def load_script(self, script: JsonObject) -> None:
        """Takes a script; what it does not name stays as it is. ValueError says what is wrong with it."""
        self.route_faults = dict(script.get("routes", self.route_faults))

    def state(self) -> JsonObject:
        return self.gauge.state()

    def close(self) -> None:
        """Ends its threads; another application takes its place."""


class Exchange(BaseHTTPRequestHandler):
    """One connection with its present request. `body` is the decoded JSON, or None when there is none."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StandInServer
    route: str
    raw: bytes
    body: Any
    entry: JsonObject

    def setup(self) -> None:
        # One port serves both: what greets with a TLS record is answered with one.
        if self.server.tls is not None and self.request.recv(1, socket.MSG_PEEK) == TLS_RECORD:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()
        if isinstance(self.connection, ssl.SSLSocket):  # the server closes the plain one, which is an empty shell now
            self.connection.close()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: tests read `/__log`."""

    def do_GET(self) -> None:
        self._dispatch()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _dispatch(self) -> None:
        url = urlsplit(self.path)
        self.route = url.path
        if self.route.startswith("/__"):
            self.server.connections.discard(self.connection)  # playing dead spares control connections
            self._read_body()
            self._control()
            return
        self._read_body()
        self.entry = self.server.open_entry(self, url.query)
        try:
            self._serve()
            self.entry["outcome"] = self.entry["outcome"] or "done"
        except (ClientLeft, ConnectionError):
            self.close_connection = True
            self.entry["outcome"] = "dropped" if self.server.plays_dead else "client_left"
        except Exception:
            self.entry["outcome"] = "crashed"
            raise

    def _serve(self) -> None:
        if self.server.plays_dead:
            raise ClientLeft
        try:
            self._apply_route_fault()
            self.server.application.answer(self)
        except Refusal as refusal:
            self.entry["outcome"] = self.entry["outcome"] or "refused"
            self.send_answer(refusal.status, refusal.body, refusal.headers)

    def _apply_route_fault(self) -> None:
        fault = self.server.application.route_faults.get(self.route, {})
        if fault.get("hang"):
            self.hang()
        while self.server.application.route_faults.get(self.route, {}).get("held"):
            self.check_client(WATCH_S)
        self.wait(float(fault.get("delay_s", 0)))
        if "status" in fault:
            raise self.server.application.refusal(int(fault["status"]), "scripted for this route")

    def _read_body(self) -> None:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self.raw = self._read_chunks()
        else:
            self.raw = self.rfile.read(min(int(self.headers.get("content-length") or 0), BODY_BYTES_MAX))
        try:
            self.body = json.loads(self.raw) if self.raw else None
        except ValueError:
            self.body = None

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
            if len(body) > BODY_BYTES_MAX:
                raise ConnectionError("a body without end")
        self.rfile.readline()
        return bytes(body)

    def _control(self) -> None:
        try:
            status, answer = self.server.control(self.command, self.route, self.body)
        except ValueError as error:
            status, answer = 400, {"error": str(error)}
        self.close_connection = True
        self._send(status, json.dumps(answer).encode(), "application/json", {"connection": "close"})

    # What applications answer with.

    def send_answer(
        self, status: int, body: JsonObject | None, headers: dict[str, str] | None = None
    ) -> None:
        """A whole answer: `body` as JSON, or an empty one when None."""
        self.entry["status"] = status
        payload = b"" if body is None else json.dumps(body).encode()
        self._send(status, payload, "application/json; charset=utf-8", headers or {})

    def send_text(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.entry["status"] = status
        self._send(status, text.encode(), "text/plain; charset=utf-8", headers or {})

    def send_raw(self, status: int, payload: bytes, content_type: str) -> None:
        self.entry["status"] = status
        self._send(status, payload, content_type, {})

    def send_cut_answer(self, body: JsonObject) -> None:
        """The head of a whole answer and half of its body, then the connection is cut."""
        self.entry["status"] = 200
        payload = json.dumps(body).encode()
        self._send(200, payload, "application/json; charset=utf-8", {}, bytes_sent=len(payload) // 2)
        self.cut()

    def _send(
        self,
        status: int,
        payload: bytes,
        content_type: str,
        headers: dict[str, str],
        bytes_sent: int | None = None,
    ) -> None:
        self.send_response(status)
        if payload:
            self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(payload)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload[:bytes_sent])

    def start_stream(self, content_type: str, headers: dict[str, str] | None = None) -> None:
        """Status 200 and the head of a chunked answer."""
        self.entry["status"] = 200
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("transfer-encoding", "chunked")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def send_chunk(self, payload: bytes) -> None:
        self.check_client()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(payload), payload))

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Ends the connection in the middle of an answer."""
        self.entry["outcome"] = "cut"
        self.close_connection = True
        _shut(self.connection)

    # Waiting, always with an eye on the client.

    def hang(self) -> None:
        """Says nothing more until the client leaves; never returns."""
        self.wait(FOREVER_S)

    def wait(self, seconds: float) -> None:
        """Waits; ClientLeft at once when the client goes away meanwhile."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            self.check_client(remaining)

    def wait_until(self, condition: threading.Condition, predicate: Callable[[], bool]) -> None:
        """Waits, holding `condition`, until `predicate` is true; ClientLeft when the client goes first."""
        while not predicate():
            condition.wait(WATCH_S)
            self.check_client()

    def check_client(self, timeout_s: float = 0.0) -> None:
        """Raises ClientLeft when the client has closed; waits up to `timeout_s` for that to happen."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        if not poll.poll(min(timeout_s, 3600.0) * 1000):
            return
        try:
            with socket.socket(fileno=os.dup(self.connection.fileno())) as plain:  # TLS cannot peek
                waiting = plain.recv(1, socket.MSG_PEEK)
        except OSError as error:
            raise ClientLeft from error
        if not waiting:
            raise ClientLeft
        time.sleep(min(timeout_s, WATCH_S))  # a pipelined request: readable, yet no news about leaving


class StandInServer(ThreadingHTTPServer):
    """Listens, keeps the log, and answers the control routes."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self,
        address: tuple[str, int],
        new_application: Callable[[], Application],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        self._new_application = new_application
        self.application = new_application()
        self.plays_dead = False
        self.connections: set[socket.socket] = set()
        self._log: collections.deque[JsonObject] = collections.deque(maxlen=LOG_ENTRIES_MAX)
        self._log_lock = threading.Lock()
        self._entries = 0
        self._started = time.monotonic()
        super().__init__(address, Exchange)

    def server_bind(self) -> None:
        # HTTPServer would look its own name up, which can take seconds where there is no name service.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def open_entry(self, exchange: Exchange, query: str) -> JsonObject:
        """Appends a log entry; its `status` and `outcome` are None until the exchange has got that far."""
        with self._log_lock:
            self._entries += 1
            entry: JsonObject = {
                "n": self._entries,
                "at_ms": round((time.monotonic() - self._started) * 1000),
                "method": exchange.command,
                "path": exchange.route,
                "query": query,
                "headers": {name.lower(): value for name, value in exchange.headers.items()},
                "body": exchange.body
                if exchange.body is not None
                else exchange.raw.decode("utf-8", "replace"),
                "status": None,
                "outcome": None,
            }
            self._log.append(entry)
        return entry

    def control(self, method: str, route: str, body: Any) -> tuple[int, Any]:
        """The answer to a control request; ValueError for a script that cannot be played."""
        match (method, route):
            case ("GET", "/__log"):
                with self._log_lock:
                    return 200, list(self._log)
            case ("GET", "/__state"):
                return 200, self.application.state() | {"down": self.plays_dead}
            case ("POST", "/__script"):
                if not isinstance(body, dict):
                    raise ValueError("a script is a JSON object")
                self.application.load_script(body)
            case ("POST", "/__reset"):
                self._reset()
            case ("POST", "/__down"):
                self.plays_dead = True
                self._cut_connections()
            case ("POST", "/__up"):
                self.plays_dead = False
            case _:
                return 404, {"error": f"no control route {method} {route}"}
        return 200, {"ok": True}

    def _reset(self) -> None:
        self._cut_connections()
        self.application.close()
        with self._log_lock:
            self.application = self._new_application()
            self.plays_dead = False
            self._log.clear()

    def _cut_connections(self) -> None:
        for connection in list(self.connections):
            _shut(connection)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other end was faster


def check_keys(where: str, given: JsonObject, known: set[str]) -> None:
    """ValueError when `given` has a key that is not `known`: a misspelt script must not pass in silence."""
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def command_line(name: str) -> argparse.ArgumentParser:
    """The options that both stand-ins have."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.standins.{name}")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--script", type=Path, help="a JSON file; see the head of tests/standins/replies.py")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when standard input is closed")
    return parser


def serve(
    new_application: Callable[[], Application],
    options: argparse.Namespace,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, which end the process at once with exit code 0. With `tls` the same port answers
    http and https."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    script: JsonObject = json.loads(options.script.read_text("utf-8")) if options.script else {}

    def scripted_application() -> Application:
        application = new_application()
        application.load_script(script)
        return application

    server = StandInServer((options.host, options.port), scripted_application, tls)
    if options.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    url = f"http://{options.host}:{server.server_port}"
    print(json.dumps({"ready": True, "url": url, "pid": os.getpid()}), flush=True)
    server.serve_forever()


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)
