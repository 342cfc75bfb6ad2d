"""The scheduler on what a hub has recorded: the compiled one and its twin, told the same rows, asked the same ticks.

The recording is decided once by the product's board, which gives the calls that its rows get; these are then made anew
on a fresh scheduler, turn by turn. `turn` is the whole turn with the board in Python around the compiled scheduler.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from agentcom import _pysched, sched
from agentcom._pysched import Scheduler
from agentcom.core.recording import Start, Turn
from agentcom.recordings import read
from agentcom.replica import Replica

Calls = list[tuple[str, tuple[Any, ...]]]


class Row(TypedDict):
    """`rows_set`: calls that change a row. A tick is the rows of a turn and the placing of its tasks."""

    impl: str
    ticks: int
    decisions: int
    rows_set: int
    decisions_per_s: int
    tick_p50_us: float
    tick_p99_us: float
    turn_p50_us: float
    turn_p99_us: float


class Tape:
    """A scheduler that notes what it is told and asked."""

    def __init__(self, calls: Calls) -> None:
        self._rows = sched.make_scheduler()
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._rows, name)

        def noted(*arguments: Any) -> Any:
            kept = tuple(sorted(each) if isinstance(each, set | frozenset) else each for each in arguments)
            self._calls.append((name, kept))
            return call(*arguments)

        return noted

    def tick(self, pools: array[int], repos: array[int], agents: array[int], endpoints: array[int]) -> int:
        self._calls.append(("tick", (pools, repos)))
        return self._rows.tick(pools, repos, agents, endpoints)


def taped(start: Start, turns: list[Turn]) -> list[Calls]:
    """What the rows are told and asked, by turn."""
    calls: Calls = []
    replica = Replica(start)
    replica.board.use(lambda: Tape(calls))  # type: ignore[arg-type, return-value]  # in its place
    tape = []
    for turn in turns:
        replica.follow(turn)
        replica.decide(turn)
        tape.append(list(calls))
        calls.clear()
    return tape


def rerun(make: Callable[[], Scheduler], tape: list[Calls]) -> tuple[list[int], list[list[int]]]:
    """(ns of each turn, the answers): the same calls on a fresh scheduler."""
    rows = make()
    took, answers = [], []
    for calls in tape:
        turns = [(getattr(rows, name), name == "tick", arguments) for name, arguments in calls]
        begun = time.perf_counter_ns()
        for call, is_tick, arguments in turns:
            if is_tick:
                count = len(arguments[0])
                agents, endpoints = array("i", bytes(4 * count)), array("i", bytes(4 * count))
                call(*arguments, agents, endpoints)
                answers.append([*agents, *endpoints])
            else:
                call(*arguments)
        took.append(time.perf_counter_ns() - begun)
    return took, answers


def whole(start: Start, turns: list[Turn], make: Callable[[], Scheduler]) -> list[int]:
    """ns of each turn with the board around the rows."""
    replica = Replica(start)
    replica.board.use(make)
    took = []
    for turn in turns:
        begun = time.perf_counter_ns()
        replica.follow(turn)
        replica.decide(turn)
        took.append(time.perf_counter_ns() - begun)
    return took


def measure(path: Path) -> list[Row]:
    """A row for each scheduler that is here; AssertionError if they disagree."""
    start, turns, _ = read(path)
    tape = taped(start, turns)
    makers = {"python": _pysched.Scheduler}
    if sched.IMPLEMENTATION == "cython":
        makers = {"cython": sched.make_scheduler, **makers}
    found, said = [], None
    for impl, make in makers.items():
        took, answers = rerun(make, tape)
        assert said is None or said == answers, f"{impl} decides otherwise"
        said = answers
        found.append(_row(impl, turns, tape, took, whole(start, turns, make)))
    return found


def _row(impl: str, turns: list[Turn], tape: list[Calls], took: list[int], turn_took: list[int]) -> Row:
    decisions = sum(len(turn.heads) for turn in turns)
    rows_set = sum(name.startswith(("set_", "drop_")) for calls in tape for name, _ in calls)
    ticks, whole_turns = sorted(took), sorted(turn_took)
    last = len(ticks) - 1
    return Row(
        impl=impl,
        ticks=len(ticks),
        decisions=decisions,
        rows_set=rows_set,
        decisions_per_s=round(decisions * 1e9 / max(1, sum(ticks))),
        tick_p50_us=round(ticks[last // 2] / 1000, 1),
        tick_p99_us=round(ticks[last * 99 // 100] / 1000, 1),
        turn_p50_us=round(whole_turns[last // 2] / 1000, 1),
        turn_p99_us=round(whole_turns[last * 99 // 100] / 1000, 1),
    )
