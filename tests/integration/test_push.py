"""The branch is pushed before the attempt is done: real git, with a bare repository as origin."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from agentcom.config import GitSettings
from agentcom.model import FailureClass, Strategy, TaskSpec
from agentcom_sidecar import push as pushes
from agentcom_sidecar.execution import execute
from tests.integration.test_workspace import git
from tests.works import Ran, check, repository, run_attempt, settings, work_of

BRANCH = "agentcom/7/1-say-hello"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository with one commit on `main`."""
    checkout = repository(tmp_path / "theirs")
    bare = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(checkout), str(bare))
    return bare


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushes, "AGAIN_AFTER_S", (0.0, 0.0))


def spec_of(origin: Path, command: str = "echo hello > hello.txt") -> TaskSpec:
    return TaskSpec(
        description="Say hello",
        repo=str(origin),
        command=command,
        checks=(check("file_exists", "hello.txt"),),
    )


def run(folder: Path, origin: Path, **options: object) -> Ran:
    return run_attempt(folder, Strategy.trivial, spec_of(origin), **options)


def hook(origin: Path, text: str) -> None:
    path = origin / "hooks" / "pre-receive"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_branch_lies_at_its_origin_before_the_attempt_is_done(tmp_path: Path, origin: Path) -> None:
    ran = run(tmp_path, origin)
    result = ran.completed
    assert (result.pushed, result.branch) == (True, BRANCH)
    assert git(origin, "rev-parse", BRANCH) == result.commit
    assert git(origin, "rev-parse", f"{BRANCH}^{{tree}}") == result.tree
    assert git(origin, "rev-parse", f"{BRANCH}^") == git(origin, "rev-parse", "main")
    assert ran.gates == 1


def test_nothing_is_pushed_where_nothing_changed(tmp_path: Path, origin: Path) -> None:
    ran = run_attempt(tmp_path, Strategy.trivial, spec_of(origin, "true"))
    assert ran.completed.pushed is False
    assert git(origin, "branch", "--format=%(refname:short)").split() == ["main"]


def test_a_users_own_checkout_is_not_pushed_to(tmp_path: Path) -> None:
    checkout = repository(tmp_path / "theirs")
    ran = run(tmp_path, checkout)
    assert ran.completed.pushed is False
    assert "somebody's checkout" in ran.log
    assert git(checkout, "branch", "--format=%(refname:short)").split() == ["main"]


def test_a_host_that_does_not_push_keeps_the_branch(tmp_path: Path, origin: Path) -> None:
    given = msgspec.structs.replace(settings(), git=GitSettings(push=False))
    assert run(tmp_path, origin, given=given).completed.pushed is False
    assert git(origin, "branch", "--format=%(refname:short)").split() == ["main"]


def test_what_a_hook_of_the_repository_refuses_is_held_with_its_words(tmp_path: Path, origin: Path) -> None:
    hook(origin, "echo only signed work; exit 1")
    ran = run(tmp_path, origin)
    assert (ran.failed.failure_class, ran.failed.code) == (FailureClass.configuration, "push_refused")
    assert "only signed work" in ran.failed.message
    assert "release the task" in ran.failed.message
    assert ran.result.pushed is False
    assert ran.result.commit is not None


def test_a_branch_of_somebody_else_is_not_overwritten(tmp_path: Path, origin: Path) -> None:
    git(origin, "branch", BRANCH, "main")
    # It has gone another way than ours.
    other = git(origin, "commit-tree", "main^{tree}", "-p", "main", "-m", "another")
    git(origin, "update-ref", f"refs/heads/{BRANCH}", other)
    result = run(tmp_path, origin).completed
    assert (result.pushed, result.branch) == (True, f"{BRANCH}-2")
    assert git(origin, "rev-parse", BRANCH) == other
    assert git(origin, "rev-parse", f"{BRANCH}-2") == result.commit


def test_when_every_name_is_taken_the_push_is_raced(tmp_path: Path, origin: Path) -> None:
    other = git(origin, "commit-tree", "main^{tree}", "-p", "main", "-m", "another")
    for name in (BRANCH, *(f"{BRANCH}-{n}" for n in range(2, pushes.NAMES_TRIED + 1))):
        git(origin, "update-ref", f"refs/heads/{name}", other)
    failed = run(tmp_path, origin).failed
    assert (failed.failure_class, failed.code) == (FailureClass.infrastructure, "push_raced")
    assert "delete" in failed.message


def test_a_push_that_is_made_again_changes_nothing(tmp_path: Path, origin: Path) -> None:
    async def twice() -> None:
        work, ran = await work_of(tmp_path, Strategy.trivial, spec_of(origin))
        ran.outcome = await execute(work)
        place, commit = work.workspace, ran.completed.commit
        assert place.mirror is not None
        assert place.remote is not None
        assert place.outside is not None
        assert commit is not None
        again = await pushes.push(place.mirror, place.remote, place.branch, commit, place.outside, 30)
        assert again == BRANCH

    asyncio.run(twice())
    assert git(origin, "branch", "--list", "agentcom/*", "--format=%(refname:short)").split() == [BRANCH]


def test_hooks_and_configuration_in_the_mirror_do_not_run_at_the_push(tmp_path: Path, origin: Path) -> None:
    """The mirror can be written by a command that nothing isolates."""
    trap = tmp_path / "sprung"

    async def trapped() -> Ran:
        work, ran = await work_of(tmp_path, Strategy.trivial, spec_of(origin))
        assert work.workspace.mirror is not None
        hooks = work.workspace.mirror / "hooks"
        hooks.mkdir(exist_ok=True)
        (hooks / "pre-push").write_text(f"#!/bin/sh\ntouch {trap}\n")
        (hooks / "pre-push").chmod(0o755)
        ran.outcome = await execute(work)
        return ran

    assert asyncio.run(trapped()).completed.pushed is True
    assert not trap.exists()


def test_a_repository_that_is_gone_by_then_is_denied_with_what_to_do(tmp_path: Path, origin: Path) -> None:
    async def gone() -> Ran:
        work, ran = await work_of(tmp_path, Strategy.trivial, spec_of(origin))
        origin.rename(tmp_path / "elsewhere")
        ran.outcome = await execute(work)
        return ran

    failed = asyncio.run(gone()).failed
    assert (failed.failure_class, failed.code) == (FailureClass.configuration, "push_denied")


def test_a_task_of_submit_does_not_spend_the_hosts_credentials() -> None:
    remote = pushes.Remote(url="https://git.example/team/repo", protocol="https", is_trusted=False)
    assert "operate and admin" in str(pushes.why_not(remote, is_wanted=True))
    trusted = pushes.Remote(url="https://git.example/team/repo", protocol="https", is_trusted=True)
    assert pushes.why_not(trusted, is_wanted=True) is None
