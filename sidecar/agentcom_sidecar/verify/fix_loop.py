"""Build, verify, fix: the failing checks go back to the model until all pass or the tries are spent.

Pure orchestration over two functions, so that it can be tested with neither a model nor a command. What is
done stays in `iterations`, also when a later build fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, cast

from agentcom.model import CheckReport, Iteration, Judgement
from agentcom_sidecar.verify.report import Stopwatch, can_be_fixed, is_judged_bad, iteration_status

Status = Literal["pass", "fail", "none"]
# (number of the iteration, the one before if there is one) -> tokens in, tokens out of this one
Build = Callable[[int, Iteration | None], Awaitable[tuple[int, int]]]
# (whether no further build comes, whatever it finds) -> a report per check
Verify = Callable[[bool], Awaitable[tuple[CheckReport, ...]]]
Judge = Callable[[tuple[CheckReport, ...]], Awaitable[Judgement | None]]


async def no_judge(_reports: tuple[CheckReport, ...]) -> None:
    return None


async def run(
    build: Build,
    verify: Verify,
    fix_attempts_max: int,
    iterations: list[Iteration],
    is_spent: Callable[[], bool] = lambda: False,
    judge: Judge = no_judge,
) -> None:
    """Appends an Iteration per round: one, and at most `fix_attempts_max` more while a check fails that a
    model could fix, or all pass and the judge finds fault, and what may be used is not spent. The judge is asked only
    when no check fails. What `build` or `verify` raise is raised."""
    for number in range(1, fix_attempts_max + 2):
        watch = Stopwatch()
        tokens_in, tokens_out = await build(number, iterations[-1] if iterations else None)
        reports = await verify(number > fix_attempts_max or is_spent())
        status = cast(Status, iteration_status(reports))
        judgement = None if status == "fail" else await judge(reports)
        iterations.append(
            Iteration(
                n=number,
                status=status,
                checks=reports,
                tokens_in=tokens_in,
                tokens_out=tokens_out,
                duration_ms=watch.ms,
                judgement=judgement,
            )
        )
        may_help = is_judged_bad(iterations[-1]) or (status == "fail" and can_be_fixed(reports))
        if not may_help or is_spent():
            return
