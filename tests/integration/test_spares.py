"""A spare worktree is what a new one would have been, or it is nothing: real git, real processes, real kills."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import structlog.testing

from agentcom.config import Home, SandboxSettings, Settings, SidecarSettings
from agentcom.model import Role, TaskSpec
from agentcom_sidecar import cleanup, spare_keeper, spares, trees
from agentcom_sidecar import workspace as workspaces
from agentcom_sidecar.sandbox import CommandSpec, run_command
from agentcom_sidecar.spare_keeper import SpareKeeper
from agentcom_sidecar.workspace import Workspace
from tests.integration.test_workspace import git
from tests.isolating import need_isolation

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PLAIN = Settings(sandbox=SandboxSettings(mode="off"))
NEW = Settings(sandbox=SandboxSettings(mode="off"), sidecar=SidecarSettings(spare_worktrees=0))
WITHIN_S = 15.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with forty files."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for number in range(40):
        (folder / f"file-{number}.txt").write_text(f"{number}\n")
    committed(folder, "first")
    return folder


def committed(folder: Path, message: str) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


async def prepared(
    home: Home, repo: Path, task: int, settings: Settings = PLAIN, branch: str | None = None
) -> Workspace:
    spec = TaskSpec(description="Greet", repo=str(repo), branch=branch)
    return await workspaces.prepare(spec, task, 1, settings, home, submitter_role=Role.admin)


async def made(home: Home, place: Workspace) -> Path:
    """A spare of what that attempt began with; its folder."""
    assert place.mirror is not None
    await spares.make(place.mirror, place.base_commit, home, trees.git_for(home, PLAIN))
    found = spares.of(place.mirror, home)
    assert found is not None
    return found.folder


def name_of(place: Workspace) -> str:
    """By which the mirror knows the worktree: a spare keeps its own."""
    assert place.git_dir is not None
    return place.git_dir.name


def content(path: Path) -> dict[str, tuple[str, int, str]]:
    """All that lies there, but for `.git`: kind, mode, and what is in it."""
    found = {}
    for each in sorted(path.rglob("*")):
        mode = each.lstat().st_mode
        if stat.S_ISLNK(mode):
            kind, inside = "link", os.readlink(each)
        else:
            kind, inside = ("folder", "") if each.is_dir() else ("file", each.read_bytes().decode("latin-1"))
        found[str(each.relative_to(path))] = (kind, stat.S_IMODE(mode), inside)
    del found[".git"]
    return found


def as_git_sees(place: Workspace) -> tuple[str, ...]:
    asked = (("status", "--porcelain", "--ignored"), ("ls-files", "-s"), ("write-tree",), ("rev-parse", "HEAD"))
    return tuple(git(place.path, *each) for each in asked)


def test_an_attempt_takes_the_spare_and_nobody_gets_it_twice(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        folder = await made(home, first)
        second, third = await prepared(home, checkout, 2), await prepared(home, checkout, 3)
        assert [name_of(each) for each in (first, second, third)] == ["1-1", folder.name, "3-1"]
        assert (second.path, second.branch) == (home.sidecar / "work" / "2-1", "agentcom/2/1-greet")
        assert second.base_commit == first.base_commit
        assert git(second.path, "symbolic-ref", "HEAD") == f"refs/heads/{second.branch}"
        assert as_git_sees(second) == as_git_sees(third)
        assert content(second.path) == content(third.path)
        assert not folder.exists()
        assert git(second.path, "worktree", "list", "--porcelain").count("worktree ") == 4  # and the mirror itself

    asyncio.run(run())


def test_work_in_a_spare_is_committed_as_in_a_new_worktree(home: Home, checkout: Path) -> None:
    async def run() -> None:
        await made(home, await prepared(home, checkout, 1))
        place = await prepared(home, checkout, 2)
        (place.path / "file-1.txt").write_text("9\n")  # as long as before
        (place.path / "new.txt").write_text("new\n")
        (place.path / "file-2.txt").unlink()
        assert await place.files_changed() == ("file-1.txt", "file-2.txt", "new.txt")
        done = await place.commit("change it")
        assert done is not None
        assert done.files_changed == ("file-1.txt", "file-2.txt", "new.txt")
        assert place.mirror is not None
        assert git(place.mirror, "rev-parse", f"{place.branch}^") == place.base_commit
        assert git(place.mirror, "rev-parse", place.branch) == done.commit

    asyncio.run(run())


def older(folder: Path) -> None:
    """What the base had when the spare was made."""
    (folder / "tool.sh").write_text("echo\n")
    (folder / "removed").mkdir()
    (folder / "removed" / "last.txt").write_text("last\n")
    (folder / "becomes-folder").write_text("a file\n")
    (folder / "becomes-file").mkdir()
    (folder / "becomes-file" / "inner.txt").write_text("inner\n")
    (folder / "link").symlink_to("file-1.txt")
    (folder / "becomes-link").write_text("file-1.txt")
    (folder / "becomes-plain").symlink_to("file-2.txt")
    (folder / "folder-becomes-link").mkdir()
    (folder / "folder-becomes-link" / "inner.txt").write_text("inner\n")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "ignored-later.txt").write_text("x\n")
    committed(folder, "older")
    commit = git(folder, "rev-parse", "HEAD")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},module-goes")
    git(folder, "commit", "--quiet", "-m", "a submodule")


def newer(folder: Path) -> None:
    """What it has by now."""
    git(folder, "update-index", "--force-remove", "module-goes")
    (folder / "tool.sh").chmod(0o755)
    shutil.rmtree(folder / "removed")
    (folder / "becomes-folder").unlink()
    (folder / "becomes-folder").mkdir()
    (folder / "becomes-folder" / "deep.txt").write_text("deep\n")
    shutil.rmtree(folder / "becomes-file")
    (folder / "becomes-file").write_text("a file now\n")
    (folder / "link").unlink()
    (folder / "link").symlink_to("file-3.txt")
    (folder / "becomes-link").unlink()
    (folder / "becomes-link").symlink_to("nowhere")
    (folder / "becomes-plain").unlink()
    (folder / "becomes-plain").write_text("plain\n")
    shutil.rmtree(folder / "folder-becomes-link")
    (folder / "folder-becomes-link").symlink_to("becomes-folder")
    (folder / "file-4.txt").write_text("5\n")  # as long as before
    (folder / "a new one, with ä.txt").write_text("new\n")
    (folder / "ignored-later.txt").unlink()
    git(folder, "add", "--all")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{git(folder, 'rev-parse', 'HEAD')},module-comes")
    git(folder, "commit", "--quiet", "-m", "newer")


def test_from_an_older_spare_an_attempt_gets_exactly_the_tree_of_its_base(home: Home, checkout: Path) -> None:
    older(checkout)

    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        newer(checkout)
        spare, new = await prepared(home, checkout, 2), await prepared(home, checkout, 3, NEW)
        assert name_of(spare) == folder.name
        assert spare.base_commit == new.base_commit == git(checkout, "rev-parse", "HEAD")
        assert as_git_sees(spare) == as_git_sees(new)
        assert as_git_sees(spare)[0] == ""
        assert content(spare.path) == content(new.path)
        assert stat.S_IMODE(spare.path.stat().st_mode) == stat.S_IMODE(new.path.stat().st_mode)

    asyncio.run(run())


def test_a_file_that_somebody_changed_in_a_spare_is_as_the_base_has_it(home: Home, checkout: Path) -> None:
    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        changed, gone = (folder / folder.name / f"file-{number}.txt" for number in (1, 2))
        changed.write_text("9\n")
        os.utime(changed, (0, 0))
        gone.unlink()
        place = await prepared(home, checkout, 2)
        assert name_of(place) == folder.name
        assert (place.path / "file-1.txt").read_text() == "1\n"
        assert (place.path / "file-2.txt").read_text() == "2\n"

    asyncio.run(run())


def test_where_git_attributes_differ_the_spare_is_not_taken_and_the_second_time_forgotten(
    home: Home, checkout: Path
) -> None:
    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        (checkout / "deep").mkdir()
        (checkout / ".gitattributes").write_text("*.txt text eol=crlf\n")
        committed(checkout, "other ends of lines")
        place = await prepared(home, checkout, 2)
        assert (name_of(place), (place.path / "file-1.txt").read_bytes()) == ("2-1", b"1\r\n")
        assert spares.made(home) == [folder]
        assert name_of(await prepared(home, checkout, 3)) == "3-1"
        assert spares.made(home) == []
        await spares.clear(home, trees.git_for(home, PLAIN))
        assert not folder.exists()

    asyncio.run(run())


def test_where_most_files_differ_a_new_worktree_is_made(home: Home, checkout: Path) -> None:
    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        for number in range(24):
            (checkout / f"file-{number}.txt").write_text("all new\n")
        committed(checkout, "most of it")
        assert name_of(await prepared(home, checkout, 2)) == "2-1"
        git(checkout, "branch", "release", "HEAD^")
        assert name_of(await prepared(home, checkout, 3, branch="release")) == folder.name, "it waits for its base"

    asyncio.run(run())


def test_a_spare_gives_its_attempt_the_age_of_the_attempt(home: Home, checkout: Path) -> None:
    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        os.utime(folder / folder.name, (0, 0))
        place = await prepared(home, checkout, 2)
        assert name_of(place) == folder.name
        assert (await trees.look_at(place.path, home, PLAIN, False)).age_s < 1000

    asyncio.run(run())


def test_of_attempts_that_start_together_one_gets_the_spare_and_all_get_their_base(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        folder = await made(home, first)
        places = await asyncio.gather(*(prepared(home, checkout, task) for task in range(2, 6)))
        assert [name_of(each) for each in places].count(folder.name) == 1
        assert len({each.path for each in places}) == 4
        assert all(content(each.path) == content(first.path) for each in places)

    asyncio.run(run())


# --- what is wrong with one costs the attempt nothing ---------------------------------------------------


def no_tree(folder: Path, _place: Workspace) -> None:
    shutil.rmtree(folder / folder.name)


def no_pointer(folder: Path, _place: Workspace) -> None:
    (folder / folder.name / ".git").unlink()


def forgotten_by_git(folder: Path, place: Workspace) -> None:
    assert place.mirror is not None
    shutil.rmtree(place.mirror / "worktrees" / folder.name)


def no_index(folder: Path, place: Workspace) -> None:
    assert place.mirror is not None
    (place.mirror / "worktrees" / folder.name / "index").write_bytes(b"DIRC and nothing more")


def locked_by_git(folder: Path, place: Workspace) -> None:
    assert place.mirror is not None
    (place.mirror / "worktrees" / folder.name / "index.lock").touch()


def mirror_gone(_folder: Path, place: Workspace) -> None:
    assert place.mirror is not None
    shutil.rmtree(place.mirror)


def bad_record(folder: Path, _place: Workspace) -> None:
    (folder / spares.RECORD).write_bytes(b'{"mirror": ')


def of_another_start(folder: Path, _place: Workspace) -> None:
    record = msgspec.json.decode((folder / spares.RECORD).read_bytes())
    (folder / spares.RECORD).write_bytes(msgspec.json.encode({**record, "made_by": "0.1.0 another"}))


def of_a_lost_commit(folder: Path, _place: Workspace) -> None:
    record = msgspec.json.decode((folder / spares.RECORD).read_bytes())
    (folder / spares.RECORD).write_bytes(msgspec.json.encode({**record, "commit": "1" * 40}))


def of_tree(folder: Path) -> Path:
    return folder / folder.name


def untracked(folder: Path, _place: Workspace) -> None:
    (of_tree(folder) / "new.txt").write_text("new\n")


def ignored(folder: Path, _place: Workspace) -> None:
    (of_tree(folder) / "build").mkdir()
    (of_tree(folder) / "build" / "out.log").write_text("out\n")


def empty(folder: Path, _place: Workspace) -> None:
    (of_tree(folder) / "deep" / "empty").mkdir()


def repository_within(folder: Path, _place: Workspace) -> None:
    git(of_tree(folder), "init", "--quiet", "deep/nested")


def open_to_all(folder: Path, _place: Workspace) -> None:
    (of_tree(folder) / "deep").chmod(0o777)


def closed(folder: Path, _place: Workspace) -> None:
    (of_tree(folder) / "deep" / "deeper").chmod(0o500)


def moved_behind_a_link(folder: Path, place: Workspace) -> None:
    away = place.path.parent.parent / "away"
    (of_tree(folder) / "deep").rename(away)
    (of_tree(folder) / "deep").symlink_to(away)


def itself_a_link(folder: Path, place: Workspace) -> None:
    away = place.path.parent.parent / "away"
    of_tree(folder).rename(away)
    of_tree(folder).symlink_to(away)


def folder_a_link(folder: Path, place: Workspace) -> None:
    away = place.path.parent.parent / "away"
    folder.rename(away)
    folder.symlink_to(away)


def flagged(flag: str, folder: Path) -> None:
    (of_tree(folder) / "file-1.txt").write_text("hidden\n")
    git(of_tree(folder), "update-index", flag, "file-1.txt")


def skipped(folder: Path, _place: Workspace) -> None:
    flagged("--skip-worktree", folder)


def assumed(folder: Path, _place: Workspace) -> None:
    flagged("--assume-unchanged", folder)


def of_the_attempt(folder: Path, place: Workspace) -> None:
    (of_tree(folder) / ".git").write_bytes((place.path / ".git").read_bytes())


def pipe_to_git(folder: Path, _place: Workspace) -> None:
    (of_tree(folder) / ".git").unlink()
    os.mkfifo(of_tree(folder) / ".git")


MORE_THAN_ITS_BASE = (
    untracked,
    ignored,
    empty,
    repository_within,
    open_to_all,
    closed,
    moved_behind_a_link,
    itself_a_link,
    folder_a_link,
    skipped,
    assumed,
    of_the_attempt,
    pipe_to_git,
)


@pytest.mark.parametrize("damage", MORE_THAN_ITS_BASE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("base", ["the same", "a newer one"])
def test_a_spare_that_is_not_exactly_its_commit_is_not_taken(
    home: Home, checkout: Path, base: str, damage: Callable[[Path, Workspace], None]
) -> None:
    (checkout / ".gitignore").write_text("*.log\n")
    (checkout / "deep" / "deeper").mkdir(parents=True)
    for each in ("deep", "deep/deeper"):
        (checkout / each / "one.txt").write_text("one\n")
    committed(checkout, "folders")

    async def run() -> None:
        first = await prepared(home, checkout, 1)
        folder = await made(home, first)
        damage(folder, first)
        if base == "a newer one":
            (checkout / "file-3.txt").write_text("changed\n")
            committed(checkout, "changed")
        with structlog.testing.capture_logs() as said:
            place = await prepared(home, checkout, 2)
        new = await prepared(home, checkout, 3, NEW)
        assert (name_of(place), place.branch) == ("2-1", "agentcom/2/1-greet")
        assert content(place.path) == content(new.path)
        assert as_git_sees(place) == as_git_sees(new)
        told = [each["name"] for each in said if each["event"] == "spare_not_taken"]
        assert told == ([] if damage is folder_a_link else [folder.name])
        assert git(first.path, "symbolic-ref", "HEAD") == f"refs/heads/{first.branch}"
        await keeper(home).look()
        assert list(folder.parent.iterdir()) == []

    asyncio.run(run())


DAMAGES = (
    no_tree,
    no_pointer,
    forgotten_by_git,
    no_index,
    locked_by_git,
    mirror_gone,
    bad_record,
    of_another_start,
    of_a_lost_commit,
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_spare_that_is_broken_costs_the_attempt_nothing_and_goes(
    home: Home, checkout: Path, damage: Callable[[Path, Workspace], None]
) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        before, folder = content(first.path), await made(home, first)
        damage(folder, first)
        place = await prepared(home, checkout, 2)
        assert name_of(place) == "2-1"
        assert place.branch.startswith("agentcom/2/1-greet")
        assert content(place.path) == before
        assert as_git_sees(place)[0] == ""
        assert {each.name for each in (home.sidecar / "work").iterdir()} == {"1-1", "2-1"}
        spares.begin(home, 4)
        await spares.clear(home, trees.git_for(home, PLAIN))
        assert list((home.sidecar / "spares").iterdir()) == []
        assert folder.name not in git(place.path, "worktree", "list")

    asyncio.run(run())


@pytest.mark.parametrize("commit", ["--output={}", "", "HEAD", "1" * 39, "1" * 40 + "\n", "A" * 40])
def test_a_record_whose_commit_is_none_is_not_given_to_git(
    home: Home, checkout: Path, tmp_path: Path, commit: str
) -> None:
    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        record = msgspec.json.decode((folder / spares.RECORD).read_bytes())
        written = {**record, "commit": commit.format(tmp_path / "written")}
        (folder / spares.RECORD).write_bytes(msgspec.json.encode(written))
        with structlog.testing.capture_logs() as said:
            assert name_of(await prepared(home, checkout, 2)) == "2-1"
            assert said == [], "nobody has asked git"
            await keeper(home).look()
        assert [each["reason"] for each in said] == ["its record cannot be read"]
        assert not (tmp_path / "written").exists()
        assert not folder.exists()

    asyncio.run(run())


def test_a_branch_name_of_an_earlier_life_of_the_hub_is_not_moved(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        await made(home, first)
        assert first.mirror is not None
        git(first.mirror, "update-ref", "refs/heads/agentcom/2/1-greet", first.base_commit)
        place = await prepared(home, checkout, 2)
        assert place.branch == "agentcom/2/1-greet-2"
        assert git(place.path, "symbolic-ref", "HEAD") == f"refs/heads/{place.branch}"

    asyncio.run(run())


def test_a_branch_that_is_there_already_outlives_a_taking_that_fails(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        folder = await made(home, first)
        untracked(folder, first)
        assert first.mirror is not None
        git(first.mirror, "update-ref", "refs/heads/agentcom/2/1-greet", first.base_commit)
        place = await prepared(home, checkout, 2)
        assert (name_of(place), place.branch) == ("2-1", "agentcom/2/1-greet-2")
        assert git(first.mirror, "rev-parse", "refs/heads/agentcom/2/1-greet") == first.base_commit

    asyncio.run(run())


def test_a_spare_that_git_does_not_find_leaves_its_branch_free(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        folder = await made(home, first)
        assert first.mirror is not None
        (first.mirror / "worktrees" / folder.name / "gitdir").unlink()
        place = await prepared(home, checkout, 2)
        assert (name_of(place), place.branch) == ("2-1", "agentcom/2/1-greet")

    asyncio.run(run())


def test_a_spare_that_cannot_be_moved_leaves_the_way_free(
    home: Home, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it lies on another disk."""
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if target.parent.name == "work":
            raise OSError(18, "Invalid cross-device link")
        return rename(self, target)

    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        monkeypatch.setattr(Path, "rename", refusing)
        place = await prepared(home, checkout, 2)
        assert (name_of(place), place.branch) == ("2-1", "agentcom/2/1-greet")
        assert as_git_sees(place)[0] == ""
        assert git(place.path, "for-each-ref", "--format=%(refname)", "refs/heads/agentcom/2/").split() == [
            "refs/heads/agentcom/2/1-greet"
        ]
        await spares.clear(home, trees.git_for(home, PLAIN))
        assert folder.name not in git(place.path, "worktree", "list")

    asyncio.run(run())


