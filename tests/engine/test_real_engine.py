"""Standard tasks against real inference, all the way: hub, sidecar, and llama.cpp behind Ollama's routes.

Random weights say nothing that makes sense, so the work fails its checks; what is looked at is what must be true of any
model: tokens that both ends count alike, rates, a stream, the end that a task comes to, and what the hub has learned.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentcom import messages
from agentcom.config import Settings
from tests.engine.tiny_gguf import write_model
from tests.integration.test_model_loader import answers
from tests.world import ROOT, World, eventually

PACKAGES = ROOT / "build" / "engine"
MODEL, OTHER = "tiny:latest", "other:latest"
CONTEXT = 16_384  # a token is a byte here, and the tools alone take thousands
TOKENS_MAX = 200
pytestmark = pytest.mark.engine


@dataclass
class Engine:
    """A running server, and what it has counted itself."""

    url: str

    def get(self, path: str) -> dict[str, Any]:
        with httpx2.Client(trust_env=False, timeout=60) as client:
            return dict(client.get(self.url + path).json())

    @property
    def counts(self) -> dict[str, int]:
        return self.get("/__counts")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    node = _node()
    folder = tmp_path_factory.mktemp("engine")
    for seed, name in enumerate((MODEL, OTHER)):
        write_model(folder / name, CONTEXT, seed=seed)
    process = subprocess.Popen(
        [
            node,
            str(Path(__file__).with_name("server.mjs")),
            str(PACKAGES),
            *(f"{name}={folder / name}" for name in (MODEL, OTHER)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the engine ended with {process.wait(10)}"
        yield Engine(json.loads(line)["url"])
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def _node() -> str:
    """Node, where it and the engine are installed; else the test is skipped, or fails where the engine is required."""
    node = shutil.which("node")
    reason = ""
    if node is None:
        reason = "Node is not installed"
    elif not (PACKAGES / "node_modules" / "node-llama-cpp").is_dir():
        reason = "the engine is not installed (make engine)"
    if reason and os.environ.get("AGENTCOM_REQUIRE_ENGINE") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    assert node is not None
    return node


def test_standard_tasks_run_on_real_inference_and_what_is_told_of_them_is_what_the_engine_did(
    world: World, engine: Engine
) -> None:
    settings = {"AGENTCOM_MODELS_STANDARD": MODEL, "AGENTCOM_MODELS_NUM_CTX": str(CONTEXT)}
    world.hub(**settings, AGENTCOM_QUEUE_LEASE_S="60")
    client = world.client()

    def join(name: str, tokens_max: int) -> None:
        world.join(name)
        more = {"AGENTCOM_SIDECAR_AGENTS": "1", "AGENTCOM_SIDECAR_MAX_OUTPUT_TOKENS": str(tokens_max)}
        world.sidecar(name, **settings, **more, AGENTCOM_ENDPOINTS_DISCOVER=engine.url)

    join("box", TOKENS_MAX)

    def shown(**wanted: Any) -> dict[str, Any] | None:
        """The endpoint with its models by name, once it is healthy and the model is as wanted."""
        for one in client.endpoint_list()["endpoints"]:
            models = {each["name"]: each for each in one["models"]}
            if one["healthy"] and MODEL in models and wanted.items() <= models[MODEL].items():
                return {**one, "models": models}
        return None

    before = eventually("the engine is seen", lambda: shown(warm=False, capabilities=["completion", "tools"]))
    size = before["models"][MODEL]["size_bytes"]
    assert (before["version"], 400_000 < size < 500_000) == ("0.33.0", True)

    # It works, and what it says is no file: the checks fail to the end.
    checks = [{"kind": "file_exists", "target": "made.txt"}]
    failed = client.wait(
        client.submit(description="Make made.txt.", checks=checks, max_fix_attempts=1)["id"], timeout_s=120
    )
    result, counts = failed["result"], engine.counts
    assert (failed["state"], result["status"]) == ("completed", "partial_pass")
    assert [one["status"] for one in result["iterations"]] == ["fail", "fail"]
    assert (result["tokens_in"], result["tokens_out"]) == (counts["tokens_in"], counts["tokens_out"])
    assert (counts["calls"], counts["loads"], result["tokens_out"]) == (2, 1, 2 * TOKENS_MAX)
    assert result["stop_reason"] == "length"
    assert len(result["output"]) == TOKENS_MAX, "a letter for each token, all of them streamed"
    assert result["durations_ms"]["generate"] > 0
    assert result["output"] in client.task_log(failed["id"])["text"]

    # The hub has learned what a call there takes, and the server says that the model is loaded as tasks want it.
    warm = eventually("the check finds it loaded", lambda: shown(warm=True, context_length=CONTEXT))
    learned = warm["measured"][MODEL]
    assert (learned["rate_samples"], learned["load_samples"]) == (1, 1)
    assert learned["tokens_per_s"] > 0
    assert learned["load_s"] > 0
    assert learned["first_byte_ms"] > 0
    assert [one["name"] for one in engine.get("/api/ps")["models"]] == [MODEL]

    # A prompt that the context cannot hold is the server's own refusal, which no repetition mends.
    held = client.submit(description="Too long. " * (CONTEXT // 10), tier="standard")["id"]
    eventually("it is held", lambda: client.task_get(held)["state"] == "held", seconds=60)
    error = client.task_get(held)["error"]
    assert (error["class"], error["code"]) == ("configuration", "bad_request")
    assert "exceeds the context length" in error["message"]

    # One whose time is over in the middle of a sentence ends in its class, and the engine stops.
    join("patient", 8_000)
    spec = {"description": "Say it slowly.", "tier": "standard", "needs": ["host:patient"]}
    late = client.wait(client.submit(**spec, timeout_s=1, max_retries=0)["id"], timeout_s=60)
    error = late["error"]
    assert (late["state"], error["class"], error["code"]) == ("dead", "task_error", "timed_out")
    eventually("the engine noticed", lambda: engine.counts["aborted"] == 1, seconds=60)


def test_a_model_is_loaded_ahead_by_an_empty_prompt_and_with_the_context_of_tasks(engine: Engine) -> None:
    calls = engine.counts["calls"]
    wish = messages.Preload(url=engine.url, model=OTHER, num_ctx=4096, keep_s=60, load_s=60)
    [said] = answers(Settings(), wish)
    assert (said.reason, said.is_load) == ("", True)
    found = {one["name"]: one["context_length"] for one in engine.get("/api/ps")["models"]}
    assert found[OTHER] == 4096
    assert engine.counts["calls"] == calls, "nothing was generated"
