"""Work that a budget ended: whatever ran out, what the model has done by then is kept, committed and checked.

Rounds, tokens, cost and wall clock, each on a real repository with one check that passes by then and one that does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcom.config import Settings
from agentcom.model import CheckStatus, ResultStatus, Strategy, TaskSpec
from tests.standins import StandIn, standin
from tests.works import Ran, check, repository, run_attempt, settings

MODEL = "llama3.2:latest"
KEY = "sk-ant-canary-0123456789"


@pytest.fixture(scope="module")
def ollama() -> Iterator[StandIn]:
    with standin("ollama") as server:
        yield server


def write(number: int) -> dict[str, Any]:
    call = {"name": "write_file", "arguments": {"path": f"{number}.txt", "content": f"{number}\n"}}
    return {"tool_calls": [call], "tokens_in": 100, "tokens_out": 20}


def task(folder: Path) -> TaskSpec:
    checks = (check("file_exists", "1.txt"), check("file_exists", "99.txt"))
    return TaskSpec(description="Write 1.txt to 99.txt.", repo=str(repository(folder / "repo")), checks=checks)


def local(folder: Path, server: StandIn, *replies: dict[str, Any], given: Settings, **options: Any) -> Ran:
    server.set_script({"models": [{"name": MODEL, "warm": True}], "replies": list(replies)})
    fields = {"endpoint_url": server.url, "model": MODEL, "given": given, "max_fix_attempts": 0, **options}
    return run_attempt(folder, Strategy.local_llm, task(folder), **fields)


def bounded(**fields: int) -> Settings:
    given = settings()
    return msgspec.structs.replace(given, sidecar=msgspec.structs.replace(given.sidecar, **fields))


def check_kept(one: Ran, stop_reason: str) -> None:
    assert (one.completed.status, one.result.stop_reason) == (ResultStatus.partial_pass, stop_reason)
    assert [each.status for each in one.iterations[-1].checks] == [CheckStatus.passed, CheckStatus.failed]
    assert one.result.commit is not None
    assert "1.txt" in one.result.files_changed
    assert any(warning.startswith("stopped: ") for warning in one.result.warnings), "it says what ended it"


def test_what_was_done_when_the_rounds_were_over_is_kept_and_checked(tmp_path: Path, ollama: StandIn) -> None:
    one = local(tmp_path, ollama, *map(write, range(1, 20)), given=bounded(rounds_standard=3))
    check_kept(one, "rounds")


def test_what_was_done_when_the_tokens_were_used_up_is_kept_and_checked(tmp_path: Path, ollama: StandIn) -> None:
    given = bounded(attempt_tokens_max=1_000)
    one = local(tmp_path, ollama, *map(write, range(1, 20)), given=given, max_fix_attempts=2)
    check_kept(one, "tokens")
    assert len(one.iterations) == 1, "nothing is left to mend it"
    assert one.result.tokens_in + one.result.tokens_out <= 1_120


def test_what_was_done_when_the_time_was_over_is_kept_and_checked(tmp_path: Path, ollama: StandIn) -> None:
    one = local(tmp_path, ollama, write(1), {"fault": "hang"}, given=settings(first_byte_s=60), timeout_s=1)
    check_kept(one, "time")


def test_what_was_done_when_the_money_was_spent_is_kept_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with standin("anthropic", key=KEY) as server:
        server.set_script({"replies": [{**write(n), "tokens_out": 3_000} for n in range(1, 20)]})
        given, fields = settings(base_url=server.url), {"model": "claude-opus-5-5", "num_ctx": None}
        one = run_attempt(tmp_path, Strategy.cloud_llm, task(tmp_path), given=given, budget_usd=0.15, **fields)
    check_kept(one, "budget")
    assert one.result.cost_usd is not None
    assert 0 < one.result.cost_usd <= 0.15
