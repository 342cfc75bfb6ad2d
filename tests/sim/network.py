"""Simulated connections to the hub: ordered within one, of any order between two, and never reliable.

A connection delays, breaks with the loss of what was on its way, is cut in one direction (held, then delivered or
lost), is half-open (one end believes in it), or has a reader that does not read until the hub gives the peer up.
As with a ROUTER the hub learns that a peer is gone only when it sends to it.
"""

from __future__ import annotations

import random
from typing import Protocol

from tests.sim.timeline import Timeline

HELD_MAX = 10  # messages kept for a reader that does not read; the broker keeps more
KEEPALIVE_MS = 60_000  # a connection whose other end is silently gone is found out after this


class Owner(Protocol):
    """The end of a connection that is not the hub."""

    key: str

    def delivered(self, link: Link, body: bytes) -> None: ...

    def broken(self, link: Link) -> None: ...


class Inbox(Protocol):
    """The hub's end."""

    is_up: bool

    def received(self, link: Link, body: bytes) -> None: ...

    def peer_gone(self, link: Link) -> None: ...


class Link:
    """One connection. `peer` is the hub's number for it, 0 while it has none."""

    def __init__(self, network: Network, owner: Owner, latency_ms: int) -> None:
        self.owner = owner
        self.peer = 0
        self.is_open_here = True
        self.is_open_at_hub = True
        self.up_hold_ms = self.down_hold_ms = 0
        self._network = network
        self._latency_ms = latency_ms
        self._up_last_ms = self._down_last_ms = 0
        self._held = 0

    def up(self, body: bytes) -> None:
        """Send to the hub."""
        line = self._network.line
        due_ms = max(line.now_ms + self._network.delay(self._latency_ms), self._up_last_ms, self.up_hold_ms)
        self._up_last_ms = due_ms

        def arrive() -> None:
            if self.is_open_here and self.is_open_at_hub:
                self._network.hub.received(self, body)

        line.at(due_ms, arrive)

    def down(self, body: bytes, from_ms: int) -> None:
        """Send from the hub; the peer is gone when too much is held, or when the hub knows of the break."""
        line = self._network.line
        if not self.is_open_at_hub:
            self._network.hub.peer_gone(self)
            return
        due_ms = max(from_ms + self._network.delay(self._latency_ms), self._down_last_ms, self.down_hold_ms)
        self._down_last_ms = due_ms
        is_held = due_ms <= self.down_hold_ms
        self._held += is_held
        if self._held > HELD_MAX:
            line.reach("slow_reader_dropped")
            self._network.hub.peer_gone(self)

        def arrive() -> None:
            self._held -= is_held
            if self.is_open_here:
                self.owner.delivered(self, body)

        line.at(due_ms, arrive)

    def cut(self, kind: str) -> None:
        """Break the connection: `clean` (both ends learn of it), `hub_gone` (only the hub has), `owner_gone`."""
        line = self._network.line
        line.note("cut", self.owner.key[:8], kind)
        if kind != "hub_gone":
            self.is_open_here = False
            line.after(self._network.delay(200), lambda: self.owner.broken(self))
        if kind != "owner_gone":
            self.is_open_at_hub = False
        else:
            line.after(KEEPALIVE_MS, self._found_out)

    def reset(self) -> None:
        """Break it cleanly, unless it is broken already."""
        if self.is_open_here:
            self.cut("clean")

    def _found_out(self) -> None:
        self.is_open_at_hub = False


class Network:
    """All connections that were made, and the faults that may befall them."""

    def __init__(self, line: Timeline, rng: random.Random) -> None:
        self.line = line
        self.hub: Inbox
        self.links: list[Link] = []
        self.slow_until_ms = 0
        self.latency_ms_max = 0
        self._rng = rng

    def delay(self, base_ms: int) -> int:
        """A time on the way; longer, and much longer sometimes, while the network is slow."""
        if self.latency_ms_max:
            return self._rng.randrange(1, self.latency_ms_max)
        if self.line.now_ms < self.slow_until_ms:
            return self._rng.choice((base_ms, 50 * base_ms + 50, self._rng.randrange(1, 5000)))
        return base_ms + self._rng.randrange(base_ms + 1)

    def connect(self, owner: Owner) -> Link | None:
        """A connection, or None when nobody listens."""
        if not self.hub.is_up:
            return None
        self.links = [link for link in self.links if link.is_open_here or link.is_open_at_hub]
        link = Link(self, owner, self._rng.choice((1, 1, 1, 20)))
        self.links.append(link)
        return link

    def hub_died(self) -> None:
        """Every connection breaks; some of the other ends do not learn of it."""
        for link in self.links:
            if link.is_open_at_hub and link.is_open_here:
                link.cut("clean" if self._rng.random() < 0.9 else "hub_gone")
            link.is_open_at_hub = False

    def misbehave(self) -> None:
        """One fault on one connection, or slowness on all."""
        self._rng.choice((self._cut, self._hold, self._hold, self._slow))()

    def heal(self) -> None:
        """No new faults; what is held may go, what is broken is found out."""
        self.slow_until_ms = self.latency_ms_max = 0
        for link in self.links:
            link.up_hold_ms = link.down_hold_ms = 0
            if link.is_open_here and not link.is_open_at_hub:
                link.cut("clean")

    def _open(self) -> list[Link]:
        return [link for link in self.links if link.is_open_here and link.is_open_at_hub]

    def _cut(self) -> None:
        links = self._open()
        if links:
            kind = self._rng.choice(("clean", "clean", "hub_gone", "owner_gone"))
            self._rng.choice(links).cut(kind)
            self.line.reach("link_broken" if kind == "clean" else "half_open")

    def _hold(self) -> None:
        links = self._open()
        if not links:
            return
        link, until_ms = self._rng.choice(links), self.line.now_ms + self._rng.randrange(1000, 90_000)
        if self._rng.random() < 0.5:
            link.up_hold_ms = until_ms
        else:
            link.down_hold_ms = until_ms
        self.line.note("one_way", link.owner.key[:8], until_ms - self.line.now_ms)
        self.line.reach("one_way_partition")
        if self._rng.random() < 0.5:
            self.line.at(until_ms - 1, link.reset)

    def _slow(self) -> None:
        self.slow_until_ms = self.line.now_ms + self._rng.randrange(1000, 20_000)
