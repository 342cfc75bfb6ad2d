"""Many seeds on all cores: pieces of the list go to processes of their own, and what they covered is added up.

A seed is run wholly in one process, so the number of processes changes no run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any

from tests.sim.alive import AliveWorld
from tests.sim.budget import Totals
from tests.sim.world import Report, SimulationFailed, World, simulate

SEED_S_MAX = 120  # a run that takes longer of real time goes round in circles
PIECE = 10  # seeds that a process takes at a time
KINDS: dict[str, type[World]] = {"faults": World, "alive": AliveWorld}


class Here(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(act(*arguments, **named))
        return done


@contextmanager
def processes(jobs: int | None = None) -> Iterator[Executor]:
    """One process per core, or `jobs` of them; 0 is this one. Spawned: what a fork would inherit is not part of
    a run."""
    if jobs == 0:
        yield Here()
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs or os.cpu_count() or 1, mp_context=spawn) as pool:
        yield pool


def run_many(
    pool: Executor,
    kind: str,
    first: int,
    safety_ms: int | None,
    seeds: int,
    goes_on: Callable[[Totals], bool] = lambda _totals: False,
    keeps_going: bool = False,
) -> Totals:
    """`seeds` runs from `first` on, and more while it `goes_on`; the failures are in the totals, with the command
    of each."""
    totals = Totals()
    last = first + seeds
    pieces = iter(_pieces(first, last))
    width = 2 * (os.cpu_count() or 1)
    under_way = [pool.submit(run_piece, kind, *piece, safety_ms) for piece in islice(pieces, width)]
    while under_way:
        totals.merge(under_way.pop(0).result())
        if totals.failed and not keeps_going:
            for one in under_way:
                one.cancel()
            break
        piece = next(pieces, None)
        if piece is None and goes_on(totals):
            piece, last = (last, PIECE), last + PIECE
        if piece is not None:
            under_way.append(pool.submit(run_piece, kind, *piece, safety_ms))
    return totals


def _pieces(first: int, last: int) -> Iterator[tuple[int, int]]:
    """(first seed, how many) of each piece."""
    for start in range(first, last, PIECE):
        yield start, min(PIECE, last - start)


def run_piece(kind: str, first: int, seeds: int, safety_ms: int | None) -> Totals:
    """`seeds` runs in this process."""
    totals = Totals()
    for seed in range(first, first + seeds):
        try:
            totals.add(guarded(seed, safety_ms, False, KINDS[kind]))
        except SimulationFailed as failure:
            totals.fail(seed, str(failure))
    return totals


def guarded(seed: int, safety_ms: int | None, shows: bool, kind: type[World]) -> Report:
    """One run, which fails when it goes on for too long of real time."""
    signal.signal(signal.SIGALRM, _stuck)
    signal.alarm(SEED_S_MAX)
    try:
        return simulate(seed, safety_ms, shows, kind)
    finally:
        signal.alarm(0)


def _stuck(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(
        f"the run did not end within {SEED_S_MAX} s of real time: something goes round in circles"
    )