# --- whatever lies in the folder ------------------------------------------------------------------------


def file(path: Path, _outside: Path) -> None:
    path.write_text("x")


def link_to_a_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def link_to_nothing(path: Path, _outside: Path) -> None:
    path.symlink_to("nowhere")


def pipe(path: Path, _outside: Path) -> None:
    os.mkfifo(path)


def empty_folder(path: Path, _outside: Path) -> None:
    path.mkdir()


def folder_for_a_record(path: Path, _outside: Path) -> None:
    (path / spares.RECORD / "deep").mkdir(parents=True)


def pipe_for_a_record(path: Path, _outside: Path) -> None:
    path.mkdir()
    os.mkfifo(path / spares.RECORD)


def folder_for_a_claim(path: Path, _outside: Path) -> None:
    (path / spares.TAKEN / "deep").mkdir(parents=True)


def link_for_a_record(path: Path, outside: Path) -> None:
    path.mkdir()
    (path / spares.RECORD).symlink_to(outside / spares.RECORD)


def endless_record(path: Path, _outside: Path) -> None:
    path.mkdir()
    with (path / spares.RECORD).open("wb") as record:
        record.truncate(1 << 40)


def pipe_for_git(path: Path, outside: Path) -> None:
    (path / path.name).mkdir(parents=True)
    os.mkfifo(path / path.name / ".git")
    shutil.copy(outside / spares.RECORD, path)


