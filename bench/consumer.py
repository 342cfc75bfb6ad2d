"""The processes at the other end of the hub's benchmark: a bare ROUTER echo, hosts that do no work, and a crowd
of hosts that have none.

All take their orders as one JSON line on stdin, answer with one JSON line when ready, and end with SIGTERM, or
when the benchmark that started them is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import signal
import sys
import time
from array import array
from collections.abc import Iterator
from typing import Final, TypedDict

import msgspec
import zmq

from agentcom import lifeline, limits
from agentcom import messages as m
from agentcom.auth import KeyPair
from agentcom.figures import Gpu, Resources
from agentcom.model import Backend, ResultStatus, TaskResult
from bench.words import Told

FRAME_MESSAGES: Final = 500  # stays well below what the hub reads in a frame
HEARTBEAT_MS: Final = 5000
ANSWER_MS_MAX: Final = 10_000
SOCKETS_BESIDE: Final = 16
FRAMES_ASKED: Final = 8  # before each of so many frames it is asked whether there is one
# Plain integers: an enum's members cost more than the calls that they are for.
NOBLOCK, EVENTS, POLLIN = int(zmq.NOBLOCK), int(zmq.EVENTS), int(zmq.POLLIN)
FIGURES: Final = Resources(
    cpu_percent=3.0,
    cpu_per_logical=(3.0,) * 8,
    logical_cpus=8,
    load_1m=0.2,
    ram_total_bytes=32 << 30,
    ram_available_bytes=24 << 30,
    gpus=(Gpu(vram_total_bytes=24 << 30, vram_used_bytes=1 << 30, utilisation_percent=0.0, source="nvml"),),
)
RESULT: Final = TaskResult(status=ResultStatus.unchecked, backend=Backend.shell, model="none", cost_usd=0.0)


class EchoOrder(TypedDict):
    """`secret`: of the echo's own key; without one it does no CURVE."""

    secret: str


class CrowdOrder(TypedDict):
    """One host for each key, which is enrolled; `tells`: beats carry figures of the host, as a sidecar's do."""

    hub: str
    hub_key: str
    secrets: list[str]
    tells: bool


class HostOrder(TypedDict):
    """`invite_secret`: a one-time key of the hub; `done_to`: the pipe for words of finished tasks."""

    name: str
    agents: int
    hub: str
    hub_key: str
    invite_secret: str
    done_to: str


class Heard(msgspec.Struct, frozen=True, gc=False):
    """What a host of the benchmark looks at in a message of the hub; it skips the rest, as other peers' workers do."""

    type: str
    task: int = 0
    attempt: int = 0
    verdict: str = ""
    code: str = ""
    message: str = ""
    messages: tuple[Heard, ...] = ()


_heard: Final = msgspec.msgpack.Decoder(Heard).decode


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], address: str, server_key: str, own: KeyPair
) -> zmq.Socket[bytes]:
    """A DEALER that drops nothing by itself, with CURVE where the server has a key."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    if server_key:
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, server_key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, own.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, own.secret)
    socket.connect(address)
    return socket


def received(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    """What has arrived, at most one tick's worth."""
    for n in range(limits.TICK_MESSAGES_MAX):
        if n < FRAMES_ASKED and not int(socket.getsockopt(EVENTS)) & POLLIN:
            return  # as nearly always: asking costs less than the error
        try:
            yield socket.recv(NOBLOCK)
        except zmq.Again:
            return


def ask(socket: zmq.Socket[bytes], message: msgspec.Struct) -> m.FromHub:
    """One message and its answer; RuntimeError when the hub refuses or is silent."""
    socket.send(m.encode(message))
    if not socket.poll(ANSWER_MS_MAX):
        raise RuntimeError(f"no answer to {type(message).__name__} within {ANSWER_MS_MAX} ms")
    answer = m.decode_from_hub(socket.recv())
    if isinstance(answer, m.Error):
        raise RuntimeError(f"the hub refused {type(message).__name__}: {answer.code}: {answer.message}")
    return answer


def enrol(
    context: zmq.Context[zmq.Socket[bytes]], hub: str, hub_key: str, name: str, once: KeyPair
) -> KeyPair:
    """The key of a host that has joined with the one-time key of an invitation."""
    own = KeyPair.make()
    joining = dealer(context, hub, hub_key, once)
    ask(joining, m.Enrol(name=name, key=own.public))
    joining.close()
    return own


def hello(socket: zmq.Socket[bytes], name: str, agents: int, takes_many: bool = False) -> bytes:
    """The session of a host that offers so many agents for shell tasks."""
    offers = tuple(m.AgentOffer(name=f"{name}-{n}", backends=(Backend.shell,)) for n in range(agents))
    process = secrets.token_hex(8)
    offer = m.HostOffer(name=name, agents=offers)
    said = m.Hello(protocol=limits.PROTOCOL_VERSION, process=process, host=offer, takes_many=takes_many)
    answer = ask(socket, said)
    assert isinstance(answer, m.Welcome)
    return answer.session


