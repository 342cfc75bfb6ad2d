"""A spare that is damaged, altered or no spare at all costs the attempt nothing and stops no sidecar."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import structlog.testing

from agentcom.config import Home
from agentcom_sidecar import spares, trees
from agentcom_sidecar.workspace import Workspace
from tests.integration.spare_rig import (
    NEW,
    PLAIN,
    as_git_sees,
    committed,
    content,
    forty_files,
    keeper,
    made,
    name_of,
    prepared,
)
from tests.integration.test_workspace import git


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return forty_files(tmp_path / "checkout")


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