STRAYS = (
    file,
    link_to_a_folder,
    link_to_nothing,
    pipe,
    empty_folder,
    folder_for_a_record,
    pipe_for_a_record,
    folder_for_a_claim,
    link_for_a_record,
    endless_record,
    pipe_for_git,
)


@pytest.mark.parametrize("name", ["stray", "like a spare", "*[**"])
@pytest.mark.parametrize("stray", STRAYS, ids=lambda stray: stray.__name__)
def test_what_is_no_spare_stops_neither_the_sidecar_nor_its_keeper_and_goes(
    home: Home, checkout: Path, tmp_path: Path, stray: Callable[[Path, Path], None], name: str
) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        folder = await made(home, first)
        outside = tmp_path / "outside"
        shutil.copytree(folder, outside)
        (outside / spares.TAKEN).touch()
        before = content_of(outside)
        place = folder.parent / (folder.name[:-8] + "00000000" if name == "like a spare" else name)
        for at_a_start in (True, False):
            stray(place, outside)
            assert folder in spares.made(home)
            if at_a_start:
                spares.begin(home, 4)
            await keeper(home).look()
            assert list(folder.parent.iterdir()) == [folder]
        assert content_of(outside) == before
        assert name_of(await prepared(home, checkout, 2)) == folder.name

    asyncio.run(run())


