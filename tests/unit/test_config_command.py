"""`agentcom config`: which settings are the hub's and which this home's, how they are shown, set and unset."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcom import messages as m
from agentcom.cli import main
from tests.command_line import complaint, said
from tests.fake_hub_requests import FakeHub


def test_a_setting_that_is_not_there_exits_with_5(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "get", "hub.colour"]) == 5
    assert "hub.colour" in complaint(capsys)


def test_settings_are_read_from_file_and_environment(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCOM_HUB_PORT", "9000")
    (hub.home.path / "config.toml").write_text("[log]\nlevel = 'debug'\n")
    assert main(["config", "get", "hub.port", "--json"]) == 0
    assert said(capsys) == {"value": 9000, "source": "environment", "default": 7420}
    assert main(["config", "get", "log", "--json"]) == 0
    assert said(capsys) == {"log.level": {"value": "debug", "source": "config.toml", "default": "info"}}
    assert main(["config", "get", "log.level"]) == 0
    assert capsys.readouterr().out == "debug\n"
    assert hub.asked == []


LEASE = {
    "value": 60, "source": "stored", "default": 45, "unset_to": 45, "was": 45, "by": "ann",
    "at": "2027-01-15T08:00:00.000Z",
}  # fmt: skip


def test_settings_of_the_hub_are_told_by_the_hub(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["config_get"] = {"settings": {"queue.lease_s": LEASE}}
    assert main(["config", "get", "queue.lease_s", "--json"]) == 0
    assert said(capsys) == LEASE
    assert main(["config", "get", "queue"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (lease,) = [line.split() for line in lines if line.startswith("queue.lease_s")]
    assert lease == ["queue.lease_s", "60", "stored", "ann", "2027-01-15T08:00:00.000Z"]
    assert any(line.split() == ["queue.park_s", "60", "default"] for line in lines)
    assert hub.asked == [m.ConfigGet(name="queue.lease_s"), m.ConfigGet(name="queue")]


def test_without_a_hub_its_settings_are_those_of_this_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTCOM_HOME", str(tmp_path / "none"))
    assert main(["config", "get", "queue.lease_s"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "45\n"
    assert captured.err == "the hub cannot be reached: what this home would give it is shown\n"


def test_a_setting_of_the_hub_is_set_and_unset_there(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["config_change"] = {"settings": {"queue.lease_s": LEASE}}
    assert main(["config", "set", "queue.lease_s", "60"]) == 0
    assert "60" in capsys.readouterr().out
    assert main(["config", "set", "queue.lease_s=60", "queue.max_retries=1", "--json"]) == 0
    assert said(capsys) == {"settings": {"queue.lease_s": LEASE}}
    assert main(["config", "unset", "queue.lease_s", "queue.park_s"]) == 0
    assert hub.asked == [
        m.ConfigChange(set={"queue.lease_s": 60}),
        m.ConfigChange(set={"queue.lease_s": 60, "queue.max_retries": 1}),
        m.ConfigChange(unset=("queue.lease_s", "queue.park_s")),
    ]
    assert not (hub.home.path / "config.toml").exists()


def test_a_setting_that_is_given_twice_is_refused(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "set", "queue.lease_s=60", "queue.lease_s=90"]) == 2
    assert "the same setting is given twice" in capsys.readouterr().err
    assert hub.asked == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["set", "queue.lease_s", "soon"], 4),
        (["set", "sandbox.mode", "sometimes"], 4),
        (["set", "queue.colour", "1"], 5),
        (["unset", "queue.colour"], 5),
        (["set", "queue.lease_s"], 2),
        (["set", "queue.lease_s=1", "sandbox.mode=off"], 2),
        (["unset"], 2),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_asked_or_written(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    assert main(["config", *arguments]) == code
    complaint(capsys)
    assert hub.asked == []
    assert not (hub.home.path / "config.toml").exists()


def test_a_negative_number_is_the_value_of_a_setting_and_no_option(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["queue.max_retries", "-5"], ["queue.max_retries=-5"], ["queue.max_retries", "--", "-5"]):
        assert main(["config", "set", *words]) == 4
        assert "queue.max_retries cannot be \"-5\"" in complaint(capsys)
    assert main(["config", "set", "queue.max_retries", "-5", "--json"]) == 4
    assert "queue.max_retries cannot be" in complaint(capsys)
    assert main(["config", "set", "nonsense", "-5"]) == 5
    assert "there is no setting nonsense" in complaint(capsys)
    assert main(["config", "set", "-5"]) == 2
    assert hub.asked == []


def test_a_local_setting_is_written_into_this_homes_config_toml(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hub.home.path / "config.toml"
    assert main(["config", "set", "sandbox.mode", "require", "--json"]) == 0
    mode = {"value": "require", "source": "config.toml", "default": "auto"}
    assert said(capsys) == {"settings": {"sandbox.mode": mode}, "file": str(file)}
    assert file.read_text() == '[sandbox]\nmode = "require"\n'
    monkeypatch.setenv("AGENTCOM_SANDBOX_MODE", "off")
    assert main(["config", "unset", "sandbox.mode"]) == 0
    assert "AGENTCOM_SANDBOX_MODE is set in this environment and comes first" in capsys.readouterr().err
    assert file.read_text() == ""
    assert hub.asked == []


def test_who_changes_the_folder_of_backups_is_told_to_move_the_old_ones(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["config", "set", "backups.folder", str(tmp_path / "other")]) == 0
    assert "move each .mdb with its .json" in capsys.readouterr().err
