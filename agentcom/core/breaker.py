"""Circuit breakers: what has failed too often in a row is left alone for a while, then tried once.

Closed, open until a moment, half-open with one trial: its success closes the circuit, its failure opens it again for
twice as long, up to a bound. One class for endpoints, for the way from a host to an endpoint, and for models that hang.
In memory, in monotonic time: a start of the hub begins with closed circuits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Generic, TypeVar

from agentcom import limits
from agentcom.clock import Now, rfc3339
from agentcom.model import JsonObject

K = TypeVar("K")
DOUBLINGS_MAX = 16


class CircuitState(StrEnum):
    closed = "closed"
    open = "open"
    half_open = "half_open"


class Circuit:
    """One that has failed lately. `opens` counts how often in a row it was opened; times in ms."""

    __slots__ = ("failures", "is_on_trial", "opens", "reason", "since_wall_ms", "state", "until_ms", "until_wall_ms")

    def __init__(self) -> None:
        self.state = CircuitState.closed
        self.failures = 0
        self.opens = 0
        self.is_on_trial = False
        self.reason = ""
        self.since_wall_ms = self.until_ms = self.until_wall_ms = 0

    def view(self) -> JsonObject:
        is_open = self.state is CircuitState.open
        return {
            "state": self.state.value,
            "reason": self.reason or None,
            "failures": self.failures,
            "since": rfc3339(self.since_wall_ms) if self.since_wall_ms else None,
            "until": rfc3339(self.until_wall_ms) if is_open else None,
        }


class Breakers(Generic[K]):
    """Circuits by key; those that are closed and have not failed take no room. `bounds` gives (failures in a row that
    open a circuit, first cooldown in ms, longest cooldown in ms) as they are set now."""

    def __init__(self, bounds: Callable[[], tuple[int, int, int]]) -> None:
        self._bounds = bounds
        self.circuits: dict[K, Circuit] = {}
        self.count_shut = 0  # circuits that are not closed

    def failed(self, key: K, reason: str, now: Now) -> bool:
        """One more failure in a row; True when that opens the circuit, or opens it again."""
        threshold, first_ms, most_ms = self._bounds()
        circuit = self.circuits.setdefault(key, Circuit())
        circuit.failures += 1
        circuit.reason = reason[: limits.BREAKER_REASON_CHARS_MAX]
        if circuit.state is CircuitState.open:
            return False  # of a call that began before it was opened
        if circuit.state is CircuitState.closed and circuit.failures < threshold:
            return False
        if circuit.state is CircuitState.closed:
            self.count_shut += 1
            circuit.since_wall_ms = now.wall_ms
        cooldown_ms = min(first_ms << min(circuit.opens, DOUBLINGS_MAX), most_ms)
        circuit.opens += 1
        circuit.state, circuit.is_on_trial = CircuitState.open, False
        circuit.until_ms, circuit.until_wall_ms = now.mono_ms + cooldown_ms, now.wall_ms + cooldown_ms
        return True

    def succeeded(self, key: K) -> bool:
        """It works: True when its circuit was not closed."""
        circuit = self.circuits.pop(key, None)
        if circuit is None or circuit.state is CircuitState.closed:
            return False
        self.count_shut -= 1
        return True

    def forget(self, keys: Iterable[K]) -> None:
        """They are gone."""
        for key in list(keys):
            self.succeeded(key)

    def cool(self, key: K, now: Now) -> None:
        """There is reason to think that it works again: the next may be the trial, without waiting."""
        circuit = self.circuits.get(key)
        if circuit is not None and circuit.state is CircuitState.open:
            circuit.until_ms = now.mono_ms
            circuit.state = CircuitState.half_open

    def look(self, now: Now) -> list[K]:
        """Let time pass: those whose cooldown has ended, and may be tried once."""
        if not self.count_shut:
            return []
        ended = [
            key
            for key, circuit in self.circuits.items()
            if circuit.state is CircuitState.open and circuit.until_ms <= now.mono_ms
        ]
        for key in ended:
            self.circuits[key].state = CircuitState.half_open
        return ended

    def room(self, key: K, at_most: int) -> int:
        """How many may begin now, `at_most` of them: none while it is open, one trial after that."""
        circuit = self.circuits.get(key)
        if circuit is None or circuit.state is CircuitState.closed:
            return at_most
        if circuit.state is CircuitState.open or circuit.is_on_trial:
            return 0
        return min(at_most, 1)

    def began(self, key: K) -> None:
        """A call begins: the trial, where one is due."""
        circuit = self.circuits.get(key)
        if circuit is not None and circuit.state is CircuitState.half_open:
            circuit.is_on_trial = True

    def ended(self, key: K) -> None:
        """A call has ended, whatever it taught: another may be the trial."""
        circuit = self.circuits.get(key)
        if circuit is not None:
            circuit.is_on_trial = False

    def next_due_ms(self) -> int | None:
        """When the next cooldown ends, in monotonic ms."""
        if not self.count_shut:
            return None
        return min(
            (one.until_ms for one in self.circuits.values() if one.state is CircuitState.open), default=None
        )

    def adopt(self, old: Breakers[K], live: Callable[[K], bool]) -> None:
        """Take over what another core knew of those that this one has."""
        self.circuits = {key: circuit for key, circuit in old.circuits.items() if live(key)}
        shut = [one for one in self.circuits.values() if one.state is not CircuitState.closed]
        self.count_shut = len(shut)