def content_of(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(each), each.lstat().st_mtime_ns) for each in (folder, *folder.rglob("*")))


def test_what_cannot_be_removed_is_told_once(
    home: Home, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        (folder.parent / "stray").touch()
        (folder.parent / "other").mkdir()
        refuse = PermissionError(1, "Operation not permitted")

        def refusing(path: Path, *_arguments: object, **_words: object) -> None:
            raise refuse

        spares.begin(home, 4)
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as said:
            patch.setattr(Path, "unlink", refusing)
            patch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: ignore_errors or refusing(path))
            for _ in range(3):
                await keeper(home).look()
        told = sorted((each["name"], each["reason"]) for each in said if each["event"] == "spare_not_removed")
        assert told == [(name, f"PermissionError: {refuse}") for name in ("other", "stray")]
        assert [each["name"] for each in said if each["event"] == "spare_not_taken"] == ["stray"]
        assert spares.made(home) == [folder]
        await keeper(home).look()
        assert list(folder.parent.iterdir()) == [folder]

    asyncio.run(run())


def test_a_folder_that_its_user_may_not_write_goes_too(home: Home) -> None:
    need_plain_user()
    deep = home.sidecar / "spares" / "stray" / "deep"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    for each in (deep, deep.parent):
        each.chmod(0)
    spares.begin(home, 4)
    asyncio.run(spares.clear(home, trees.git_for(home, PLAIN)))
    assert list((home.sidecar / "spares").iterdir()) == []


