"""I11: memory and file are flat while tasks go through, once what is kept has reached its bounds."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.report import Report, status_of
from tests.faults.soak import BOUNDED, growth, judge, soak

TASKS, SECONDS_MAX = 20_000, 150.0
PER_S = 600.0  # which any machine keeps up with: see `soak` for why a steady rate
# The second half's tasks would be 20 MiB if they stayed. What is in use swings by 1.2 MiB at this size, and the file
# rises by as much as is written during the slowest backup: 2 MiB were seen where a disk was busy.
STEPS_MIB = {"used": 2.0, "file": 6.0}
SEED = 20_271


@pytest.mark.timeout(300)
def test_twenty_thousand_tasks_leave_memory_and_file_flat_over_the_second_half(tmp_path: Path) -> None:
    report = soak(tmp_path, SECONDS_MAX, SEED, BOUNDED, TASKS, PER_S, STEPS_MIB).require()
    through = report.counts["tasks_through"]
    assert isinstance(through, int)
    assert through >= TASKS, f"the machine was too slow for it: {report.line()}"
    assert report.counts["left_open"] == 0
    assert report.cannot_tell == []


MIB = 2**20


def judged(size_of: Callable[[int], float], seconds: int, step_mib: float = 0.0, weigh_mib: float = 0.0) -> Report:
    """What is said of a run whose `used` had those MiB in each second, and whose memory and file were flat."""
    report = Report("I11", "made up", counts={"second_half_weighs_mib": weigh_mib})
    for what in ("memory", "file"):
        report.counts |= {f"{what}_mib": 30.0, f"{what}_growth": 0.0, f"{what}_uncertain": 0.0}
    sizes = [size_of(at) for at in range(seconds)]
    found = growth([(float(at), int(size * MIB)) for at, size in enumerate(sizes)])
    report.counts |= {"used_mib": sizes[-1], "used_growth": found.share, "used_uncertain": found.uncertain}
    judge(report, {"used": step_mib})
    return report


def swinging(seed: int, share: float) -> Callable[[int], float]:
    """3 MiB, give or take that share: what is kept swings for some seconds at a time."""
    rng = random.Random(seed)
    levels = list(itertools.accumulate(range(10_000), lambda at, _: 0.7 * at + 0.7 * rng.gauss(0, share), initial=0.0))
    return lambda at: 3.0 * (1 + levels[at])


@pytest.mark.parametrize("seed", range(12))
def test_a_short_run_whose_figures_swing_cannot_tell_whether_they_grow(seed: int) -> None:
    report = judged(swinging(seed, 0.2), 60)
    assert (report.violations, status_of([report])) == ([], 3)
    assert "used" in report.cannot_tell[0]
    assert "longer run" in report.cannot_tell[0]


def test_a_long_run_of_the_same_swings_can_tell() -> None:
    flat = judged(swinging(7, 0.04), 3600)
    assert (flat.violations, flat.cannot_tell, status_of([flat])) == ([], [], 0)
    level = swinging(7, 0.04)
    grows = judged(lambda at: level(at) * (1 + at / 10_000), 3600)
    assert (len(grows.violations), grows.cannot_tell, status_of([grows])) == (1, [], 1)


def test_what_is_in_use_may_swing_by_less_than_the_least_that_each_task_could_leave() -> None:
    swings = judged(swinging(3, 0.2), 240, weigh_mib=270.0)
    assert (swings.violations, swings.cannot_tell) == ([], [])
    level, per_s = swinging(3, 0.2), 270 * 0.05 / 120
    leaks = judged(lambda at: level(at) + at * per_s, 240, weigh_mib=270.0)
    assert (len(leaks.violations), leaks.cannot_tell) == (1, [])


def test_growth_that_no_swing_hides_fails_a_short_run_too() -> None:
    report = judged(lambda at: 3.0 + at / 20, 60)
    assert (len(report.violations), report.cannot_tell) == (1, [])


def test_a_run_of_a_few_samples_cannot_tell() -> None:
    report = judged(lambda _: 3.0, 8)
    assert (report.counts["used_uncertain"], len(report.cannot_tell), report.violations) == (None, 1, [])
    assert '"cannot_tell": ["used' in report.line()


def test_a_step_that_is_allowed_for_is_allowed_for_in_what_is_not_known_too() -> None:
    report = judged(swinging(3, 0.2), 60, step_mib=3.0)
    assert (report.violations, report.cannot_tell) == ([], [])


def test_a_run_that_failed_is_no_run_that_cannot_tell() -> None:
    broken, short = Report("I2", "", violations=["lost"]), Report("I11", "", cannot_tell=["used"])
    assert (status_of([broken, short]), status_of([short, Report("I1", "")]), status_of([])) == (1, 3, 0)
