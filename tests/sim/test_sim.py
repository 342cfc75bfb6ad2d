"""The hub under every fault at once, in simulated time: `python -m tests.sim --seed N` shows one run again.

The budget of seeds is fixed, so a merge is judged by the same runs each time; longer runs are asked for by hand
(`python -m tests.sim --seeds 1000 --first 100000`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.sim.budget import Totals
from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.world import TEN_YEARS_MS, SimulationFailed, World, settings_of, simulate

SEEDS = range(210)
HOURS_MIN = 24
LEASES_MIN = 10_000
MUTANT_SEEDS = range(60)
PINNED = {
    30: "a hub that started again after its wall clock was set right put new tasks before old ones",
    87: "the same, found a second time by another way through the faults",
    231: "a host whose hello was lost never asked again",
    946: "two hellos under way ended each other's sessions for ever",
}
CENTURY_S = 100 * 366 * 24 * 3600
ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def totals() -> Totals:
    """All seeds of the budget; the first that breaks a rule fails with the command that shows it."""
    print(f"seeds {SEEDS.start} to {SEEDS.stop - 1}")
    together = Totals()
    for seed in SEEDS:
        together.add(simulate(seed))
    print(together.as_text())
    return together


def test_no_rule_is_broken_under_faults_and_every_task_ends_when_they_do(totals: Totals) -> None:
    assert totals.seeds == len(SEEDS)
    assert totals.tasks > totals.seeds, "the runs hardly did anything"


def test_the_budget_is_as_long_as_promised(totals: Totals) -> None:
    assert totals.hours >= HOURS_MIN
    assert totals.leases >= LEASES_MIN


def test_every_fault_and_every_outcome_was_met_sometimes(totals: Totals) -> None:
    assert totals.never == []


@pytest.mark.parametrize("seed", PINNED)
def test_seeds_that_once_failed(seed: int) -> None:
    simulate(seed)


@pytest.mark.parametrize("seed", [3, 5, 8])
def test_one_seed_gives_one_run_whatever_the_hash_seed(seed: int) -> None:
    traces = {simulate(seed).trace_hash} | {_trace_in_a_process(seed, salt) for salt in ("0", "1", "4242")}
    assert len(traces) == 1


def _trace_in_a_process(seed: int, salt: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seed", str(seed)],
        env={**os.environ, "PYTHONHASHSEED": salt},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.split("trace ")[1].strip()


@pytest.mark.parametrize("seed", range(6))
def test_a_jump_of_the_wall_clock_moves_no_lease_no_beat_no_retry_and_no_order(seed: int) -> None:
    """The same faults with the clock moved by years and with it left alone: the same messages at the same times.

    The terms that the wall clock ends (ttl, the time a task may be held) are longer than any jump here.
    """
    assert _trace_with_jumps(seed, (0, 0, 0)) == _trace_with_jumps(seed, (-TEN_YEARS_MS, TEN_YEARS_MS, 0))


def _trace_with_jumps(seed: int, jumps_ms: tuple[int, ...]) -> str:
    found = settings_of(seed)
    lasting = msgspec.structs.replace(found.queue, ttl_s=CENTURY_S, held_s=CENTURY_S)
    settings = msgspec.structs.replace(found, queue=lasting)
    faults = ("jump", "network", "crash", "zombie", "lie", "drain")
    world = World(seed, only=faults, settings=settings)
    world.known.gives_times = False
    world.jumps_ms = jumps_ms
    return world.run().trace_hash


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_checker_notices_a_broken_rule(mutant: Mutant) -> None:
    with mutant(), pytest.raises(SimulationFailed, match="AssertionError"):
        _simulate_all(MUTANT_SEEDS)


def test_a_failing_seed_prints_the_command_that_shows_it_again() -> None:
    command = r"python -m tests\.sim --seed \d+ --trace"
    with MUTANTS["leases_half_as_long"](), pytest.raises(SimulationFailed, match=command):
        _simulate_all(MUTANT_SEEDS)


def _simulate_all(seeds: range) -> None:
    for seed in seeds:
        simulate(seed)
