"""Repositories that cannot be worked on: each ends in its failure class with a line that says what to do."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agentcom.config import Home, Settings, SidecarSettings
from agentcom.model import FailureClass, Role, TaskSpec
from agentcom_sidecar import git as gits
from agentcom_sidecar import workspace as workspaces
from agentcom_sidecar.workspace import WorkspaceError
from tests.integration.test_workspace import git
from tests.works import repository


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    bare = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(repository(tmp_path / "theirs")), str(bare))
    return bare


def failed(home: Home, repo: Path | str, settings: Settings | None = None) -> WorkspaceError:
    spec = TaskSpec(description="Greet", repo=str(repo))

    async def run() -> None:
        await workspaces.prepare(spec, 7, 1, settings or Settings(), home, submitter_role=Role.admin)

    with pytest.raises(WorkspaceError) as caught:
        asyncio.run(run())
    return caught.value


def test_one_that_is_not_there_says_to_check_its_address(home: Home, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    error = failed(home, tmp_path / "plain")
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_missing")
    assert "check the address" in error.message


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_one_that_is_absent_says_where_to_put_it_or_what_to_name(
    home: Home, tmp_path: Path, scheme: str
) -> None:
    url = f"{scheme}{tmp_path / 'absent'}"
    error = failed(home, url)
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_missing")
    assert error.message.startswith(f"{url}: no such directory on this host; put a clone there, then release the task")
    assert "--needs host:NAME" in error.message


def test_one_that_is_denied_says_to_give_credentials(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho 'git@127.0.0.1: Permission denied (publickey).' >&2\nexit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setattr(gits, "_SSH", str(ssh))
    error = failed(home, "ssh://git@127.0.0.1/team/engine.git")
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_denied")
    assert "credentials that may read it" in error.message


def test_one_without_a_commit_says_to_push_a_first(home: Home, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "empty.git")
    error = failed(home, tmp_path / "empty.git")
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_empty")
    assert "push a first one" in error.message


def test_one_whose_head_names_a_branch_that_is_not_there_says_to_name_one(home: Home, origin: Path) -> None:
    git(origin, "symbolic-ref", "HEAD", "refs/heads/gone")
    error = failed(home, origin)
    assert (error.failure_class, error.code) == (FailureClass.configuration, "branch_missing")
    assert "name one with --branch" in error.message


def test_one_that_is_larger_than_a_host_fetches_leaves_nothing_behind(
    home: Home, origin: Path, tmp_path: Path
) -> None:
    there = tmp_path / "big"
    git(tmp_path, "clone", "--quiet", str(origin), str(there))
    (there / "big.bin").write_bytes(os.urandom(3 << 20))
    git(there, "add", "--all")
    git(there, "commit", "--quiet", "-m", "big")
    git(there, "push", "--quiet", "origin", "HEAD")
    error = failed(home, origin, Settings(sidecar=SidecarSettings(fetch_mib=1)))
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_too_large"), error
    assert "sidecar.fetch_mib" in error.message
    [mirror] = (home.sidecar / "mirrors").glob("*.git")
    assert sum(each.stat().st_size for each in mirror.rglob("*") if each.is_file()) < 1 << 20


def test_one_that_takes_too_long_says_which_setting_bounds_it(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexec sleep 60\n")
    ssh.chmod(0o755)
    monkeypatch.setattr(gits, "_SSH", str(ssh))
    slow = Settings(sidecar=SidecarSettings(fetch_s=0.5, kill_grace_s=0))
    error = failed(home, "ssh://git@127.0.0.1/team/engine.git", slow)
    assert (error.failure_class, error.code) == (FailureClass.infrastructure, "repository_timeout")
    assert "sidecar.fetch_s" in error.message
