"""Build, verify, fix: the failing checks go back to the model until all pass or the tries are spent.

Pure orchestration over two functions, so that it can be tested with neither a model nor a command. What is
done stays in `iterations`, also when a later build fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, cast

from agentcom.model import CheckReport, Iteration
from agentcom_sidecar.verify.report import Stopwatch, can_be_fixed, iteration_status

Status = Literal["pass", "fail", "none"]
# (number of the iteration, reports of the one before) -> tokens in, tokens out of this one
Build = Callable[[int, tuple[CheckReport, ...]], Awaitable[tuple[int, int]]]
Verify = Callable[[], Awaitable[tuple[CheckReport, ...]]]


async def run(
    build: Build,
    verify: Verify,
    fix_attempts_max: int,
    iterations: list[Iteration],
    is_spent: Callable[[], bool] = lambda: False,
) -> None:
    """Appends an Iteration per round: one, and at most `fix_attempts_max` more while a check fails that a
    model could fix and what may be used is not spent. What `build` or `verify` raise is raised."""
    reports: tuple[CheckReport, ...] = ()
    for number in range(1, fix_attempts_max + 2):
        watch = Stopwatch()
        tokens_in, tokens_out = await build(number, reports)
        reports = await verify()
        status = cast(Status, iteration_status(reports))
        iterations.append(
            Iteration(
                n=number,
                status=status,
                checks=reports,
                tokens_in=tokens_in,
                tokens_out=tokens_out,
                duration_ms=watch.ms,
            )
        )
        if status != "fail" or not can_be_fixed(reports) or is_spent():
            return