def need_plain_user() -> None:
    if os.geteuid() == 0:
        pytest.skip("to root every folder is open")


WRONG = {
    "half made": "it was not made to the end, or given up",
    "handed over": "it was being handed over or removed",
    "another start": "it is from before a restart of the machine, or of another version",
    "no record": "its record cannot be read",
    "no mirror": "its mirror has gone",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_log_says_why_a_spare_is_not_taken(home: Home, checkout: Path, wrong: str) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        folder = await made(home, first)
        if wrong == "half made":
            (folder / spares.RECORD).unlink()
        if wrong == "handed over":
            (folder / spares.RECORD).rename(folder / spares.TAKEN)
        if wrong == "another start":
            of_another_start(folder, first)
        if wrong == "no record":
            bad_record(folder, first)
        if wrong == "no mirror":
            mirror_gone(folder, first)
        with structlog.testing.capture_logs() as said:
            spares.begin(home, 4)
            await keeper(home).look()
        told = [(each["event"], each["name"], each["reason"]) for each in said]
        assert told == [("spare_not_taken", folder.name, WRONG[wrong])]
        assert not folder.exists()

    asyncio.run(run())


# --- killed ---------------------------------------------------------------------------------------------

DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from agentcom.config import Home, SandboxSettings, Settings
from agentcom.model import Role, TaskSpec
from agentcom_sidecar import spares, trees, workspace

def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)

