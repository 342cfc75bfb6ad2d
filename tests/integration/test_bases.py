"""Where an attempt starts that follows another task: at its pushed branch, in this host's mirror, or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentcom.config import Home, Settings
from agentcom.messages import Predecessor
from agentcom.model import FailureClass, Role, TaskSpec
from agentcom_sidecar import workspace as workspaces
from agentcom_sidecar.bases import Start, start_of
from agentcom_sidecar.workspace import Workspace, WorkspaceError
from tests.integration.test_workspace import git
from tests.works import assign_of, repository

BRANCH = "agentcom/5/1-before"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository with one commit on `main`."""
    bare = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(repository(tmp_path / "theirs")), str(bare))
    return bare


def worked(tmp_path: Path, origin: Path, *, pushed: bool = True, **fields: Any) -> Predecessor:
    """Task 5 has made a commit, somewhere, and pushed it."""
    there = tmp_path / "before"
    git(tmp_path, "clone", "--quiet", str(origin), str(there))
    (there / "before.txt").write_text("made by task 5\n")
    git(there, "checkout", "--quiet", "-b", BRANCH)
    git(there, "add", "--all")
    git(there, "commit", "--quiet", "-m", "before")
    if pushed:
        git(there, "push", "--quiet", "origin", BRANCH)
    known = {"repo": str(origin), "branch": BRANCH, "commit": git(there, "rev-parse", "HEAD"), "host": "alpha"}
    return Predecessor(task=5, pushed=pushed, **{**known, **fields})


def started(tmp_path: Path, origin: Path, before: Predecessor, home: str = "home") -> Workspace:
    spec = TaskSpec(description="Go on", repo=str(origin), base="predecessor", depends_on=(5,))
    start = start_of(spec, assign_of(spec, predecessors=(before,)))

    async def run() -> Workspace:
        at = Home(tmp_path / home).prepare()
        return await workspaces.prepare(spec, 7, 1, Settings(), at, submitter_role=Role.admin, start=start)

    return asyncio.run(run())


def refused(tmp_path: Path, origin: Path, before: Predecessor) -> WorkspaceError:
    with pytest.raises(WorkspaceError) as caught:
        started(tmp_path, origin, before)
    assert caught.value.failure_class is FailureClass.configuration
    return caught.value


def test_a_dependant_starts_from_its_predecessors_pushed_branch_on_another_host(
    tmp_path: Path, origin: Path
) -> None:
    before = worked(tmp_path, origin)
    place = started(tmp_path, origin, before)
    assert (place.path / "before.txt").read_text() == "made by task 5\n"
    assert (place.base_commit, place.base_branch) == (before.commit, BRANCH)


def test_what_somebody_added_to_that_branch_meanwhile_is_there_too(tmp_path: Path, origin: Path) -> None:
    before = worked(tmp_path, origin)
    (tmp_path / "before" / "more.txt").write_text("more\n")
    git(tmp_path / "before", "add", "--all")
    git(tmp_path / "before", "commit", "--quiet", "-m", "more")
    git(tmp_path / "before", "push", "--quiet", "origin", BRANCH)
    assert (started(tmp_path, origin, before).path / "more.txt").exists()


def test_a_branch_that_was_merged_and_deleted_is_found_in_the_default_branch(
    tmp_path: Path, origin: Path
) -> None:
    before = worked(tmp_path, origin)
    git(origin, "update-ref", "refs/heads/main", before.commit)
    git(origin, "branch", "-D", BRANCH)
    place = started(tmp_path, origin, before)
    assert (place.base_commit, place.base_branch) == (before.commit, "main")


def test_a_branch_that_is_gone_unmerged_is_an_error_that_says_what_to_do(tmp_path: Path, origin: Path) -> None:
    before = worked(tmp_path, origin)
    git(origin, "branch", "-D", BRANCH)
    git(origin, "gc", "--prune=now", "--quiet")
    error = refused(tmp_path, origin, before)
    assert (error.code, "push it again" in error.message) == ("base_missing", True)


def test_work_that_was_not_pushed_is_found_on_the_host_that_did_it_and_nowhere_else(
    tmp_path: Path, origin: Path
) -> None:
    first = TaskSpec(description="before", repo=str(origin))

    async def work() -> tuple[str, str]:
        at = Home(tmp_path / "home").prepare()
        place = await workspaces.prepare(first, 5, 1, Settings(), at, submitter_role=Role.admin)
        (place.path / "before.txt").write_text("made by task 5\n")
        made = await place.commit("before")
        assert made is not None
        return place.branch, made.commit

    branch, commit = asyncio.run(work())
    before = Predecessor(task=5, repo=str(origin), branch=branch, commit=commit, host="alpha")
    place = started(tmp_path, origin, before)
    assert (place.path / "before.txt").exists()
    assert (place.base_commit, place.base_branch) == (commit, "main")
    with pytest.raises(WorkspaceError) as caught:
        started(tmp_path, origin, before, home="another")
    assert caught.value.code == "base_missing"
    assert "host alpha only" in caught.value.message
    assert "--needs host:alpha" in caught.value.message


def test_after_one_that_changed_nothing_a_task_starts_from_the_default_branch(
    tmp_path: Path, origin: Path
) -> None:
    place = started(tmp_path, origin, Predecessor(task=5, repo=str(origin), status="already_done"))
    assert place.base_branch == "main"


def test_a_predecessor_in_another_repository_is_no_base(tmp_path: Path, origin: Path) -> None:
    error = refused(tmp_path, origin, worked(tmp_path, origin, repo="https://git.example/other"))
    assert error.code == "base_elsewhere"


def test_one_of_which_nothing_is_kept_any_more_is_no_base(tmp_path: Path, origin: Path) -> None:
    spec = TaskSpec(description="Go on", repo=str(origin), base=5, depends_on=(4, 5))
    with pytest.raises(WorkspaceError) as caught:
        start_of(spec, assign_of(spec))
    assert caught.value.code == "base_missing"


def test_without_a_base_a_task_starts_from_its_branch_else_from_that_of_its_repository(origin: Path) -> None:
    spec = TaskSpec(description="Go on", repo=str(origin))
    assert start_of(spec, assign_of(spec, base_branch="trunk")) == Start(branch="trunk")
    named = TaskSpec(description="Go on", repo=str(origin), branch="release")
    assert start_of(named, assign_of(named, base_branch="trunk")) == Start(branch="release")


def test_a_base_from_the_hub_that_is_an_option_to_git_is_refused(tmp_path: Path, origin: Path) -> None:
    assert refused(tmp_path, origin, worked(tmp_path, origin, branch="--upload-pack=x")).code == "branch_refused"
    assert refused(tmp_path, origin, Predecessor(task=5, repo=str(origin), commit="-x")).code == "base_missing"
