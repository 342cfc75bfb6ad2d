"""Clients of beanstalkd and NATS JetStream as fast as their protocols allow: requests are sent without waiting for
the answer to the one before, several in one write. Enough for the benchmark, no more.
"""

from __future__ import annotations

import json
import secrets
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

RECEIVE_BYTES: Final = 1 << 16
RESERVED_S: Final = 300
STREAM: Final = "bench"
SUBJECT: Final = "bench.tasks"
CONSUMER: Final = "workers"
ACK_PENDING_MAX: Final = 10_000  # messages that may be with workers
PULL: Final = 64  # messages asked for at a time
PULLS: Final = 2  # so that one is on its way while the other is worked off
PULL_NS: Final = 30 * 10**9
NEWLINE: Final = b"\r\n"

BODY_BYTES: Final = 255

Begin = Callable[[bytes], None]
End = Callable[[Iterable[bytes]], None]


def body_of(task: int) -> bytes:
    """A task's work, as long as a submit to the hub in bench.hub."""
    return (b"%d" % task).ljust(BODY_BYTES, b".")


def task_of(body: bytes) -> int:
    return int(body.rstrip(b"."))


class Line:
    """A TCP connection read by lines and counts."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def receive(self) -> None:
        """More of what has arrived; waits for at least a byte."""
        found = self.socket.recv(RECEIVE_BYTES)
        if not found:
            raise RuntimeError("the server closed the connection")
        self.buffer += found

    def line(self) -> bytes | None:
        """The next whole line, without its end."""
        head, separator, rest = self.buffer.partition(NEWLINE)
        if not separator:
            return None
        self.buffer = rest
        return head

    def wait_line(self) -> bytes:
        while (found := self.line()) is None:
            self.receive()
        return found


# --- beanstalkd -----------------------------------------------------------------------------------------


class BeanstalkSubmits:
    """Puts on one connection, pipelined: the server answers them in order."""

    def __init__(self, port: int) -> None:
        self._line = Line(port)
        self._open: deque[int] = deque()

    def prepare(self, in_flight: int) -> None:
        """Nothing: one connection carries any number."""

    def close(self) -> None:
        self._line.socket.close()

    def fileno(self) -> int:
        return self._line.fileno()

    def submit(self, tasks: Sequence[int]) -> None:
        self._open.extend(tasks)
        self._line.send(b"".join(_put(body_of(task)) for task in tasks))

    def acknowledged(self) -> list[int]:
        self._line.receive()
        found = []
        while (line := self._line.line()) is not None:
            if not line.startswith(b"INSERTED "):
                raise RuntimeError(f"beanstalkd answered a put with {line!r}")
            found.append(self._open.popleft())
        return found


def _put(body: bytes) -> bytes:
    return b"put 0 0 %d %d\r\n%b\r\n" % (RESERVED_S, len(body), body)


def work_beanstalkd(port: int, slots: int, begin: Begin, finish: End) -> None:
    """Each slot is a connection that deletes its finished job and reserves the next one in one write."""
    selector = selectors.DefaultSelector()
    for _ in range(slots):
        slot = Line(port)
        slot.send(b"reserve\r\n")
        selector.register(slot.socket, selectors.EVENT_READ, (slot, deque[bytes]()))
    while True:
        finished: list[bytes] = []
        for key, _ in selector.select():
            slot, working = key.data
            slot.receive()
            while (answer := beanstalkd_answer(slot)) is not None:
                if answer == b"DELETED":
                    finished.append(working.popleft())
                    continue
                job, body = answer.split(b"\r\n", 1)
                begin(body)
                working.append(body)
                slot.send(b"delete %b\r\nreserve\r\n" % job)
        if finished:
            finish(finished)


def beanstalkd_answer(slot: Line) -> bytes | None:
    """DELETED, or a reserved job as its number, a line end and its body; None while there is no whole one."""
    head, separator, rest = slot.buffer.partition(NEWLINE)
    if not separator:
        return None
    words = head.split()
    if words == [b"DELETED"]:
        slot.buffer = rest
        return b"DELETED"
    if len(words) != 3 or words[0] != b"RESERVED":
        raise RuntimeError(f"beanstalkd answered {head!r}")
    length = int(words[2])
    if len(rest) < length + len(NEWLINE):
        return None
    slot.buffer = rest[length + len(NEWLINE) :]
    return words[1] + NEWLINE + rest[:length]


# --- NATS JetStream -------------------------------------------------------------------------------------


class Nats(Line):
    """A connection to a NATS server. Messages are (subscription, reply subject, body); None for a body tells of
    a status without one, such as a pull that has run out."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.wait_line()  # INFO
        self.send(
            b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nPING\r\n'
        )
        while self.wait_line() != b"PONG":
            continue
        self._part: tuple[int, bytes, int, bool] | None = None

    def messages(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """What has arrived whole. Answers the server's PING on the way."""
        while True:
            if self._part is None:
                line = self.line()
                if line is None:
                    return
                self._head(line)
                continue
            subscription, reply, length, is_status = self._part
            if len(self.buffer) < length + len(NEWLINE):
                return
            body, self.buffer = self.buffer[:length], self.buffer[length + len(NEWLINE) :]
            self._part = None
            yield subscription, reply, None if is_status else body

    def _head(self, line: bytes) -> None:
        words = line.split()
        if words[0] == b"PING":
            self.send(b"PONG\r\n")
        elif words[0] in (b"MSG", b"HMSG"):
            reply = words[3] if len(words) > (4 if words[0] == b"MSG" else 5) else b""
            self._part = int(words[2]), reply, int(words[-1]), words[0] == b"HMSG"
        elif words[0] == b"-ERR":
            raise RuntimeError(f"the NATS server said {line!r}")

    def ask(self, subject: str, question: Mapping[str, object]) -> None:
        """One request of JetStream's own API; RuntimeError when it is refused."""
        body = json.dumps(question).encode()
        self.send(b"SUB _INBOX.ask 9\r\nUNSUB 9 1\r\n" + publish(subject.encode(), body, b"_INBOX.ask"))
        while True:
            for _, _, answer in self.messages():
                found = json.loads(answer or b'{"error": "no JetStream"}')
                if "error" in found:
                    raise RuntimeError(f"{subject}: {found['error']}")
                return
            self.receive()


def publish(subject: bytes, body: bytes, reply: bytes = b"") -> bytes:
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)


