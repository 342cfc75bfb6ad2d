"""The tools that start something: a command of the model's own, and a search. Both go through the sandbox's door.

Patterns and paths are arguments of a program, never words of a shell. What a command prints is cut in the middle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from agentcom_sidecar.agentic import confined
from agentcom_sidecar.agentic.arguments import RunCommand, SearchFiles
from agentcom_sidecar.agentic.observations import Executed, Found, Match, Observation, failed
from agentcom_sidecar.backends.base import BackendError
from agentcom_sidecar.command import CommandResult, Outcome
from agentcom_sidecar.verify.report import cut

SEARCH_S_MAX = 10.0
MATCHES_MAX = 100
MATCHES_PER_FILE_MAX = 20
MATCH_CHARS_MAX = 300
NOTHING_FOUND, GREP_TROUBLE = 1, 2  # exit codes of grep
# (words of the command, seconds, whether its output is told) -> how it ended; BackendError where it cannot be run.
RunProgram = Callable[[tuple[str, ...], float, bool], Awaitable[CommandResult]]


class CommandTools:
    """Commands in `root`. `why_not` says why a model's own commands may not run here, None when they may."""

    def __init__(self, root: Path, run: RunProgram, why_not: str | None, result_chars_max: int) -> None:
        self._root, self._run, self.why_not, self._chars_max = root, run, why_not, result_chars_max

    async def run_command(self, given: RunCommand) -> Observation:
        if self.why_not is not None:
            return failed("refused", self.why_not, "do the task without commands")
        try:
            result = await self._run(("sh", "-c", given.command), given.timeout_s, True)
        except BackendError as error:
            return failed("refused", error.message, "do the task without commands")
        except ValueError as error:  # a NUL or half a character in its words
            return failed("bad_arguments", f"command: {error}")
        text, dropped = cut(result.output.decode("utf-8", "replace"), self._chars_max)
        note = result.error or ""
        if result.survivors:
            note = f"{note} processes that outlived it and were killed: {result.survivors}".strip()
        return Executed(
            result.exit_code, str(result.outcome), result.duration_ms, text, dropped + result.truncated_bytes, note
        )

    async def search(self, given: SearchFiles) -> Observation:
        try:
            if confined.is_gits_own(given.path):
                raise confined.PathRefused(f"{given.path!r} is git's own")
            if confined.look(self._root, given.path) is None:
                return failed("not_found", f"there is no {given.path[:200]!r}", "list_directory shows what is there")
            result = await self._run(_grep(given), SEARCH_S_MAX, False)
        except confined.PathRefused as error:
            return failed("path_refused", error, "list_directory shows what is there")
        except BackendError as error:
            return failed("refused", error.message, "use list_directory and read_file")
        except (OSError, ValueError) as error:
            return failed("bad_arguments", error)
        if result.outcome is Outcome.FAILED_TO_START:
            return failed("refused", result.error or "no grep here", "use list_directory and read_file")
        text = result.output.decode("utf-8", "replace")
        is_late = result.outcome is not Outcome.EXITED
        lines = text.splitlines()
        matches = tuple(match for line in lines[: 4 * MATCHES_MAX] if (match := _match(line)) is not None)
        if result.exit_code == GREP_TROUBLE and not matches:
            return failed("bad_arguments", text.strip() or "grep failed", "mend the pattern, or search for plain text")
        is_cut = is_late or len(matches) > MATCHES_MAX or bool(result.truncated_bytes)
        note = f"the search was ended after {SEARCH_S_MAX:g} s" if is_late else ""
        return Found(_fitting(matches[:MATCHES_MAX], self._chars_max), is_cut, note)


def _grep(given: SearchFiles) -> tuple[str, ...]:
    names = (f"--include={given.file_names}",) if given.file_names else ()
    kind = "-E" if given.is_regex else "-F"
    bounds = ("-m", str(MATCHES_PER_FILE_MAX), "--exclude-dir=.git", "--exclude=.git")
    # -Z: a NUL after the path, which may hold a colon.
    return ("grep", "-rnIHZ", kind, *bounds, *names, "-e", given.pattern, "--", _place(given.path))


def _place(path: str) -> str:
    parts = confined.parts_of(path)
    return "/".join((".", *parts))


def _match(line: str) -> Match | None:
    path, nul, rest = line.partition("\0")
    number, colon, text = rest.partition(":")
    if not nul or not colon or not number.isdigit():
        return None
    return Match(path.removeprefix("./"), int(number), text[:MATCH_CHARS_MAX])


def _fitting(matches: tuple[Match, ...], chars_max: int) -> tuple[Match, ...]:
    total = 0
    for number, match in enumerate(matches):
        total += len(match.path) + len(match.text) + 30
        if total > chars_max:
            return matches[: max(1, number)]
    return matches
