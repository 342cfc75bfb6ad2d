"""The folder that a hub, a sidecar and the command line work in: made where it is missing, private, never half made."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcom.cli import main
from agentcom.config import Home
from agentcom.errors import ConfigError


def within(home: Path) -> list[str]:
    return sorted(str(one.relative_to(home)) for one in home.rglob("*"))


def test_a_home_that_is_missing_is_made_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "home").prepare()
    assert within(home.path) == ["keys", "logs", "run", "sidecar", "store"]
    assert {one.stat().st_mode & 0o777 for one in (home.path, *home.path.iterdir())} == {0o700}


@pytest.mark.parametrize("command", ["up", "hub", "sidecar"])
def test_a_home_that_others_can_read_is_refused_before_anything_is_made_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("AGENTCOM_HOME", str(tmp_path))
    assert main([command]) == 1
    assert f"run: chmod 700 {tmp_path}" in capsys.readouterr().err
    assert within(tmp_path) == ["config.toml"]


def test_keys_that_others_can_read_are_refused_before_anything_is_made_beside_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "keys").mkdir(mode=0o750)
    with pytest.raises(ConfigError, match=f"chmod 700 {tmp_path}/keys"):
        Home(tmp_path).prepare()
    assert within(tmp_path) == ["keys"]


def test_a_file_in_the_place_of_a_home_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "home").touch(0o644)
    with pytest.raises(ConfigError, match=f"cannot make {tmp_path}/home: File exists; set AGENTCOM_HOME"):
        Home(tmp_path / "home").prepare()