def make_stream(port: int) -> None:
    """A queue in files: what is acknowledged leaves it."""
    stream = {"name": STREAM, "subjects": [SUBJECT], "storage": "file", "retention": "workqueue"}
    nats = Nats(port)
    nats.ask(f"$JS.API.STREAM.CREATE.{STREAM}", stream)
    nats.socket.close()


class NatsSubmits:
    """Publishes into a stream on one connection, pipelined; each is answered when it is in the stream."""

    def __init__(self, port: int) -> None:
        make_stream(port)
        self._nats = Nats(port)
        self._open: deque[int] = deque()
        settings = {"durable_name": CONSUMER, "ack_policy": "explicit", "max_ack_pending": ACK_PENDING_MAX}
        create = {"stream_name": STREAM, "config": settings}
        self._nats.ask(f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}", create)
        self._nats.send(b"SUB _INBOX.put 1\r\n")

    def prepare(self, in_flight: int) -> None:
        """Nothing: one connection carries any number."""

    def close(self) -> None:
        self._nats.socket.close()

    def fileno(self) -> int:
        return self._nats.fileno()

    def submit(self, tasks: Sequence[int]) -> None:
        self._open.extend(tasks)
        self._nats.send(b"".join(publish(SUBJECT.encode(), body_of(task), b"_INBOX.put") for task in tasks))

    def acknowledged(self) -> list[int]:
        self._nats.receive()
        found = []
        for _, _, body in self._nats.messages():
            if body is None or b'"error"' in body:
                raise RuntimeError(f"JetStream answered a publish with {body!r}")
            found.append(self._open.popleft())
        return found


def work_nats(port: int, _slots: int, begin: Begin, finish: End) -> None:
    """Pulls in batches, two under way; acknowledges together what was received together, and tells of a task
    when the server has answered its acknowledgement."""
    nats = Nats(port)
    inbox = b"_INBOX.%b" % secrets.token_hex(8).encode()  # a message for one is for all who listen there
    nats.send(b"".join(b"SUB %b.%d %d\r\n" % (inbox, n, n) for n in range(PULLS + 1)))
    wanted = dict.fromkeys(range(PULLS), 0)
    ask = json.dumps({"batch": PULL, "expires": PULL_NS}).encode()
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}".encode()
    working: deque[bytes] = deque()
    while True:
        for n in [n for n, count in wanted.items() if not count]:
            nats.send(publish(subject, ask, b"%b.%d" % (inbox, n)))
            wanted[n] = PULL
        nats.receive()
        finished, acknowledgements = [], []
        for n, reply, body in nats.messages():
            if n == PULLS:
                finished.append(working.popleft())
            elif body is None:
                wanted[n] = 0
            else:
                wanted[n] -= 1
                begin(body)
                working.append(body)
                acknowledgements.append(publish(reply, b"+ACK", b"%b.%d" % (inbox, PULLS)))
        if acknowledgements:
            nats.send(b"".join(acknowledgements))
        if finished:
            finish(finished)
