"""The sidecar's connection to the hub: a DEALER with CURVE, hello, heartbeats, a new start after silence.

Rules it keeps:
* Heartbeats have a task of their own that does nothing else; nothing that is sent ever waits.
* The session token is stamped when a message is sent. Without a session nothing is sent: what must arrive
  lies in the outbox, what is running is listed in the next hello.
* After one lease length without a word from the hub `hub_gate` holds: the lease may belong to another by now.
  It opens only after the hub's verdicts and kills have been carried out.
* A hub that is silent gets a new socket, at the address that stands in the home by then, after a random wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol, cast

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from agentcom import __version__, limits, logs, messages
from agentcom.auth import HubAddress, KeyPair
from agentcom.errors import AgentComError, Refused
from agentcom.messages import Assign, AttemptBeat, Beat, Cancel, HostOffer, ResultAck, Welcome
from agentcom.model import Resources

HANDSHAKE_MS = 5000
RECONNECT_MS = 100  # libzmq's own tries on one socket, with its own jitter
RECONNECT_MS_MAX = 2000
CONNECT_S_MAX = 8.0  # without a connection for so long, the address is read again and a new socket made
HELLO_S_MAX = 10.0  # a hub that does not answer hello within this is asked again
HELLO_JITTER_S = 0.3  # after a restart of the hub every host greets it at once
REFUSED_WAIT_S = 5.0  # before the next hello after "busy" or another refusal of it
BACKOFF_S_MAX = 10.0
SILENT_BEATS = 3  # heartbeats without an answer before the connection is given up
RESOURCES_S = 5.0

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)
_FATAL = {
    "replaced": "another process with this home's host key has taken over; two sidecars must not share a key",
    "revoked": "the hub has revoked this host's key; run `agentcom join CODE` with a new code to come back",
}


class SessionEnded(AgentComError):
    """The hub will not have this process any more; the message says why and what to do."""

    code = "session_ended"


class _Lost(Exception):
    """This connection is of no use any more; a new one may be."""


class Offers(NamedTuple):
    """What this host can do, and what of it cannot be used: see messages.HostOffer."""

    capabilities: tuple[str, ...] = ()
    check_faults: tuple[str, ...] = ()
    program_faults: tuple[str, ...] = ()


class Host(Protocol):
    """What the session asks of the daemon. None of these may block or wait."""

    def offer(self) -> HostOffer: ...

    def quiet_until_ms(self) -> int: ...
    def no_room(self) -> str: ...
    def beats(self) -> tuple[AttemptBeat, ...]: ...
    def resources(self) -> Resources | None: ...
    def new_offers(self) -> Offers | None: ...
    def welcomed(self, welcome: Welcome) -> None: ...
    def received(self, message: Assign | Cancel | ResultAck | Beat | messages.Preload) -> None: ...


class Session:
    """A host's standing with its hub. `process` is random per start of the sidecar.

    `address` is asked before each connection and may answer None while the hub's address is not known.
    """

    def __init__(
        self,
        host: Host,
        *,
        key: KeyPair,
        address: Callable[[], HubAddress | None],
        process: str,
        heartbeat_s: float,
        lease_s: float,
        resources_s: float = RESOURCES_S,
    ) -> None:
        self._host = host
        self._key = key
        self._address = address
        self._process = process
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        self._resources_s = resources_s
        self._log = logs.get()
        self._context = zmq.asyncio.Context()
        self._socket: zmq.asyncio.Socket | None = None
        self._token: bytes | None = None
        self._is_connected = False
        self._connected_or_tried = 0.0
        self._last_heard: float | None = None
        self._heard = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._hello_wanted = asyncio.Event()
        self._hello_answered = asyncio.Event()
        self._pace_changed = asyncio.Event()
        self._hello_wait_s = 0.0
        self._beat = 0
        self._resources_sent = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the hub has welcomed this process on the present connection."""
        return self._token is not None

    async def run(self) -> None:
        """Keeps a session for ever. Raises SessionEnded when the hub refuses this process for good."""
        failures = 0
        try:
            while True:
                was_open = await self._one_connection()
                failures = 0 if was_open else failures + 1
                wait_s = min(0.2 * 2**failures, BACKOFF_S_MAX)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
        finally:
            self._context.destroy(linger=200)

    def send(self, make: Callable[[bytes], msgspec.Struct]) -> bool:
        """Sends what `make(token)` gives, without ever waiting; False when it did not leave."""
        return self._token is not None and self._put(make(self._token))

    async def hub_gate(self) -> None:
        """Returns when the hub has been heard within one lease length; await it before each model call."""
        while self._last_heard is None or time.monotonic() - self._last_heard >= self._lease_s:
            self._heard.clear()
            await self._heard.wait()

    async def _one_connection(self) -> bool:
        """One socket's life; whether the hub ever welcomed us on it."""
        address = self._address()
        if address is None:
            return False
        socket = self._open(address)
        monitor = socket.get_monitor_socket(_EVENTS)
        self._socket, self._is_connected = socket, False
        self._connected_or_tried = time.monotonic()
        self._welcomed.clear()
        self._hello_wanted.clear()
        parts = (
            self._receive(socket),
            self._watch(monitor),
            self._greet(),
            self._beats(),
            self._silence(address),
        )
        try:
            await _first_to_fail(parts)
        except _Lost as reason:
            self._log.warning("hub_connection_lost", reason=str(reason), hub=address.hub)
        finally:
            self._socket, self._token = None, None
            with contextlib.suppress(zmq.ZMQError):
                socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=200)
        return self._welcomed.is_set()

    def _open(self, address: HubAddress) -> zmq.asyncio.Socket:
        socket = self._context.socket(zmq.DEALER)
        socket.curve_serverkey = address.key.encode()
        socket.curve_publickey = self._key.public.encode()
        socket.curve_secretkey = self._key.secret.encode()
        for option, value in (
            (zmq.IMMEDIATE, 1),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX),
            (zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX),
            (zmq.TCP_KEEPALIVE, 1),
        ):
            socket.setsockopt(option, value)
        socket.connect(address.hub)
        return socket

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        is_refusal_known = False
        while True:
            event = int((await recv_monitor_message(monitor))["event"])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._is_connected, self._connected_or_tried = True, time.monotonic()
                self._want_hello(random.uniform(0, HELLO_JITTER_S) if self._beat else 0.0)  # noqa: S311
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and not is_refusal_known:
                is_refusal_known = True
                self._log.error(
                    "host_key_refused",
                    remedy="the hub does not know this host's key; run `agentcom join CODE` with a new code",
                )
            elif self._is_connected:
                self._is_connected, self._connected_or_tried = False, time.monotonic()
                self._token = None

    def _want_hello(self, wait_s: float = 0.0) -> None:
        self._token = None
        self._hello_wait_s = wait_s
        self._hello_wanted.set()
        self._hello_answered.set()

    async def _greet(self) -> None:
        """Says hello whenever it is wanted, and again until it is answered."""
        while True:
            await self._hello_wanted.wait()
            self._hello_wanted.clear()
            await asyncio.sleep(self._hello_wait_s)
            if not self._is_connected or self._hello_wanted.is_set():
                continue  # the next handshake, or a later wish, asks again
            self._hello_answered.clear()
            self._put(
                messages.Hello(
                    protocol=limits.PROTOCOL_VERSION,
                    process=self._process,
                    software=f"agentcom-sidecar {__version__}",
                    host=self._host.offer(),
                    takes_many=True,
                )
            )
            try:
                async with asyncio.timeout(HELLO_S_MAX):
                    await self._hello_answered.wait()
            except TimeoutError:
                self._want_hello()

    async def _beats(self) -> None:
        while True:
            await self._welcomed.wait()
            self._beat += 1
            self.send(self._heartbeat)
            self._pace_changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_s):
                    await self._pace_changed.wait()

    def _heartbeat(self, token: bytes) -> messages.Heartbeat:
        offers = self._host.new_offers()
        return messages.Heartbeat(
            session=token,
            beat=self._beat,
            attempts=self._host.beats()[: limits.ATTEMPTS_PER_HOST_MAX],
            resources=self._due_resources(),
            quiet_until_ms=self._host.quiet_until_ms(),
            no_room=self._host.no_room()[: limits.REASON_CHARS_MAX],
            capabilities=offers.capabilities if offers else None,
            check_faults=offers.check_faults if offers else None,
            program_faults=offers.program_faults if offers else None,
        )

    def _due_resources(self) -> Resources | None:
        now = time.monotonic()
        if now - self._resources_sent < self._resources_s * 0.9:
            return None
        found = self._host.resources()
        if found is None:
            return None
        self._resources_sent = now
        # The hub calls figures old by this: heartbeats carry them, so they never come more often.
        every_s = math.ceil(max(self._resources_s, self._heartbeat_s))
        return msgspec.structs.replace(found, every_s=min(max(1, every_s), limits.REPORT_S_MAX))

    async def _silence(self, address: HubAddress) -> None:
        """Ends the connection when there is none, when the hub has moved, or when nothing comes through."""
        while True:
            await asyncio.sleep(min(1.0, self._heartbeat_s))
            now = time.monotonic()
            if not self._is_connected and now - self._connected_or_tried > CONNECT_S_MAX:
                raise _Lost(f"no connection for {CONNECT_S_MAX:g} s")
            if not self._is_connected and self._address() not in (None, address):
                raise _Lost("the hub has another address now")
            silent_s = now - max(self._last_heard or 0.0, self._connected_or_tried)
            if self._is_connected and silent_s > SILENT_BEATS * max(self._heartbeat_s, 1.0) + HELLO_S_MAX / 2:
                raise _Lost(f"no answer for {silent_s:.0f} s")

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames: list[bytes] = await socket.recv_multipart()
            try:
                if len(frames) != 1:
                    raise Refused("malformed", f"{len(frames)} frames instead of one")
                found = messages.read_from_hub(frames[0])
            except Refused as error:
                self._log.warning("message_not_understood", reason=error.message)
                continue
            for message in found:
                self._take(message)

    def _take(self, message: messages.FromHub) -> None:
        match message:
            case messages.Error():
                self._take_error(message)
                return
            case Welcome():
                self._token = message.session
                self._heartbeat_s, self._lease_s = message.heartbeat_s, message.lease_s
                self._host.welcomed(message)
                self._welcomed.set()
                self._hello_answered.set()
            case messages.Ping():
                self.send(lambda token: messages.Pong(session=token, agent=message.agent))
            case Assign() | Cancel() | ResultAck() | Beat() | messages.Preload():
                if isinstance(message, Beat) and message.pace is not None:
                    self._heartbeat_s, self._lease_s = message.pace.heartbeat_s, message.pace.lease_s
                    self._pace_changed.set()
                self._host.received(message)
            case _:
                self._log.warning("message_unexpected", type=type(message).__name__)
        # Only now: whoever waits at the gate must first have met the verdicts and kills in this message.
        self._last_heard = time.monotonic()
        self._heard.set()

    def _take_error(self, error: messages.Error) -> None:
        if error.code in _FATAL:
            raise SessionEnded(f"{_FATAL[error.code]} ({error.message})", code=error.code)
        if error.code == "no_session":
            if self._token is not None:  # one hello, however many messages the hub no longer knew
                self._log.info("session_forgotten")
                self._want_hello()
            return
        self._log.warning("hub_refused", code=error.code, reason=error.message, field=error.field)
        if self._token is None:
            self._want_hello(error.retry_after_s or REFUSED_WAIT_S)

    def _put(self, message: msgspec.Struct) -> bool:
        body = messages.encode(message)
        if len(body) > limits.REQUEST_BYTES_MAX:
            self._log.error("message_too_large", type=type(message).__name__, bytes=len(body))
            return False
        if self._socket is None:
            return False
        # With NOBLOCK this is decided when the call returns: the future is done, or the pipe is full or gone.
        sent = cast("asyncio.Future[None]", self._socket.send(body, flags=zmq.NOBLOCK))
        return sent.done() and sent.exception() is None


async def _first_to_fail(parts: tuple[Coroutine[Any, Any, None], ...]) -> None:
    """Runs all; when one raises, ends the others and raises the same."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
