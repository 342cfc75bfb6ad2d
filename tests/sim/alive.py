"""Agents that live, on a bad network, under a hub and hosts that stall: none may be judged dead.

Nothing crashes, freezes past its lease or lies here. Each seed has one of three troubles for its whole length:
every connection is reset every two seconds; every message takes up to five seconds; the hub's loop and the hosts'
are blocked again and again. Whatever a host accepted and still runs must stay its own.
"""

from __future__ import annotations

from collections.abc import Callable

from agentcom.config import Settings
from tests.sim.timeline import START_MS
from tests.sim.world import HOUR_MS, World

RESET_EVERY_MS = 2000
LATENCY_MS_MAX = 5000
HUB_BLOCKED_MS = (900, 3000, 20_000, 100_000)
HOST_BLOCKED_MS = (900, 5000, 20_000, 30_000)  # with a beat before and one after: within a lease of 45 s
BREATH_MS = 20_000  # between two of them the host's beats come through
PACE_MS_MIN = 2000  # of a caller: the hosts have work all the hour, and the hour is not spent on answering
TROUBLES = ("resets", "latency", "blocked")


class AliveWorld(World):
    """One such run, with the settings that a hub has by default."""

    money_share = 0.0
    check_every, equality_every = 397, 797  # ticks: an hour has ten thousand, and hundreds of tasks

    def __init__(self, seed: int, safety_ms: int | None = None, shows: bool = False) -> None:
        self.trouble = TROUBLES[seed % len(TROUBLES)]
        super().__init__(seed, safety_ms or HOUR_MS, shows, settings=Settings())
        self.known.has_poison = self.known.changes_paces = False
        for sidecar in self.sidecars:
            sidecar.is_gentle = True
        for client in self.clients:
            client.pace_ms = max(client.pace_ms, PACE_MS_MIN)
        self.checker.may_lose_living = False

    def _choose_faults(self, only: tuple[str, ...] | None) -> list[Callable[[], None]]:
        return []

    def _cause_faults(self) -> None:
        if self.line.now_ms >= START_MS + self.safety_ms:
            return
        wait_ms = {"resets": self._reset, "latency": self._delay, "blocked": self._block}[self.trouble]()
        self.line.after(wait_ms, self._cause_faults)

    def _reset(self) -> int:
        for link in self.network.links:
            link.reset()
        return RESET_EVERY_MS

    def _delay(self) -> int:
        self.network.latency_ms_max = LATENCY_MS_MAX
        return HOUR_MS

    def _block(self) -> int:
        if self.rng.random() < 0.5:
            self.hub.freeze(self.rng.choice(HUB_BLOCKED_MS))
        else:
            sidecar = self.rng.choice(self.sidecars)
            if sidecar.frozen_until_ms + BREATH_MS < self.line.now_ms:
                sidecar.freeze(self.rng.choice(HOST_BLOCKED_MS))
        return 20_000 + self.rng.randrange(100_000)
