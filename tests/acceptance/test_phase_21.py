"""Phase 21, verification: its success criteria, with real processes; and kinds of checks that a plugin adds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.scripted import Scripted, says, scripted, statuses
from tests.sources import MENDED, write
from tests.world import ROOT, eventually

DOCS = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
BROKEN_PLUGIN = "[agentcom.checks]\nlicence = broken_checks:licence\nfile_exists = broken_checks:other\n"


def install(folder: Path, name: str, points: str) -> None:
    """What pip leaves of a package besides its modules."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def documented_plugin(folder: Path) -> None:
    """The plugin that the documentation shows, as it stands there."""
    code = re.search(r"```python\n# acme_checks\.py\n(.*?)```", DOCS, re.DOTALL)
    project = re.search(r"```toml\n# pyproject\.toml\n(.*?)```", DOCS, re.DOTALL)
    assert code
    assert project
    (folder / "acme_checks.py").write_text(code[1])
    points = project[1].partition('"agentcom.checks"]\n')[2].replace('"', "")
    install(folder, "acme-checks", f"[agentcom.checks]\n{points}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    folder = tmp_path_factory.mktemp("phase21")
    site = folder / "site"
    site.mkdir()
    documented_plugin(site)
    (site / "broken_checks.py").write_text("import not_there_at_all\n")
    install(site, "broken-checks", BROKEN_PLUGIN)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "sidecar"), str(ROOT / "web"), str(site)])
    with scripted(folder, PYTHONPATH=paths) as made:
        yield made


def test_phase_21_1_a_completed_task_has_a_report_of_pass_or_fail_for_each_check(place: Scripted) -> None:
    done = place.run("look", "file_exists=here.txt", "command_succeeds=exit 3", command="echo 1 > here.txt")
    assert (done["state"], done["result"]["status"]) == ("completed", "partial_pass")
    (once,) = done["result"]["iterations"]
    assert statuses(done) == [[("file_exists", "pass"), ("command_succeeds", "fail")]]
    assert [check["target"] for check in once["checks"]] == ["here.txt", "exit 3"]
    assert "exit code 3" in once["checks"][1]["output"]
    assert once["status"] == "fail"


def test_phase_21_2_the_four_kinds_work_out_of_the_box(place: Scripted) -> None:
    repo = place.repository("four")
    place.says(write("calc.py", MENDED), says("Mended."))
    checks = ("file_exists=calc.py", "test_passes", "git_clean", "command_succeeds=python3 -c 'import calc'")
    done = place.run("Mend calc.add.", *checks, repo=repo)
    assert done["result"]["status"] == "verified"
    kinds = ("file_exists", "test_passes", "git_clean", "command_succeeds")
    assert statuses(done) == [[(kind, "pass") for kind in kinds]]


def test_a_kind_from_a_plugin_as_documented_runs_on_the_host_that_has_it(place: Scripted) -> None:
    covered = """echo '{"totals": {"percent_covered": 81.5}}' > coverage.json"""
    done = place.run("measure", "coverage=80", "coverage=90", command=covered)
    assert statuses(done) == [[("coverage", "pass"), ("coverage", "fail")]]
    output = done["result"]["iterations"][0]["checks"][1]["output"]
    assert output == "81.5 percent are covered, 90 are wanted"
    none = place.run("measure", "coverage=80", command="true")
    assert statuses(none) == [[("coverage", "no_evidence")]]


def test_a_plugin_that_cannot_be_used_is_named_by_the_host_and_by_doctor(place: Scripted) -> None:
    def told() -> list[str]:
        (host,) = place.client.host_list()["hosts"]
        return list(host["check_faults"])

    found = eventually("the hub knows of both", lambda: told() if len(told()) == 2 else None)
    assert found[0] == "file_exists (broken-checks 1.0): a kind of this name is built in; the plugin needs another name"
    assert found[1].startswith("licence (broken-checks 1.0): broken_checks:licence cannot be imported: ModuleNotFound")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "sidecar"), str(ROOT / "web"), str(place.folder / "site")])
    doctor = place.world.run("hub", "doctor", PYTHONPATH=paths)
    assert all(line in doctor.stdout for line in found)
    assert "coverage (acme-checks 1.0)" in doctor.stdout


def test_a_kind_that_no_host_has_is_refused_on_the_command_line_with_what_to_do(place: Scripted) -> None:
    refused = place.world.run("hub", "submit", "look", "--command", "true", "--check", "licence=MIT")
    assert refused.returncode == 4
    assert "no host has checks of kind 'licence'" in refused.stderr
    assert "coverage" in refused.stderr


def test_phase_21_3_mechanical_checks_run_before_any_judgement_by_a_model(place: Scripted) -> None:
    """The first try fails a check, so nobody judges it; the second passes all, and only then a model is asked."""
    opinion = {"match": "Does the work meet the task?", "content": '{"verdict": "pass", "reasons": ["It adds."]}'}
    wrong = write("calc.py", "def add(a, b):\n    return 5\n")
    place.says(wrong, says("Tried."), write("calc.py", MENDED), says("Mended."), opinion)
    repo, since = place.repository("judged"), len(place.model.log("/api/chat"))
    done = place.run("Mend calc.add.", "test_passes", repo=repo, judge=True, success_criteria=["2 and 2 are 4"])
    first, second = done["result"]["iterations"]
    assert (first["status"], first["judgement"]) == ("fail", None)
    assert (second["status"], second["judgement"]["verdict"]) == ("pass", "pass")
    asked = [call["body"]["messages"][-1]["content"] for call in place.model.log("/api/chat")[since:]]
    assert [n for n, text in enumerate(asked) if opinion["match"] in text] == [len(asked) - 1], "once, after all else"
    log = place.world.run("hub", "task", "log", str(done["id"])).stdout
    assert log.index("[check] test_passes : fail") < log.index("[check] test_passes : pass") < log.index("[judged by")
    shown = place.world.run("hub", "task", "show", str(done["id"])).stdout
    assert f"2. judged by {done['result']['model']}, not proof: pass (It adds.)" in shown
