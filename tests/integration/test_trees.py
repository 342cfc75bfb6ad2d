"""What stays on a host's disk and what goes: real git, real commits, nothing lost that is nowhere else."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import msgspec
import pytest

from agentcom import limits
from agentcom.cli import main
from agentcom.cli.git import _tell_cleaned
from agentcom.config import Home, Settings, SidecarSettings
from agentcom.model import Role, TaskSpec
from agentcom_sidecar import cleanup, push, tree_report, trees
from agentcom_sidecar import workspace as workspaces
from agentcom_sidecar.tree_report import TreeReport
from agentcom_sidecar.trees import Tree
from agentcom_sidecar.workspace import Workspace
from tests.integration.test_workspace import git
from tests.works import repository

SETTINGS = Settings(sidecar=SidecarSettings(keep_worktrees_s=0))


def nobody(_name: str) -> bool:
    return False


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    bare = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(repository(tmp_path / "theirs")), str(bare))
    return bare


async def prepared(home: Home, origin: Path | None, task: int) -> Workspace:
    spec = TaskSpec(description="Greet", repo=str(origin) if origin else None)
    place = await workspaces.prepare(spec, task, 1, SETTINGS, home, submitter_role=Role.admin)
    if origin is not None:
        trees.save(home, place.path.name, trees.record_of(place))
    return place


async def committed(home: Home, origin: Path, task: int) -> Workspace:
    place = await prepared(home, origin, task)
    (place.path / "new.txt").write_text(f"one\ntwo {task}\n")
    await place.commit("work")
    return place


async def pushed(home: Home, origin: Path, task: int) -> Workspace:
    place = await committed(home, origin, task)
    assert place.mirror is not None
    assert place.remote is not None
    assert place.outside is not None
    commit = git(place.mirror, "rev-parse", place.branch)
    name = await push.push(place.mirror, place.remote, place.branch, commit, place.outside, 30)
    trees.pushed(home, place.path.name, name, commit)
    return place


def seen(home: Home) -> dict[str, Tree]:
    return {each.name: each for each in asyncio.run(trees.look(home, SETTINGS, nobody))}


def test_status_tells_branch_commits_diff_and_what_is_nowhere_else(home: Home, origin: Path) -> None:
    async def work() -> None:
        place = await committed(home, origin, 1)
        (place.path / "loose.txt").write_text("x\n")
        git(place.path, "-C", str(origin), "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "ahead of it")

    asyncio.run(work())
    one = seen(home)["1-1"]
    assert (one.task, one.attempt, one.repo, one.branch) == (1, 1, str(origin), "agentcom/1/1-greet")
    assert (one.base_branch, one.ahead, one.behind) == ("main", 1, 0)
    assert (one.files_changed, one.insertions, one.deletions) == (1, 2, 0)
    assert (one.uncommitted, one.unpushed, one.merged, one.removable) == (1, 1, False, False)
    assert one.why == "1 uncommitted files"


def test_a_base_that_has_moved_on_counts_as_commits_behind(home: Home, origin: Path) -> None:
    async def work() -> None:
        await committed(home, origin, 1)
        tip = git(origin, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "later")
        git(origin, "update-ref", "refs/heads/main", tip)
        await prepared(home, origin, 2)  # fetches

    asyncio.run(work())
    assert (seen(home)["1-1"].ahead, seen(home)["1-1"].behind) == (1, 1)


def test_r7_what_is_uncommitted_or_neither_pushed_nor_merged_is_never_removed(home: Home, origin: Path) -> None:
    async def work() -> cleanup.Cleaned:
        await pushed(home, origin, 1)
        await committed(home, origin, 2)
        loose = await prepared(home, origin, 3)
        (loose.path / "loose.txt").write_text("x\n")
        merged = await committed(home, origin, 4)
        assert merged.mirror is not None
        git(merged.mirror, "push", "--quiet", str(origin), f"{merged.branch}:main")
        await prepared(home, origin, 5)  # fetches, and changes nothing
        await prepared(home, None, 6)
        return await cleanup.clean(home, SETTINGS, nobody, older_than_s=0)

    done = asyncio.run(work())
    assert {each.name: each.why for each in done.removed} == {
        "1-1": "pushed as agentcom/1/1-greet",
        "4-1": "merged",
        "5-1": "no commits of its own",
        "6-1": "no repository",
    }
    assert {each.name for each in done.kept} == {"2-1", "3-1"}
    assert {each.name for each in (home.sidecar / "work").iterdir()} == {"2-1", "3-1"}
    assert {each.stem for each in (home.sidecar / "trees").iterdir()} == {"2-1", "3-1"}
    [mirror] = (home.sidecar / "mirrors").glob("*.git")
    assert "agentcom/1/1-greet" in git(mirror, "branch", "--list", "agentcom/*")
    assert str(home.sidecar / "work" / "1-1") not in git(mirror, "worktree", "list")


def test_a_squashed_branch_counts_as_merged(home: Home, origin: Path) -> None:
    async def work() -> None:
        place = await committed(home, origin, 1)
        assert place.mirror is not None
        tree = git(place.mirror, "rev-parse", f"{place.branch}^{{tree}}")
        git(place.mirror, "push", "--quiet", str(origin), f"{place.branch}:refs/tmp/objects")
        squashed = git(origin, "commit-tree", tree, "-p", "HEAD", "-m", "squashed by a person")
        git(origin, "update-ref", "refs/heads/main", squashed)
        await prepared(home, origin, 2)

    asyncio.run(work())
    one = seen(home)["1-1"]
    assert (one.merged, one.removable, one.unpushed) == (True, True, 1)


def test_commits_that_an_attempt_made_off_its_branch_are_seen(home: Home, origin: Path) -> None:
    async def work() -> None:
        place = await pushed(home, origin, 1)
        git(place.path, "checkout", "--quiet", "--detach")
        (place.path / "more.txt").write_text("x\n")
        git(place.path, "add", "--all")
        git(place.path, "commit", "--quiet", "-m", "off the branch")

    asyncio.run(work())
    assert (seen(home)["1-1"].unpushed, seen(home)["1-1"].removable) == (1, False)


def test_without_a_record_of_its_own_a_worktree_is_looked_at_against_every_base(
    home: Home, origin: Path
) -> None:
    async def work() -> None:
        await committed(home, origin, 1)
        await prepared(home, origin, 2)

    asyncio.run(work())
    for each in (home.sidecar / "trees").iterdir():
        each.unlink()
    found = seen(home)
    assert (found["1-1"].unpushed, found["1-1"].removable, found["1-1"].branch) == (1, False, "agentcom/1/1-greet")
    assert found["2-1"].removable


def test_a_worktree_that_git_cannot_read_is_kept(home: Home, origin: Path) -> None:
    place = asyncio.run(prepared(home, origin, 1))
    (place.path / ".git").write_text("gitdir: /nowhere\n")
    one = seen(home)["1-1"]
    assert (one.removable, "by hand" in one.why) == (False, True)


def test_only_what_is_old_enough_goes_and_never_where_an_attempt_works(home: Home, origin: Path) -> None:
    async def work() -> tuple[cleanup.Swept, cleanup.Cleaned]:
        for task in (1, 2, 12):
            os.utime((await prepared(home, origin, task)).path, (0, 0))
        await prepared(home, origin, 3)
        week = Settings(sidecar=SidecarSettings(keep_worktrees_s=7 * 86400))
        swept = await cleanup.sweep(home, week, cleanup.in_use({(1, 1)}))
        return swept, await cleanup.clean(
            home, week, cleanup.in_use({(1, 1)}), older_than_s=0, unpushed=True, dry_run=True
        )

    swept, again = asyncio.run(work())
    assert swept == cleanup.Swept(2, "")
    assert {each.name: each.why for each in again.kept} == {"1-1": "an attempt works in it"}
    assert [each.name for each in again.removed] == ["3-1"]
    assert {each.name for each in (home.sidecar / "work").iterdir()} == {"1-1", "3-1"}


def test_over_the_quota_the_oldest_that_may_go_goes_and_then_the_host_is_full(home: Home, origin: Path) -> None:
    tight = Settings(sidecar=SidecarSettings(quota_mib=3))

    async def big(task: int, age: int, place: Workspace) -> None:
        (place.path / "big.log").write_bytes(os.urandom(2 << 20))
        os.utime(place.path, (1_000_000 - age, 1_000_000 - age))

    async def work() -> tuple[cleanup.Swept, cleanup.Swept]:
        (origin / "info").mkdir(exist_ok=True)
        for task, age in ((1, 30), (2, 20), (3, 10)):
            place = await prepared(home, origin, task)
            assert place.mirror is not None
            (place.mirror / "info").mkdir(exist_ok=True)
            (place.mirror / "info" / "exclude").write_text("*.log\n")
            await big(task, age, place)
        first = await cleanup.sweep(home, tight, cleanup.in_use({(3, 1)}))
        loose = await prepared(home, origin, 4)
        (loose.path / "loose.txt").write_bytes(os.urandom(4 << 20))
        return first, await cleanup.sweep(home, tight, cleanup.in_use({(3, 1)}))

    first, second = asyncio.run(work())
    assert first == cleanup.Swept(2, "")
    assert second.removed == 0
    assert "of sidecar.quota_mib 3" in second.full
    assert "4-1: 1 uncommitted files" in second.full


def test_git_status_and_gc_say_it_on_the_command_line(
    home: Home, origin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTCOM_HOME", str(home.path))

    async def work() -> None:
        await pushed(home, origin, 1)
        await committed(home, origin, 2)
        moment = time.time() - 60
        for each in (home.sidecar / "work").iterdir():
            os.utime(each, (moment, moment))

    asyncio.run(work())
    assert main(["git", "status", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)["worktrees"]}
    assert (found["1-1"]["unpushed"], found["2-1"]["unpushed"]) == (0, 1)
    assert main(["git", "status"]) == 0
    shown = capsys.readouterr().out
    assert "neither pushed nor merged" in shown
    assert "in 6 d: pushed as" in shown, "keep_worktrees_s is a week, and some of it is over"
    assert main(["git", "gc"]) == 0
    assert "in 6 d: pushed as" in (said := capsys.readouterr().out), "gc says what status says"
    assert "0 went, 2 stay" in said
    assert main(["git", "status", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["worktrees"]
    assert [each["goes_in_s"] is None for each in rows] == [False, True]
    assert main(["git", "gc", "--unpushed", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "in 6 d: 1 commits that are neither pushed nor merged" in said, "asked for, and too young"
    assert "0 would go, 2 stay" in said
    assert "2 of them only because they are younger than 7 d: --older-than S takes a shorter time" in said
    assert main(["git", "gc", "--older-than", "0", "--dry-run", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["removed"]] == ["1-1"]
    assert main(["git", "gc", "--older-than", "0"]) == 0
    assert "1 went, 1 stay" in capsys.readouterr().out
    assert main(["git", "gc", "--older-than", "0", "--unpushed", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["removed"]] == ["2-1"]
    assert list((home.sidecar / "work").iterdir()) == []


def test_a_keep_time_that_the_hub_could_not_be_told_is_refused() -> None:
    msgspec.convert({"keep_worktrees_s": 100 * 366 * 86400}, SidecarSettings)
    with pytest.raises(msgspec.ValidationError, match="keep_worktrees_s"):
        msgspec.convert({"keep_worktrees_s": 2**63 - 1}, SidecarSettings)


# --- what the hub is told -----------------------------------------------------------------------------------


def test_the_hub_is_told_what_each_worktree_holds_and_git_is_asked_only_about_what_may_have_changed(
    home: Home, origin: Path
) -> None:
    """Counted in questions to git, not in time."""

    async def run() -> None:
        busy: set[str] = set()
        report = TreeReport(home, SETTINGS, lambda: busy.__contains__, lambda _make: True)
        first = await committed(home, origin, 1)
        await prepared(home, None, 2)
        told, left_out = await report.look()
        assert (sorted(one.name for one in told), left_out, report.asked) == (["1-1", "2-1"], 0, 2)
        one = next(tree for tree in told if tree.name == "1-1")
        assert (one.task, one.branch, one.ahead, one.behind) == (1, first.branch, 1, 0)
        assert (one.files_changed, one.insertions, one.uncommitted, one.unpushed) == (1, 2, 0, 1)
        assert (one.removable, "neither pushed nor merged" in one.why) == (False, True)
        await report.look()
        assert report.asked == 2, "nothing has changed"
        busy.add("1-1")
        (first.path / "new.txt").write_text("three\n")
        told, _ = await report.look()
        assert (report.asked, told[0].name, told[0].in_use, told[0].uncommitted) == (3, "1-1", True, 1)
        busy.clear()
        await first.commit("more")
        told, _ = await report.look()
        one = next(tree for tree in told if tree.name == "1-1")
        assert (one.in_use, one.ahead, one.uncommitted) == (False, 2, 0)
        await trees.remove(first.path, home, SETTINGS)
        told, _ = await report.look()
        assert [tree.name for tree in told] == ["2-1"]

    asyncio.run(run())


def test_a_host_with_many_worktrees_tells_of_some_at_a_time_and_how_many_more_there_are(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_report, "ASKED_MAX", 2)
    monkeypatch.setattr(limits, "WORKTREES_TOLD_MAX", 3)

    async def run() -> None:
        report = TreeReport(home, SETTINGS, lambda: nobody, lambda _make: True)
        for task in range(5):
            await prepared(home, None, task)
        counts = [(len(told), left_out) for told, left_out in [await report.look() for _ in range(3)]]
        assert counts == [(2, 3), (3, 2), (3, 2)]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("spares", "age_s", "said"),
    [
        (1, 0, "1 spare worktree went"),
        (2, 86400, "2 spare worktrees went: not used for 24 h"),
    ],
)
def test_what_went_is_told_for_one_and_for_many(
    spares: int, age_s: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = {"removed": [], "kept": [], "dry_run": False, "bytes": 0, "spares": spares}
    _tell_cleaned(done, age_s, unpushed=False)
    assert said in capsys.readouterr().out.splitlines()