def serve_echo(order: EchoOrder) -> None:
    """Sends every message back: one thread, a poller, and a drain without waiting, as in the hub's loop."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.SNDHWM, 0)
    router.setsockopt(zmq.RCVHWM, 0)
    if order["secret"]:
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt_string(zmq.CURVE_SECRETKEY, order["secret"])
    router.bind("tcp://127.0.0.1:*")
    _ready(address=router.getsockopt_string(zmq.LAST_ENDPOINT))
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    while True:
        poller.poll()
        for _ in range(limits.TICK_MESSAGES_MAX):
            try:
                address = router.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            body = router.recv(zmq.NOBLOCK)
            router.send(address, zmq.NOBLOCK | zmq.SNDMORE)
            router.send(body, zmq.NOBLOCK)


class IdleHost:
    """A host whose agents accept an assignment and bring its result in the same moment."""

    def __init__(self, order: HostOrder) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        once = KeyPair.of_secret(order["invite_secret"])
        own = enrol(self._context, order["hub"], order["hub_key"], order["name"], once)
        self._hub = dealer(self._context, order["hub"], order["hub_key"], own)
        self._done = Told(order["done_to"])
        self._session = hello(self._hub, order["name"], order["agents"], takes_many=True)
        self._beat = 0
        self._started_ns: dict[int, int] = {}
        self._to_say: list[bytes] = []

    def run(self) -> None:
        """Works until it is killed."""
        self._hub.setsockopt(zmq.RCVTIMEO, HEARTBEAT_MS)
        beat_at = 0.0
        while True:
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + HEARTBEAT_MS / 1000
                self._beat += 1
                self._hub.send(m.encode(m.Heartbeat(session=self._session, beat=self._beat)))
            with contextlib.suppress(zmq.Again):
                self._drain(self._hub.recv())

    def _drain(self, first: bytes) -> None:
        """Everything that has arrived; one word to the benchmark about all that was acknowledged: for each
        task its id, when its assignment was here, and when its result was known to be kept."""
        finished = array("q")
        for frame in itertools.chain((first,), received(self._hub)):
            heard = _heard(frame)
            for message in heard.messages or (heard,):
                self._take(message, finished)
        self._say()
        if finished:
            self._done.tell(finished)

    def _take(self, message: Heard, finished: array[int]) -> None:
        if message.type == "assign":
            self._do(message)
        elif message.type == "result_ack":
            assert message.verdict == "accepted", f"task {message.task}: {message.verdict}"
            finished.extend((message.task, self._started_ns.pop(message.task), time.monotonic_ns()))
        elif message.type == "error":
            raise RuntimeError(f"the hub refused: {message.code}: {message.message}")

    def _do(self, assign: Heard) -> None:
        session, task, attempt = self._session, assign.task, assign.attempt
        self._started_ns[task] = time.monotonic_ns()
        done = m.Result(session=session, task=task, attempt=attempt, outcome="completed", result=RESULT)
        self._to_say.append(m.encode(m.Accept(session=session, task=task, attempt=attempt)))
        self._to_say.append(m.encode(done))

    def _say(self) -> None:
        """What came of this turn, in frames of many messages."""
        while self._to_say:
            some, self._to_say = self._to_say[:FRAME_MESSAGES], self._to_say[FRAME_MESSAGES:]
            self._hub.send(m.encode_many(some))


class Crowd:
    """Idle hosts, each with a key and a connection of its own, whose heartbeats are spread evenly over their time."""

    def __init__(self, order: CrowdOrder) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.setsockopt(zmq.MAX_SOCKETS, len(order["secrets"]) + SOCKETS_BESIDE)
        self._hosts: list[tuple[zmq.Socket[bytes], bytes]] = []
        self._resources = FIGURES if order["tells"] else None
        for n, secret in enumerate(order["secrets"]):
            socket = dealer(self._context, order["hub"], order["hub_key"], KeyPair.of_secret(secret))
            self._hosts.append((socket, hello(socket, f"idle{n}", 1)))

    def run(self) -> None:
        """Beats until it is killed."""
        beat = 0
        while True:
            beat += 1
            begun = time.monotonic()
            for n, (socket, session) in enumerate(self._hosts):
                wait_s = begun + HEARTBEAT_MS / 1000 * n / len(self._hosts) - time.monotonic()
                time.sleep(max(wait_s, 0))
                said = m.Heartbeat(session=session, beat=beat, resources=self._resources)
                socket.send(m.encode(said))
                self._drain(socket)
            time.sleep(max(begun + HEARTBEAT_MS / 1000 - time.monotonic(), 0))

    @staticmethod
    def _drain(socket: zmq.Socket[bytes]) -> None:
        """The answers to the beats before."""
        while socket.poll(0):
            answer = m.decode_from_hub(socket.recv(zmq.NOBLOCK))
            if isinstance(answer, m.Error):
                raise RuntimeError(f"the hub refused: {answer.code}: {answer.message}")


def _ready(**fields: object) -> None:
    print(json.dumps({"ready": True, "pid": os.getpid(), **fields}), flush=True)


def main() -> int:
    lifeline.follow_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which then ends its children
    order = json.loads(sys.stdin.readline())
    if sys.argv[1:] == ["echo"]:
        serve_echo(order)
    if sys.argv[1:] == ["crowd"]:
        crowd = Crowd(order)
        _ready()
        crowd.run()
    host = IdleHost(order)
    _ready(name=order["name"])
    host.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
