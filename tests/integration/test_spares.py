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

import pytest

from agentcom.config import Home, SandboxSettings, Settings, SidecarSettings
from agentcom_sidecar import cleanup, spare_keeper, spares, trees
from agentcom_sidecar.sandbox import CommandSpec, run_command
from agentcom_sidecar.workspace import Workspace
from tests.integration.spare_rig import (
    NEW,
    PLAIN,
    ROOT,
    WITHIN_S,
    as_git_sees,
    committed,
    content,
    forty_files,
    goes,
    keeper,
    made,
    name_of,
    prepared,
    until,
)
from tests.integration.test_workspace import git
from tests.isolating import need_isolation


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return forty_files(tmp_path / "checkout")


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
