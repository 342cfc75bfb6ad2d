"""A caller's side of the wire: finds the hub, says hello, sends a request, waits for its reply.

A request that was lost with its connection is repeated where a repeat changes nothing. The hub's address file
is read again while nobody answers, because a hub that restarts may have another port and another process id.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq

from agentcom import __version__, limits
from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair, address_fault, load_key, read_hub_address
from agentcom.config import Home
from agentcom.connection import Connection, ConnectionLost, NoAnswer
from agentcom.errors import ConfigError, HubUnreachable, NotFound, ProtocolViolation, Refused

HUB_VARIABLE = "AGENTCOM_HUB"
REPLY_S = 30.0  # how long a hub that has said welcome may take for one reply
REPEATS_MAX = 3
LOOK_AGAIN_S = 0.25  # while the hub is away: how often its address file is read again

# A second run of these gives the same state as one run; the others are not repeated when a reply was lost.
REPEATABLE = (
    m.Submit, m.TaskGet, m.TaskWait, m.TaskList, m.TaskWhy, m.TaskLog, m.TaskReports, m.TaskHold, m.DeadList,
    m.AgentList, m.AgentCordon, m.HostList, m.HostShow, m.HostDrain, m.HostAcceptKey, m.WorktreeList, m.EndpointList,
    m.EndpointShow, m.EndpointUpdate, m.EndpointProbeNow, m.QueueStats, m.QueuePause, m.TokenList, m.Whoami,
    m.Snapshot, m.HubStatus,
)  # fmt: skip


class _SessionLost(Exception):
    """The hub does not know the session: the request was not carried out."""


def hub_of(home: Home, hub: str | None) -> HubAddress:
    """Where the hub is now: `hub` or AGENTCOM_HUB with the public key that this home knows, else what the hub
    or `agentcom join` wrote down. HubUnreachable with the remedy when nothing is known, ConfigError for an address that
    is none."""
    address = hub or os.environ.get(HUB_VARIABLE) or ""
    fault = address_fault(address) if address else ""
    if fault:
        raise ConfigError(fault if hub else f"{HUB_VARIABLE}: {fault}; set it to one, or unset it")
    known = read_hub_address(home)
    if known is None:
        at = f"the public key of the hub at {address}" if address else "any hub"
        raise HubUnreachable(f"{home.path} does not know {at}; run `agentcom up`, or `agentcom join CODE`")
    return msgspec.structs.replace(known, hub=address) if address else known


def key_of(home: Home) -> KeyPair:
    """The key that people use from this home: the admin key beside a hub, else one that `join` enrolled.

    Never the host's own key: it may only touch its own agents. ConfigError says what to ask for.
    """
    of_hub = (home.run / "hub.json").exists() or not (home.keys / "user.key").exists()
    for path in (home.keys / "admin.key",) if of_hub else ():
        if path.exists():
            return load_key(path)
    if (home.keys / "user.key").exists():
        return load_key(home.keys / "user.key")
    if (home.keys / "host.key").exists():
        raise ConfigError(
            f"{home.path} has only a host key, which may not ask for anything; on the hub's machine run "
            "`agentcom host invite --role submit`, and here `agentcom join CODE`"
        )
    raise ConfigError(f"{home.path} has no key; start a hub with `agentcom up`, or run `agentcom join CODE`")


class Connector:
    """Makes connections to wherever the hub is now and says hello on them. Owns one ZeroMQ context."""

    def __init__(self, locate: Callable[[], HubAddress], pair: KeyPair) -> None:
        self._locate = locate
        self._pair = pair
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.process = secrets.token_hex(16)

    def close(self) -> None:
        # The context is what libzmq's own thread belongs to: term ends that thread, so none is leaked.
        self._context.term()

    def open(self, first: bytes, until: float) -> tuple[Connection, m.FromHub]:
        """A connection on which the hub has answered `first`; HubUnreachable at `until` (monotonic seconds).

        The address is read again while nobody answers: a hub that restarts may have another port.
        """
        address = self._locate()
        connection = self._begin(address, first)
        try:
            while True:
                try:
                    return connection, connection.receive(min(until, time.monotonic() + LOOK_AGAIN_S))
                except (NoAnswer, ConnectionLost) as lost:
                    if time.monotonic() >= until:
                        raise self._unreachable(address, connection) from None
                    now = self._locate()
                    if (now.hub, now.key) != (address.hub, address.key) or isinstance(lost, ConnectionLost):
                        connection.close()
                        time.sleep(0.05)  # a hub that closes each connection must not make this loop spin
                        address, connection = now, self._begin(now, first)
        except BaseException:
            connection.close()
            raise

    def _begin(self, address: HubAddress, first: bytes) -> Connection:
        connection = Connection(self._context, address.hub, address.key, self._pair)
        try:
            connection.send(first)
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _unreachable(address: HubAddress, connection: Connection) -> HubUnreachable:
        if connection.handshake_failed:
            return HubUnreachable(
                f"what listens at {address.hub} is not the hub that this home knows, or does not know this "
                "home's key; check the address, or join again with a code from `agentcom host invite`"
            )
        return HubUnreachable(f"no hub answers at {address.hub}; start it with `agentcom up`, or check --hub")


class Caller:
    """One session with one hub, made when first needed and again after each loss. Thread-safe: calls take
    turns. `timeout_s` bounds how long the hub may take to be reached, at first and after each loss."""

    def __init__(self, locate: Callable[[], HubAddress], pair: KeyPair, *, timeout_s: float = 5.0) -> None:
        self.timeout_s = timeout_s
        self.welcome: m.Welcome | None = None
        self.ahead_s = 0.0  # of the hub's clock, which all its times go by, as against this machine's
        self._lock = threading.RLock()
        self._connector: Connector | None = Connector(locate, pair)
        self._connection: Connection | None = None
        self._request = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye and free the sockets and the context; a second call does nothing."""
        with self._lock:
            connector, self._connector = self._connector, None
            if connector is None:
                return
            self._drop(farewell=True)
            connector.close()

    def call(self, op: m.Operation, reply_s: float = REPLY_S) -> Any:
        """The reply value of one operation. `reply_s` bounds the wait for the reply alone."""
        self._check_size(op)
        with self._lock:
            for _ in range(REPEATS_MAX):
                welcome, connection = self._session()
                self._request += 1
                try:
                    connection.send(m.encode(m.Request(session=welcome.session, id=self._request, op=op)))
                    return self._reply(connection, time.monotonic() + reply_s)
                except _SessionLost:
                    self._drop()
                except (ConnectionLost, NoAnswer):
                    self._drop()
                    if not isinstance(op, REPEATABLE):
                        raise HubUnreachable(
                            "the hub went away before it answered; whether this was done is not known: "
                            "look before you repeat it"
                        ) from None
            raise HubUnreachable(f"the hub went away {REPEATS_MAX} times before it answered; see its log")

    def _reply(self, connection: Connection, until: float) -> Any:
        while True:
            message = connection.receive(until)
            if isinstance(message, m.Reply) and message.id == self._request:
                return message.value
            if isinstance(message, m.Error) and message.id in (None, self._request):
                if message.code == "no_session":
                    # Without the request's number it says nothing of what became of the request.
                    raise ConnectionLost(connection.address) if message.id is None else _SessionLost
                raise raised(message)

    def _session(self) -> tuple[m.Welcome, Connection]:
        with self._lock:
            if self.welcome is not None and self._connection is not None:
                return self.welcome, self._connection
            if self._connector is None:
                raise HubUnreachable("this client is closed; make another with Client.connect()")
            hello = m.Hello(
                protocol=limits.PROTOCOL_VERSION,
                process=self._connector.process,
                software=f"agentcom {__version__}",
            )
            connection, answer = self._connector.open(m.encode(hello), time.monotonic() + self.timeout_s)
            if not isinstance(answer, m.Welcome):
                connection.close()
                if isinstance(answer, m.Error):
                    raise raised(answer)
                raise ProtocolViolation(f"the hub answered hello with {type(answer).__name__}")
            self.welcome, self._connection = answer, connection
            self.ahead_s = m.ahead_s(answer, time.time())
            return answer, connection

    def _drop(self, farewell: bool = False) -> None:
        connection, self._connection = self._connection, None
        welcome, self.welcome = self.welcome, None
        if connection is not None:
            bye = m.encode(m.Bye(session=welcome.session)) if farewell and welcome else None
            connection.close(bye)

    @staticmethod
    def _check_size(op: m.Operation) -> None:
        size = len(m.encode(m.Request(session=bytes(limits.SESSION_TOKEN_BYTES), id=2**62, op=op)))
        if size > limits.REQUEST_BYTES_MAX:
            hint = "; submit smaller batches" if isinstance(op, m.Submit) and len(op.tasks) > 1 else ""
            most = limits.REQUEST_BYTES_MAX
            raise Refused("too_large", f"this request has {size} bytes, the hub takes {most}{hint}")


def raised(error: m.Error) -> Refused:
    if error.code == "not_found":
        return NotFound(error.message, field=error.field)
    return Refused(error.code, error.message, field=error.field, retry_after_s=error.retry_after_s)