async def main(home, repo, step):
    settings = Settings(sandbox=SandboxSettings(mode="off"))
    git = trees.git_for(home, settings)
    spec = TaskSpec(description="Greet", repo=repo)
    if step == "take":
        spares._move = die
        await workspace.prepare(spec, 2, 1, settings, home, submitter_role=Role.admin)
    if step == "record":
        spares.write_private = die
    [mirror] = (home.sidecar / "mirrors").glob("*.git")
    commit = Path(sys.argv[4]).read_text()
    await spares.make(mirror, commit, home, git)

asyncio.run(main(Home(Path(sys.argv[1])), sys.argv[2], sys.argv[3]))
"""


def dying(home: Home, checkout: Path, step: str, commit: str) -> subprocess.Popen[bytes]:
    (home.path / "commit").write_text(commit)
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "sidecar"))
    return subprocess.Popen(
        [sys.executable, "-c", DIES, str(home.path), str(checkout), step, str(home.path / "commit")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": paths, "HOME": str(home.path)},
    )


def until(holds: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < give_up_at, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.005)


def goes(home: Home) -> Callable[[], bool]:
    """Whether a start of the sidecar has left nothing in the folder of spares; git may still be dying in there."""

    def none() -> bool:
        spares.begin(home, 4)
        asyncio.run(spares.clear(home, trees.git_for(home, PLAIN)))
        return list((home.sidecar / "spares").iterdir()) == []

    return none


@pytest.mark.parametrize("step", ["checkout", "record"])
def test_a_kill_while_a_spare_is_made_leaves_nothing_that_an_attempt_could_get(
    home: Home, checkout: Path, step: str
) -> None:
    for number in range(3000):
        (checkout / f"more-{number}.txt").write_text(f"{number}\n" * 50)
    committed(checkout, "more")
    first = asyncio.run(prepared(home, checkout, 1))
    process = dying(home, checkout, step, first.base_commit)
    if step == "checkout":
        folder = home.sidecar / "spares"
        until(lambda: any(folder.glob("*/*/file-*")), "it writes files")
        process.kill()
    assert process.wait(WITHIN_S) == -signal.SIGKILL
    assert spares.made(home) == []
    second = asyncio.run(prepared(home, checkout, 2))
    assert name_of(second) == "2-1"
    assert content(second.path) == content(first.path)
    until(goes(home), "what it had begun is gone")
    assert git(second.path, "worktree", "list", "--porcelain").count("worktree ") == 3


def test_a_kill_while_a_spare_is_handed_over_leaves_nothing_in_the_attempts_place(home: Home, checkout: Path) -> None:
    first = asyncio.run(prepared(home, checkout, 1))
    asyncio.run(made(home, first))
    assert dying(home, checkout, "take", first.base_commit).wait(WITHIN_S) == -signal.SIGKILL
    assert {each.name for each in (home.sidecar / "work").iterdir()} == {"1-1"}
    third = asyncio.run(prepared(home, checkout, 3))
    assert name_of(third) == "3-1"
    until(goes(home), "what was handed over is gone")
    assert git(third.path, "worktree", "list", "--porcelain").count("worktree ") == 3


def test_a_spare_outlives_the_sidecar_that_made_it(home: Home, checkout: Path) -> None:
    folder = asyncio.run(made(home, asyncio.run(prepared(home, checkout, 1))))
    spares.begin(home, 4)
    asyncio.run(spares.clear(home, trees.git_for(home, PLAIN)))
    assert name_of(asyncio.run(prepared(home, checkout, 2))) == folder.name


def test_switched_off_none_is_taken_and_those_there_are_go(home: Home, checkout: Path) -> None:
    asyncio.run(made(home, asyncio.run(prepared(home, checkout, 1))))
    assert name_of(asyncio.run(prepared(home, checkout, 2, NEW))) == "2-1"
    spares.begin(home, 0)
    asyncio.run(spares.clear(home, trees.git_for(home, NEW)))
    assert list((home.sidecar / "spares").iterdir()) == []


# --- on the disk ----------------------------------------------------------------------------------------


def test_spares_count_as_disk_use_and_are_no_attempts_worktrees(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        before = trees.size_bytes(home)
        folder = await made(home, first)
        assert trees.size_bytes(home) >= before + trees.size_of(folder) > before
        assert [each.name for each in await trees.look(home, PLAIN, lambda _name: False)] == ["1-1"]

    asyncio.run(run())


def test_removing_a_worktree_makes_git_forget_no_spare(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, 1)
        folder = await made(home, first)
        await trees.remove(first.path, home, PLAIN)
        await trees.pack(home, PLAIN)
        assert name_of(await prepared(home, checkout, 2)) == folder.name

    asyncio.run(run())


def test_clean_up_takes_spares_by_their_age_and_says_so(home: Home, checkout: Path) -> None:
    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))
        os.utime(folder / spares.RECORD, (time.time() - 100,) * 2)
        for older_than_s, dry_run, gone in ((1000, False, 0), (50, True, 1)):
            done = await cleanup.clean(home, PLAIN, lambda _: True, older_than_s=older_than_s, dry_run=dry_run)
            assert (done.spares, folder.exists()) == (gone, True)
        done = await cleanup.clean(home, PLAIN, lambda _: True, older_than_s=50)
        assert (done.spares, done.removed, folder.exists()) == (1, [], False)

    asyncio.run(run())


def test_over_the_quota_spares_go_first(home: Home, checkout: Path) -> None:
    (checkout / "large.bin").write_bytes(os.urandom(2 << 20))
    committed(checkout, "large")
    tight = Settings(sandbox=PLAIN.sandbox, sidecar=SidecarSettings(quota_mib=7))

    async def run() -> None:
        folder = await made(home, await prepared(home, checkout, 1))  # mirror, worktree, spare: 2 MiB each
        await prepared(home, checkout, 2, NEW)
        swept = await cleanup.sweep(home, tight, lambda _: False)
        assert (swept, folder.exists()) == (cleanup.Swept(0, ""), False)

    asyncio.run(run())


def test_an_isolated_command_sees_no_spare(home: Home, checkout: Path) -> None:
    need_isolation()
    isolated = Settings(sandbox=SandboxSettings(mode="require"))

    async def run() -> None:
        place = await prepared(home, checkout, 1, isolated)
        folder = await made(home, place)
        spec = CommandSpec(
            argv=("sh", "-c", f"ls {folder} {folder.parent}; echo x > {folder}/x; ls {place.mirror}/worktrees"),
            cwd=place.path,
            home=home.sidecar / "scratch" / "test",
            timeout_s=WITHIN_S,
            mode="require",
            view=place.view,
        )
        ran = await run_command(spec)
        assert folder.name not in ran.output.decode().replace(str(folder), "")
        assert sorted(each.name for each in folder.iterdir()) == sorted([folder.name, spares.RECORD])
        assert name_of(await prepared(home, checkout, 2, isolated)) == folder.name

    asyncio.run(run())


# --- when one is made -----------------------------------------------------------------------------------


def keeper(home: Home, settings: Settings = PLAIN, *, is_starting: bool = False) -> SpareKeeper:
    return SpareKeeper(home, settings, lambda: is_starting)


def looked(
    home: Home, body: Callable[[], Awaitable[list[Workspace]]], settings: Settings = PLAIN, *, is_starting: bool = False
) -> list[Path]:
    """The spares that there are when these attempts have their places."""

    async def run() -> list[Path]:
        one = keeper(home, settings, is_starting=is_starting)
        for place in await body():
            one.handed_out(place)
            await one.look()
        return spares.made(home)

    return asyncio.run(run())


def test_after_an_attempt_has_its_place_one_spare_of_its_base_is_made(
    home: Home, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare_keeper, "FILES_MIN", 20)

    async def two() -> list[Workspace]:
        return [await prepared(home, checkout, 1), await prepared(home, checkout, 2)]

    [folder] = looked(home, two)
    place = asyncio.run(prepared(home, checkout, 3))
    assert name_of(place) == folder.name


def test_a_small_repository_has_no_spare(home: Home, checkout: Path) -> None:
    async def one() -> list[Workspace]:
        return [await prepared(home, checkout, 1)]

    assert looked(home, one) == []


def test_none_is_begun_while_an_attempt_waits_for_its_place(
    home: Home, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare_keeper, "FILES_MIN", 20)

    async def one() -> list[Workspace]:
        return [await prepared(home, checkout, 1)]

    assert looked(home, one, is_starting=True) == []


def test_beyond_the_setting_the_oldest_spare_goes(
    home: Home, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare_keeper, "FILES_MIN", 20)
    settings = Settings(sandbox=PLAIN.sandbox, sidecar=SidecarSettings(spare_worktrees=2))
    others = [tmp_path / name for name in ("second", "third")]
    for other in others:
        git(tmp_path, "clone", "--quiet", str(checkout), str(other))

    async def three() -> list[Workspace]:
        return [await prepared(home, repo, task) for task, repo in enumerate((checkout, *others), 1)]

    left = looked(home, three, settings)
    mirrors = [each.name[: spares.MIRROR_CHARS] for each in left]
    wanted = [asyncio.run(prepared(home, repo, 10, NEW)).mirror for repo in others]
    assert mirrors == [each.name[: spares.MIRROR_CHARS] for each in wanted if each is not None]


def test_where_the_disk_or_the_quota_has_no_room_none_is_made_and_the_disk_takes_those_there_are(
    home: Home, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare_keeper, "FILES_MIN", 20)

    async def one() -> list[Workspace]:
        return [await prepared(home, checkout, 1)]

    (checkout / "large.bin").write_bytes(os.urandom(2 << 20))
    committed(checkout, "large")
    tight = Settings(sandbox=PLAIN.sandbox, sidecar=SidecarSettings(quota_mib=5))
    assert looked(home, one, tight) == []
    monkeypatch.setattr(spare_keeper, "ROOM_BYTES_MIN", 1 << 60)
    assert looked(home, one) == []
    asyncio.run(made(home, asyncio.run(prepared(home, checkout, 3, NEW))))
    asyncio.run(keeper(home).look())
    assert list((home.sidecar / "spares").iterdir()) == []
