"""Phase 20, sidecar execution: its success criteria, with real processes: one task of each tier goes all the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.scripted import MODEL, Scripted, scripted, statuses
from tests.sources import write
from tests.standins import StandIn, standin

KEY = "sk-ant-test-key-of-the-host"
OPINION = {"content": "The design is sound.", "tokens_in": 1000, "tokens_out": 100}


@pytest.fixture(scope="module")
def cloud() -> Iterator[StandIn]:
    with standin("anthropic", {"replies": [OPINION]}, key=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cloud: StandIn) -> Iterator[Scripted]:
    own = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": cloud.url}
    with scripted(tmp_path_factory.mktemp("phase20"), **own) as made:
        yield made


@pytest.fixture(scope="module")
def standard(place: Scripted) -> dict[str, Any]:
    repo = place.repository("answers")
    place.says(
        {**write("answer.txt", "42\n"), "tokens_in": 200, "tokens_out": 20},
        {"content": "I wrote answer.txt.", "tokens_in": 260, "tokens_out": 10},
    )
    return place.run("put the answer into answer.txt", "file_exists=answer.txt", "git_clean", repo=repo)


@pytest.fixture(scope="module")
def hard(place: Scripted) -> dict[str, Any]:
    return place.run("judge the design", tier="complex")


@pytest.fixture(scope="module")
def trivial(place: Scripted) -> dict[str, Any]:
    command = "echo hello > greeting.txt; echo done"
    checks = ("file_exists=greeting.txt", "command_succeeds=grep -q hello greeting.txt")
    return place.run("write a greeting", *checks, command=command)


def test_phase_20_1_a_local_llm_task_calls_its_ollama_endpoint_and_returns_the_answer(
    place: Scripted, standard: dict[str, Any]
) -> None:
    assert standard["state"] == "completed", standard["error"]
    route, result = standard["route"], standard["result"]
    assert route["strategy"] == "local_llm"
    assert route["endpoint_url"].rstrip("/") == place.model.url.rstrip("/")
    assert (result["status"], result["backend"], result["model"]) == ("verified", "ollama", MODEL)
    assert result["output"] == "I wrote answer.txt."
    assert result["files_changed"] == ["answer.txt"]
    assert result["branch"].startswith(f"agentcom/{standard['id']}/1-")
    assert statuses(standard) == [[("file_exists", "pass"), ("git_clean", "pass")]]
    calls = [entry["body"] for entry in place.model.log("/api/chat")]
    assert all(call["model"] == MODEL and call["stream"] for call in calls)
    assert all(call["options"]["num_ctx"] == route["num_ctx"] for call in calls)


def test_phase_20_2_a_cloud_llm_task_calls_claude_and_returns_the_answer(
    cloud: StandIn, hard: dict[str, Any]
) -> None:
    assert hard["state"] == "completed", hard["error"]
    assert hard["route"]["strategy"] == "cloud_llm"
    result = hard["result"]
    assert (result["status"], result["backend"], result["model"]) == ("unchecked", "claude", "claude-opus-5-5")
    assert result["output"] == "The design is sound."
    assert len(cloud.log("/v1/messages")) == 1


def test_phase_20_3_a_trivial_task_runs_its_command_and_no_model_is_asked(
    place: Scripted, cloud: StandIn, standard: dict[str, Any], hard: dict[str, Any]
) -> None:
    asked = len(place.model.log("/api/chat")), len(cloud.log("/v1/messages"))
    done = place.run("write a greeting", "file_exists=greeting.txt", command="echo hello > greeting.txt; echo done")
    assert (done["tier"], done["tier_source"], done["route"]["strategy"]) == ("trivial", "command", "trivial")
    result = done["result"]
    assert (result["status"], result["backend"], result["output"].strip()) == ("verified", "shell", "done")
    assert (result["tokens_in"], result["tokens_out"], result["cost_usd"]) == (0, 0, 0)
    assert (len(place.model.log("/api/chat")), len(cloud.log("/v1/messages"))) == asked


def test_phase_20_4_every_result_has_its_model_its_tokens_and_its_cost(
    standard: dict[str, Any], hard: dict[str, Any], trivial: dict[str, Any]
) -> None:
    told = [
        (each["result"]["model"], each["result"]["tokens_in"], each["result"]["tokens_out"])
        for each in (trivial, standard, hard)
    ]
    assert told == [("none", 0, 0), (MODEL, 460, 30), ("claude-opus-5-5", 1000, 100)]
    assert [each["result"]["cost_usd"] for each in (trivial, standard)] == [0, 0]
    # 1,000 tokens in at 4 USD and 100 out at 20 USD a million: the price table of the model.
    assert hard["result"]["cost_usd"] == pytest.approx(0.006)
    assert standard["result"]["cloud_model"] == "claude-sonnet-5-5"
    assert standard["result"]["cloud_cost_usd"] > 0
