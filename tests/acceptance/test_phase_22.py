"""Phase 22, self-verification loop: its success criteria, with real processes; and what becomes of models that cheat,
turn in circles or say nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scripted import Scripted, says, scripted, statuses
from tests.sources import MENDED, write
from tests.standins import StandIn
from tests.standins.forge import TOKEN

WRONG = "def add(a, b):\n    return 5\n"
EMPTIED = "import unittest\n\n\nclass Adds(unittest.TestCase):\n    def test_add(self):\n        pass\n"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository that a forge serves; calc.py in it is broken, and a test shows that."""
    folder = tmp_path_factory.mktemp("origin")
    return folder / "team" / "calc.git"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, origin: Path) -> Iterator[tuple[Scripted, StandIn]]:
    folder = tmp_path_factory.mktemp("phase22")
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    server = StandIn("forge", None, "--repository", str(origin))
    try:
        entry = f"{origin.parent.parent} github {server.url} {token}"
        with scripted(folder, AGENTCOM_GIT_FORGES=entry) as made:
            theirs = made.repository("theirs")
            subprocess.run(["git", "clone", "-q", "--bare", theirs, str(origin)], check=True)
            yield made, server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def mended(place: tuple[Scripted, StandIn], origin: Path) -> dict[str, Any]:
    """The work of a model that first writes a wrong fix and then a right one."""
    made, _ = place
    made.says(write("calc.py", WRONG), says("I return five."), write("calc.py", MENDED), says("I add them."))
    return made.run("Mend calc.add.", "test_passes", "file_exists=calc.py", repo=str(origin), pull_request=True)


def told(place: tuple[Scripted, StandIn]) -> list[str]:
    """What the model was told by the newest call: the messages that are not its own."""
    messages = place[0].model.log("/api/chat")[-1]["body"]["messages"]
    return [each["content"] for each in messages if each["role"] == "user"]


def test_phase_22_1_what_failed_goes_back_to_the_model_and_it_mends_it(
    place: tuple[Scripted, StandIn], mended: dict[str, Any]
) -> None:
    assert mended["result"]["status"] == "verified", mended
    task, complaint = told(place)
    assert task.startswith("Mend calc.add.")
    failing, rest = complaint.split("These pass; keep them passing:")
    assert "AssertionError: 5 != 4" in failing
    assert "file_exists: calc.py" in rest
    assert "1. I return five. -> failed: test_passes (fail)" in rest


def test_a_wrong_fix_and_then_a_right_one_end_verified_with_a_branch_and_a_pull_request(
    place: tuple[Scripted, StandIn], mended: dict[str, Any], origin: Path
) -> None:
    result = mended["result"]
    assert (result["status"], result["evidence"]) == ("verified", "red_to_green")
    assert [each["status"] for each in result["iterations"]] == ["fail", "pass"]
    (request,) = place[1].state()["requests"]
    assert (request["html_url"], request["branch"]) == (result["pull_request"], result["branch"])
    assert "Status: **verified**, red_to_green" in request["body"]
    shown = subprocess.run(
        ["git", "show", f"{result['branch']}:calc.py"], cwd=origin, check=True, capture_output=True, text=True
    )
    assert shown.stdout == MENDED


def test_phase_22_2_the_loop_ends_after_max_fix_attempts_with_a_partial_pass(place: tuple[Scripted, StandIn]) -> None:
    made, _ = place
    repo = made.repository("stubborn")
    for attempts in (0, 2):
        made.says(write("a.txt", "1\n"), says("Done."))
        checks = ("file_exists=a.txt", "file_exists=b.txt")
        done = made.run("Write b.txt.", *checks, repo=repo, max_fix_attempts=attempts)
        assert (done["state"], done["result"]["status"]) == ("completed", "partial_pass")
        assert statuses(done) == [[("file_exists", "pass"), ("file_exists", "fail")]] * (attempts + 1)


def test_phase_22_3_each_iteration_with_its_checks_stands_in_the_result(
    place: tuple[Scripted, StandIn], mended: dict[str, Any]
) -> None:
    iterations = mended["result"]["iterations"]
    assert [each["n"] for each in iterations] == [1, 2]
    assert statuses(mended) == [
        [("test_passes", "fail"), ("file_exists", "pass")],
        [("test_passes", "pass"), ("file_exists", "pass")],
    ]
    assert "AssertionError: 5 != 4" in iterations[0]["checks"][0]["output"]
    assert all(each["tokens_out"] > 0 for each in iterations)
    shown = place[0].world.run("hub", "task", "show", str(mended["id"])).stdout
    lines = [line.strip() for line in shown.splitlines()]
    assert any(line.startswith("1. fail test_passes") for line in lines)
    assert any(line.startswith("2. pass test_passes") for line in lines)


def test_a_task_with_a_command_is_checked_once(place: tuple[Scripted, StandIn]) -> None:
    done = place[0].run("look", "file_exists=b.txt", command="true", max_fix_attempts=3)
    assert (done["result"]["status"], len(done["result"]["iterations"])) == ("partial_pass", 1)


def test_an_agent_that_edits_the_test_instead_of_the_code_is_exposed_with_both_verdicts(
    place: tuple[Scripted, StandIn],
) -> None:
    made, _ = place
    made.says(write("test_calc.py", EMPTIED), says("All green."))
    done = made.run("Mend calc.add.", "test_passes", repo=made.repository("cheated"), max_fix_attempts=0)
    result = done["result"]
    assert (result["status"], result["tampered"]) == ("partial_pass", ["test_calc.py"])
    (check,) = result["iterations"][0]["checks"]
    assert (check["before"], check["status"], check["with_base"]) == ("fail", "pass", "fail")
    assert "AssertionError: 0 != 4" in check["output"]
    shown = made.world.run("hub", "task", "show", str(done["id"])).stdout
    assert "fail with the tests of the base" in shown
    assert "changed tests or settings" in shown


def test_a_model_that_turns_in_circles_is_stopped_and_its_work_is_kept_and_checked(
    place: tuple[Scripted, StandIn],
) -> None:
    made, _ = place
    made.says(write("a.txt", "1\n"), {"tool_calls": [{"name": "read_file", "arguments": {"path": "a.txt"}}]})
    repo = made.repository("circles")
    done = made.run("Write b.txt.", "file_exists=a.txt", "file_exists=b.txt", repo=repo, max_fix_attempts=0)
    result = done["result"]
    assert (done["state"], result["status"], result["stop_reason"]) == ("completed", "partial_pass", "repetition")
    assert result["files_changed"] == ["a.txt"]
    assert statuses(done) == [[("file_exists", "pass"), ("file_exists", "fail")]]
    assert any("the same tool calls" in warning for warning in result["warnings"])


def test_a_model_that_says_nothing_fails(place: tuple[Scripted, StandIn]) -> None:
    made, _ = place
    made.says(says(""))
    done = made.run("Write b.txt.", "file_exists=b.txt", repo=made.repository("silent"), max_retries=0)
    assert (done["state"], done["error"]["class"], done["error"]["code"]) == ("dead", "task_error", "empty_answer")


def test_no_change_and_already_done_are_outcomes_of_their_own(place: tuple[Scripted, StandIn]) -> None:
    made, _ = place
    repo = made.repository("idle")
    made.says(says("There is nothing to do."))
    ends = [
        made.run("Look.", *checks, repo=repo, max_fix_attempts=0)["result"]["status"]
        for checks in (["file_exists=calc.py"], ["file_exists=b.txt"], [])
    ]
    assert ends == ["already_done", "no_change", "no_change"]
