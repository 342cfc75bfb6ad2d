"""A judgement by a model: what counts as a verdict, when it is asked for, and what it can and cannot change."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.model import CheckReport, CheckStatus, Iteration, Judgement, ResultStatus, TaskSpec
from agentcom_sidecar import prompt
from agentcom_sidecar.backends.base import Turn
from agentcom_sidecar.verify import fix_loop
from agentcom_sidecar.verify.judge import verdict_of
from agentcom_sidecar.verify.report import result_status
from tests.core_rig import Rig

Verdict = Literal["pass", "fail", "unsure"]


def check(status: CheckStatus) -> CheckReport:
    return CheckReport(kind="command_succeeds", target="make", status=status)


PASSED, FAILED = check(CheckStatus.passed), check(CheckStatus.failed)


def judged(verdict: Verdict, *reasons: str) -> Judgement:
    return Judgement(verdict=verdict, model="m", reasons=reasons)


@pytest.mark.parametrize(
    ("text", "verdict", "reasons"),
    [
        ('{"verdict": "pass", "reasons": []}', "pass", ()),
        (' {"verdict": "pass"}\n', "pass", ()),
        ('{"verdict": "fail", "reasons": ["no  test\\nfor zero", " "]}', "fail", ("no test for zero",)),
        ('```json\n{"verdict": "unsure", "reasons": ["too long"]}\n```', "unsure", ("too long",)),
    ],
)
def test_one_json_object_is_a_verdict(text: str, verdict: str, reasons: tuple[str, ...]) -> None:
    assert verdict_of(Turn(text)) == (verdict, reasons, "")


@pytest.mark.parametrize(
    "text",
    [
        "", "pass", "I think it passes.", '{"verdict": "PASS"}', '{"verdict": "great"}', '{"reasons": ["a"]}',
        '{"verdict": "pass"} as I said', 'Sure: {"verdict": "pass"}', '[{"verdict": "pass"}]',
        '{"verdict": "pass", "x": 1}',
        '{"verdict": "fail", "reasons": []}', '{"verdict": "fail", "reasons": "all"}', "[" * 100_000, "\ud800",
        '{"verdict": "pass", "reasons": [' + '"a",' * 200 + '"a"]}',
    ],
)  # fmt: skip
def test_anything_else_is_unsure_with_the_reason(text: str) -> None:
    verdict, reasons, note = verdict_of(Turn(text))
    assert (verdict, reasons) == ("unsure", ())
    assert note


def test_a_verdict_on_what_was_cut_off_is_unsure() -> None:
    assert verdict_of(Turn('{"verdict": "pass"}', context_truncated=True))[0] == "unsure"


def looped(
    *rounds: tuple[CheckReport, ...], says: list[Judgement], attempts: int = 3
) -> tuple[list[Iteration], list[str]]:
    """Plays rounds of reports and judgements; the iterations, and in which order all was done."""
    done: list[Iteration] = []
    order: list[str] = []
    pending = list(rounds)

    async def build(number: int, failed: Iteration | None) -> tuple[int, int]:
        order.append("build" if failed is None else "fix")
        return 0, 0

    async def verify(_is_last: bool) -> tuple[CheckReport, ...]:
        order.append("checks")
        return pending.pop(0)

    async def judge(_reports: tuple[CheckReport, ...]) -> Judgement:
        order.append("judge")
        return says.pop(0)

    asyncio.run(fix_loop.run(build, verify, attempts, done, judge=judge))
    return done, order


def test_the_judge_is_asked_only_after_checks_that_all_pass() -> None:
    done, order = looped((FAILED, PASSED), (PASSED, PASSED), says=[judged("pass")])
    assert order == ["build", "checks", "fix", "checks", "judge"]
    assert [each.judgement for each in done] == [None, judged("pass")]


def test_what_the_judge_finds_goes_back_until_it_finds_nothing() -> None:
    done, order = looped((PASSED,), (PASSED,), says=[judged("fail", "no docs"), judged("pass")])
    assert order == ["build", "checks", "judge", "fix", "checks", "judge"]
    assert [each.status for each in done] == ["pass", "pass"], "the checks' status is theirs alone"


def test_it_goes_back_without_any_checks_too_and_ends_with_the_tries() -> None:
    done, order = looped((), (), says=[judged("fail", "no docs")] * 2, attempts=1)
    assert order.count("judge") == 2
    assert status_of(*done) is ResultStatus.partial_pass


def status_of(*iterations: Iteration, has_changed: bool = True) -> ResultStatus:
    return result_status(iterations, is_verified=True, is_model_in_repository=True, has_changed=has_changed)


def once(status: Literal["pass", "fail", "none"], verdict: Verdict) -> Iteration:
    return Iteration(n=1, status=status, judgement=judged(verdict, "r"))


def test_a_judgement_can_take_away_and_never_add() -> None:
    assert status_of(once("pass", "fail")) is ResultStatus.partial_pass
    assert status_of(once("pass", "unsure")) is ResultStatus.verified
    assert status_of(once("pass", "pass")) is ResultStatus.verified
    assert status_of(once("none", "pass")) is ResultStatus.unchecked, "an opinion is no check"


def test_the_reviewers_reasons_are_what_is_to_be_mended() -> None:
    failed = Iteration(n=1, status="pass", checks=(PASSED,), judgement=judged("fail", "no docs", "no test"))
    text = prompt.fix_text(failed.checks, [prompt.try_line("Done.", failed, has_changed=True)], failed.judgement)
    assert "says that it falls short:\nno docs\nno test" in text
    assert "do not pass" not in text
    assert "keep them passing:\ncommand_succeeds: make" in text
    assert text.endswith("1. Done. -> failed: the reviewer's judgement")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"command": "make"}, "a task with a command has no model"),
        ({"needs": ("program:codex",)}, "codex is an agent program"),
        ({"verify": False}, "it comes after the checks"),
    ],
)
def test_a_judge_where_there_can_be_none_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        Rig().admin.ask(m.Submit(tasks=(TaskSpec(description="d", judge=True, **fields),)))
    assert refused.value.field == "tasks[0].judge"
