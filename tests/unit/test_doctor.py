"""`agentcom doctor`: what it looks at, and what it says is to be done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentcom import __version__
from agentcom.cli import doctor, main
from agentcom.errors import StoreError
from agentcom.store import start
from agentcom_sidecar import guards, isolation
from tests.command_line import said
from tests.fake_hub_requests import NO_BUDGET, FakeHub


def test_the_doctor_looks_at_everything(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["hub_status"] = {
        "version": __version__,
        "scheduler": "cython",
        "started": "now",
        "paused": False,
        "pauses": ["tier:complex"],
    }
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    hub.answers["host_list"] = {"hosts": [{"name": "box", "state": "offline", "last_seen": "then"}]}
    hub.answers["queue_stats"] = {}
    hub.answers |= NO_BUDGET
    assert main(["doctor", "--json"]) == 0
    found = said(capsys)
    assert found["ok"] is True
    assert {"versions", "home", "settings", "keys", "scheduler", "git", "sandbox", "hub"} <= {
        check["name"] for check in found["checks"]
    }
    paused = next(check for check in found["checks"] if check["name"] == "queue")
    assert (paused["detail"], paused["hint"]) == (
        "the tier complex is paused",
        "run `agentcom queue resume --tier complex`",
    )
    sandbox = next(check for check in found["checks"] if check["name"] == "sandbox")
    assert sandbox["detail"].split(":")[0] in ("bubblewrap", "none")


@pytest.mark.parametrize(
    ("mode", "found", "status", "words"),
    [
        ("auto", isolation.BUBBLEWRAP, "ok", "a command was tried out and was isolated"),
        ("auto", isolation.Isolation("none", "bubblewrap is not installed", "install it"), "warn", "not installed"),
        ("require", isolation.Isolation("none", "no namespaces", "use sysctl"), "fail", "no namespaces"),
        ("off", isolation.BUBBLEWRAP, "warn", 'sandbox.mode is "off"'),
    ],
)
def test_the_doctor_says_what_isolates_and_what_to_do_where_nothing_does(
    mode: str,
    found: isolation.Isolation,
    status: str,
    words: str,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AGENTCOM_SANDBOX_MODE", mode)
    monkeypatch.setattr(isolation, "_found", found)
    monkeypatch.setattr(guards, "kind", lambda: "compiled")
    main(["doctor", "--json"])
    sandbox = next(check for check in said(capsys)["checks"] if check["name"] == "sandbox")
    assert sandbox["status"] == status
    assert words in sandbox["detail"]
    assert isolation.known(mode).remedy in sandbox["hint"]  # type: ignore[arg-type]


def test_the_doctor_says_where_commands_start_slower_for_want_of_a_compiler(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(isolation, "_found", isolation.BUBBLEWRAP)
    monkeypatch.setattr(guards, "kind", lambda: "python")
    main(["doctor", "--json"])
    sandbox = next(check for check in said(capsys)["checks"] if check["name"] == "sandbox")
    assert (sandbox["status"], "its guard is python" in sandbox["detail"]) == ("warn", True)
    assert "C compiler" in sandbox["hint"]


def test_the_doctor_says_which_program_is_offered_and_is_not_well(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    for name, status in (("codex", 3), ("gemini", 4)):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho no node here\nexit {status}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("AGENTCOM_PROGRAMS_OFFER", "codex,opencode")
    assert main(["doctor", "--json"]) == 1
    checks = [check for check in said(capsys)["checks"] if check["name"] in ("program", "programs")]
    told = {check["detail"].split()[0]: check["hint"] for check in checks if check["status"] == "fail"}
    assert told.keys() == {"codex", "opencode"}, "gemini is not offered"
    assert told["codex"].startswith("it ended with 3 when it was asked for its version: no node here")
    assert "install" in told["opencode"]
    assert "gemini (broken) (not in programs.offer)" in checks[-1]["detail"]


def test_the_doctor_says_which_stored_setting_is_ignored_and_why(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["hub_status"] = {"version": __version__, "scheduler": "cython", "started": "now"}
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    hub.answers["host_list"] = {"hosts": []}
    hub.answers["queue_stats"] = {
        "settings": {"stored": ["queue.lease_s"], "ignored": {"queue.lease_s": "too short"}}
    }
    hub.answers |= NO_BUDGET
    assert main(["doctor", "--json"]) == 0
    (found,) = [check for check in said(capsys)["checks"] if check["name"] == "stored setting"]
    assert found["status"] == "warn"
    assert found["detail"] == "queue.lease_s was set and does not apply: too short"
    assert "agentcom config unset queue.lease_s" in found["hint"]


def budget_of(usd: float, left_usd: float, held: int = 0, per: str = "day") -> dict:
    return {"key": "all", "per": per, "usd": usd, "left_usd": left_usd, "held": held}


@pytest.mark.parametrize(
    ("budgets", "kind", "status", "words"),
    [
        ([], "ollama", None, ""),
        ([], "anthropic", "warn", "claude-1 costs money, and no budget is set"),
        ([budget_of(20, 19)], "anthropic", "ok", "1.00 of 20.00 USD are spent or reserved"),
        ([budget_of(20, 4)], "ollama", "warn", "nearly reached: 16.00 of 20.00"),
        ([budget_of(20, 1.5, held=3)], "ollama", "warn", "no further attempt fits; tasks that it holds: 3"),
        ([budget_of(0, 0)], "ollama", "warn", "0.00 of 0.00 USD"),
    ],
)
def test_the_doctor_says_which_budget_is_reached_or_nearly_and_where_there_is_none(
    budgets: list, kind: str, status: str | None, words: str
) -> None:
    found = {"budgets": budgets, "attempt_usd": 2.0}
    told = list(doctor.budget_findings(found, [{"name": "claude-1", "kind": kind}]))
    assert [one.status for one in told] == ([status] if status else [])
    assert all(words in one.detail for one in told)
    if status == "warn":
        assert "agentcom budget set all" in told[0].hint


def test_the_doctor_names_a_key_that_others_can_read(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["hub_status"] = {"version": __version__, "scheduler": "cython", "started": "now"}
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    (hub.home.keys / "hub.key").chmod(0o644)
    assert main(["doctor", "--json"]) == 1
    keys = next(check for check in said(capsys)["checks"] if check["name"] == "keys")
    assert (keys["status"], "hub.key" in keys["detail"], "chmod 600" in keys["hint"]) == ("fail", True, True)


def test_the_doctor_refuses_a_home_on_a_network_file_system_as_the_hub_does(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "file_system", lambda _path: "nfs4")
    with pytest.raises(StoreError) as refused:
        start.open_store(start.StorePaths.of_home(hub.home.path))
    assert main(["doctor", "--json"]) == 1
    (home,) = [check for check in said(capsys)["checks"] if check["name"] == "home"]
    assert (home["status"], home["detail"]) == ("fail", refused.value.message)
    assert "set AGENTCOM_HOME to a directory on a local disk" in home["detail"]
    (hub.home.keys / "hub.key").unlink()
    main(["doctor", "--json"])
    (home,) = [check for check in said(capsys)["checks"] if check["name"] == "home"]
    assert home["status"] != "fail", "no hub is of this home: it has keys of others"
