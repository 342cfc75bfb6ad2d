"""Reports of checks, the status of a result, and how both are kept within the bounds of a message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from agentcom import limits
from agentcom.model import (
    CheckKind,
    CheckReport,
    CheckSpec,
    CheckStatus,
    Evidence,
    Iteration,
    ResultStatus,
    TaskResult,
)
from agentcom_sidecar.sandbox import CommandResult, Outcome

# Kinds that look at what the work is for; the others guard how it was done, and pass before it as well.
SHOWING = frozenset(
    {
        CheckKind.file_exists,
        CheckKind.test_passes,
        CheckKind.command_succeeds,
        CheckKind.file_contains,
        CheckKind.json_valid,
        CheckKind.http_responds,
    }
)
FIXABLE = frozenset({CheckStatus.failed, CheckStatus.no_evidence, CheckStatus.timed_out})
SILENT = "no output for sidecar.silence_s of this host"
# Bytes kept of (each check's output, each check's target, the result's output, each warning) and the number
# of changed files listed: tried in this order until the result fits its message. The last always fits.
FITS = (
    (limits.CHECK_OUTPUT_BYTES_MAX, limits.COMMAND_CHARS_MAX, limits.OUTPUT_BYTES_MAX, 4000, 2000),
    (2048, 4096, limits.OUTPUT_BYTES_MAX, 1000, 500),
    (512, 512, 32 * limits.KIB, 500, 200),
    (128, 128, 16 * limits.KIB, 200, 50),
    (0, 40, 8 * limits.KIB, 100, 20),
    (0, 0, 4 * limits.KIB, 60, 5),
)
WARNINGS_MAX = 50
NAMED_MAX = 5  # of the changed files that judge the work, where they are told in a sentence
NAME_CHARS_MAX = 200


def cut(text: str, bytes_max: int) -> tuple[str, int]:
    """`text` within `bytes_max` bytes of UTF-8 (head, a marker, tail), and how many bytes were left out."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= bytes_max:
        return text, 0
    # The marker's length depends on the figure in it; 40 bytes hold any.
    kept = max(0, bytes_max - 40)
    head, tail = raw[: kept - kept // 2], raw[len(raw) - kept // 2 :]
    dropped = len(raw) - len(head) - len(tail)
    marker = f"\n[... {dropped} bytes left out ...]\n" if bytes_max >= 40 else ""
    return head.decode("utf-8", "ignore") + marker + tail.decode("utf-8", "ignore"), dropped


def text_of(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class Stopwatch:
    """Milliseconds since it was made."""

    def __init__(self) -> None:
        self._started_ns = time.monotonic_ns()

    @property
    def ms(self) -> int:
        return (time.monotonic_ns() - self._started_ns) // 1_000_000


def report(check: CheckSpec, status: CheckStatus, output: str, duration_ms: int) -> CheckReport:
    return CheckReport(
        kind=check.kind,
        target=check.target,
        status=status,
        output=cut(output, limits.CHECK_OUTPUT_BYTES_MAX)[0],
        duration_ms=duration_ms,
    )


def status_of_command(result: CommandResult) -> CheckStatus:
    """What the end of a command says by itself; evidence is another question."""
    if result.succeeded:
        return CheckStatus.passed
    if result.outcome in (Outcome.TIMED_OUT, Outcome.SILENT):
        return CheckStatus.timed_out
    return CheckStatus.failed if result.outcome is Outcome.EXITED else CheckStatus.error


def output_of_command(result: CommandResult, note: str = "") -> str:
    """What a command printed, and how it ended where that was not exit code 0."""
    text = text_of(result.output)
    if not result.succeeded:
        ended = f"signal {result.signal}" if result.signal is not None else f"exit code {result.exit_code}"
        ended = ended if result.outcome is Outcome.EXITED else str(result.outcome)
        why = SILENT if result.outcome is Outcome.SILENT else result.error or result.hint
        ended = f"{ended}: {why}" if why else ended
        text = f"{text.rstrip()}\n[{ended}]".lstrip()
    return f"{text.rstrip()}\n[{note}]".lstrip() if note else text


def iteration_status(reports: Sequence[CheckReport]) -> str:
    if not reports:
        return "none"
    return "pass" if all(passes(each) for each in reports) else "fail"


def is_judged_bad(iteration: Iteration) -> bool:
    return iteration.judgement is not None and iteration.judgement.verdict == "fail"


def passes(report: CheckReport) -> bool:
    """Also with the files that judge it as the base has them, where these were changed."""
    return report.status is CheckStatus.passed and report.with_base in (None, CheckStatus.passed)


def way_out(iterations: Sequence[Iteration], tampered: Sequence[str]) -> tuple[str, ...]:
    """What to do where checks pass only with changes to files that judge them, and those were wanted."""
    last = iterations[-1].checks if iterations else ()
    if not any(each.status is CheckStatus.passed and not passes(each) for each in last):
        return ()
    what = f"checks pass only with what was changed in {some_of(tampered)}"
    return (f"{what}: if that is the work, name it in the task's files (submit --file PATH) and submit it again",)


def some_of(paths: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(paths) - NAMED_MAX
    return ", ".join(path[:NAME_CHARS_MAX] for path in paths[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def can_be_fixed(reports: Iterable[CheckReport]) -> bool:
    """Whether a model could make a failing check pass; what this host refuses, it cannot change."""
    return any(each.status in FIXABLE or each.with_base in FIXABLE for each in reports)


def evidence_of(reports: Iterable[CheckReport]) -> Evidence | None:
    """What the checks that show the work's effect said before it and say now; None when the base was not looked at."""
    shown = [each for each in reports if each.kind in SHOWING and each.before is not None]
    if not shown:
        return None
    was_green = [each.before is CheckStatus.passed for each in shown]
    if all(map(passes, shown)):
        return Evidence.green_to_green if all(was_green) else Evidence.red_to_green
    broke = any(was and not passes(each) for was, each in zip(was_green, shown, strict=True))
    return Evidence.green_to_red if broke else Evidence.red_to_red


def result_status(
    iterations: Sequence[Iteration], *, is_verified: bool, is_model_in_repository: bool, has_changed: bool
) -> ResultStatus:
    """The first status that fits. `is_verified`: the task asked for its checks to be run."""
    if not is_verified:
        return ResultStatus.skipped
    last = iterations[-1].status if iterations else "none"
    if iterations and is_judged_bad(iterations[-1]):
        last = "fail"  # an opinion can take away from what the checks say, and never add to it
    if is_model_in_repository and not has_changed:
        return ResultStatus.already_done if last == "pass" else ResultStatus.no_change
    if last == "none":
        return ResultStatus.unchecked
    return ResultStatus.verified if last == "pass" else ResultStatus.partial_pass


def fit(result: TaskResult, bytes_max: int = limits.RESULT_BYTES_MAX) -> TaskResult:
    """`result` small enough for its message: outputs are cut, each with a marker; statuses all stay."""
    for bounds in FITS:
        smaller = _within(result, *bounds)
        if len(msgspec.msgpack.encode(smaller)) <= bytes_max:
            return smaller
    raise AssertionError(f"a result of {len(result.iterations)} iterations does not fit at its smallest")


def _within(result: TaskResult, check: int, target: int, output: int, warning: int, files: int) -> TaskResult:
    text, dropped = cut(result.output, output)
    warnings = [cut(each, warning)[0] for each in result.warnings[:WARNINGS_MAX]]
    if len(result.files_changed) > files:
        warnings.append(f"{len(result.files_changed)} files changed; the first {files} are listed")
    if len(result.tampered) > files:
        warnings.append(
            f"{len(result.tampered)} files that judge the work changed; the first {files} are listed"
        )

    def smaller(each: CheckReport) -> CheckReport:
        kept, of = cut(each.output, check)[0], cut(each.target, target)[0]
        return msgspec.structs.replace(each, output=kept, target=of)

    return msgspec.structs.replace(
        result,
        output=text,
        output_truncated_bytes=result.output_truncated_bytes + dropped,
        warnings=tuple(warnings),
        files_changed=tuple(cut(each, limits.PATH_CHARS_MAX)[0] for each in result.files_changed[:files]),
        tampered=tuple(cut(each, limits.PATH_CHARS_MAX)[0] for each in result.tampered[:files]),
        iterations=tuple(_opinion_within(each, min(warning, check)) for each in _mapped(result.iterations, smaller)),
    )


def _opinion_within(iteration: Iteration, bytes_max: int) -> Iteration:
    judged = iteration.judgement
    if judged is None:
        return iteration
    reasons = tuple(cut(each, bytes_max)[0] for each in judged.reasons) if bytes_max else ()
    judged = msgspec.structs.replace(judged, reasons=reasons, note=cut(judged.note, bytes_max)[0])
    return msgspec.structs.replace(iteration, judgement=judged)


def _mapped(
    iterations: Iterable[Iteration], change: Callable[[CheckReport], CheckReport]
) -> tuple[Iteration, ...]:
    return tuple(
        msgspec.structs.replace(each, checks=tuple(change(report) for report in each.checks))
        for each in iterations
    )
