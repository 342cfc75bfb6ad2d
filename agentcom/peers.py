"""Peers of the ROUTER: our own numbers for their addresses, and a bounded outbox for each that does not read.

A routing id is an address, never an identity, and never leaves this module. Sends never block: EAGAIN keeps the
message, EHOSTUNREACH ends the peer. Who has left more unread than is kept loses its session, and reads that next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from agentcom import limits
from agentcom import messages as m
from agentcom.wire import Wire

TOO_MUCH_UNREAD = m.encode(
    m.Error(code="no_session", message="too much was left unread, so this session has ended; say hello again")
)


class Peers:
    """Numbers rise and are never reused; the longest silent peer is dropped when there are too many."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._number_of: dict[bytes, int] = {}
        self._key_of: dict[int, str] = {}
        self._address_of: dict[int, bytes] = {}
        self._outbox: dict[int, deque[bytes]] = {}
        self._gone: list[int] = []
        self._to_be_told: dict[bytes, str] = {}  # addresses and keys whose session ended because they do not read
        self._takes_many: set[int] = set()
        self._host_of: dict[str, int] = {}  # by key: where each host said hello last
        self._held: dict[int, list[bytes]] = {}  # for peers that take many, until the end of the tick
        self._next = 1

    @property
    def hosts(self) -> int:
        """How many have said hello as a host, and not bye: each key once, however often it came under a new address."""
        return len(self._host_of)

    @property
    def waiting(self) -> bool:
        """Whether some peer's messages wait for it to read."""
        return bool(self._outbox)

    def number(self, address: bytes, key: str) -> int:
        """Our number for an address; marks it as heard just now. An address under another key is another peer:
        the one before has departed, and what was meant for it must not reach its successor."""
        number = self._number_of.get(address)
        if number is not None and self._key_of[number] != key:
            self._drop(number)
            number = None
        if number is None:
            if len(self._number_of) >= limits.PEERS_MAX:
                self._drop(next(iter(self._number_of.values())))
            number, self._next = self._next, self._next + 1
            self._number_of[address] = number
            self._address_of[number] = address
            self._key_of[number] = key
            if self._to_be_told.get(address, key) != key:
                del self._to_be_told[address]
        elif len(self._number_of) > limits.PEERS_MAX // 2:
            # Keep the dict in order of last use, but only once it matters who goes first.
            del self._number_of[address]
            self._number_of[address] = number
        return number

    def takes_many(self, peer: int) -> None:
        """The peer has said that it understands frames of several messages."""
        self._takes_many.add(peer)

    def host_came(self, peer: int) -> None:
        self._host_of[self._key_of[peer]] = peer

    def host_left(self, peer: int) -> None:
        """Nothing where that host has come by another way since."""
        key = self._key_of[peer]
        if self._host_of.get(key) == peer:
            del self._host_of[key]

    def send(self, peer: int, body: bytes) -> None:
        """Send now, or with what else the peer gets in this tick, or when it reads. A peer that is gone is reported
        by `take_gone`."""
        if peer in self._takes_many:
            self._held.setdefault(peer, []).append(body)
        else:
            self._send(peer, body)

    def send_held(self) -> None:
        """The tick has said all: send what was held, a frame for each peer where it fits."""
        held, self._held = self._held, {}
        for peer, bodies in held.items():
            for some in _in_frames(bodies):
                self._send(peer, some[0] if len(some) == 1 else m.encode_many(some))

    def _send(self, peer: int, body: bytes) -> None:
        waiting = self._outbox.get(peer)
        if waiting is not None:
            if len(waiting) >= limits.PEER_OUTBOX_MAX:
                self._end_unread(peer)
            else:
                waiting.append(body)
        elif not self._try(peer, body) and peer in self._address_of:
            self._outbox[peer] = deque([body])

    def flush(self) -> None:
        """Try again what was kept."""
        for address in list(self._to_be_told):
            self._tell(address)
        for peer in list(self._outbox):
            waiting = self._outbox.get(peer)
            while waiting and self._try(peer, waiting[0]):
                waiting.popleft()
            if not waiting:
                self._outbox.pop(peer, None)

    def take_gone(self) -> list[int]:
        gone, self._gone = self._gone, []
        return gone

    def _try(self, peer: int, body: bytes) -> bool:
        """True if it was sent; False if it must be kept, or the peer has just been dropped."""
        address = self._address_of.get(peer)
        if address is None or not self._tell(address):
            return False
        sent = self._wire.send(address, body)
        if sent is None:
            self._drop(peer)
        return sent is True

    def _end_unread(self, peer: int) -> None:
        """Everything that was kept for it is dropped; the next that it reads is that."""
        self._to_be_told[self._address_of[peer]] = self._key_of[peer]
        if len(self._to_be_told) > limits.PEERS_MAX:
            del self._to_be_told[next(iter(self._to_be_told))]
        self._drop(peer)

    def _tell(self, address: bytes) -> bool:
        """Whether nothing has to be read there before anything else."""
        if address not in self._to_be_told:
            return True
        if self._wire.send(address, TOO_MUCH_UNREAD) is False:
            return False
        del self._to_be_told[address]  # on its way, or nobody is there
        return True

    def _drop(self, peer: int) -> None:
        address = self._address_of.pop(peer, None)
        self._outbox.pop(peer, None)
        self._held.pop(peer, None)
        self._takes_many.discard(peer)
        if address is not None:
            self._number_of.pop(address, None)
            self.host_left(peer)
            del self._key_of[peer]
            self._gone.append(peer)


def _in_frames(bodies: list[bytes]) -> Iterator[list[bytes]]:
    """The bodies in order, cut where a frame would become too large."""
    some: list[bytes] = []
    size = 0
    for body in bodies:
        if some and (size + len(body) > limits.MANY_BYTES_MAX or len(some) == limits.MANY_MAX):
            yield some
            some, size = [], 0
        some.append(body)
        size += len(body)
    yield some
