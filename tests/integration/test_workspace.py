"""Workspaces on real git repositories: bases, branches, what git is not allowed to do, what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from agentcom.config import Home, Settings
from agentcom.model import FailureClass, Role, TaskSpec
from agentcom_sidecar import workspace as workspaces
from agentcom_sidecar.git import allowed_remote
from agentcom_sidecar.workspace import Workspace, WorkspaceError

T = TypeVar("T")


def git(folder: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Somebody",
        "GIT_AUTHOR_EMAIL": "somebody@example.org",
        "GIT_COMMITTER_NAME": "Somebody",
        "GIT_COMMITTER_EMAIL": "somebody@example.org",
    }
    call = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return call.stdout.strip()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A user's own checkout with one commit on `main`."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "greeting.txt").write_text("hello\n")
    (folder / ".gitignore").write_text("*.log\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def prepared(
    home: Home,
    repo: Path | str | None,
    *,
    task: int = 7,
    attempt: int = 1,
    role: Role = Role.admin,
    branch: str | None = None,
) -> Awaitable[Workspace]:
    spec = TaskSpec(
        description="Greet the World, politely!", repo=None if repo is None else str(repo), branch=branch
    )
    return workspaces.prepare(spec, task, attempt, Settings(), home, None, submitter_role=role)


def refused(coroutine: Awaitable[object]) -> WorkspaceError:
    async def run() -> None:
        await coroutine

    with pytest.raises(WorkspaceError) as caught:
        asyncio.run(run())
    return caught.value


def in_workspace(home: Home, repo: Path | None, body: Callable[[Workspace], Awaitable[T]]) -> T:
    async def run() -> T:
        return await body(await prepared(home, repo))

    return asyncio.run(run())


def test_what_an_attempt_changes_becomes_a_commit_on_its_own_branch_in_the_mirror(
    home: Home, checkout: Path
) -> None:
    async def body(place: Workspace) -> None:
        (place.path / "greeting.txt").write_text("hello, world\n")
        (place.path / "new file.txt").write_text("new\n")
        (place.path / "noise.log").write_text("ignored\n")
        assert await place.files_changed() == ("greeting.txt", "new file.txt")
        assert (await place.is_clean())[0] is False
        made = await place.commit("Greet the world", ("AgentCom-Task: 7",))
        assert made is not None
        assert made.files_changed == ("greeting.txt", "new file.txt")
        assert await place.is_clean() == (True, "")
        assert place.mirror is not None
        assert place.branch == "agentcom/7/1-greet-the-world-politely"
        assert git(place.mirror, "rev-parse", place.branch) == made.commit
        assert git(place.mirror, "rev-parse", f"{place.branch}^{{tree}}") == made.tree
        assert git(place.mirror, "rev-parse", f"{place.branch}^") == place.base_commit
        assert git(place.mirror, "log", "-1", "--format=%an <%ae> %s", place.branch).endswith(
            "Greet the world"
        )
        told = git(place.mirror, "log", "-1", "--format=%(trailers:only)", place.branch)
        assert told.split("\n") == ["AgentCom-Task: 7", f"AgentCom-Tree: {made.tree}"]

    in_workspace(home, checkout, body)


@pytest.mark.parametrize("flag", ["--skip-worktree", "--assume-unchanged"])
def test_an_index_that_hides_a_file_hides_nothing_from_the_commit(home: Home, checkout: Path, flag: str) -> None:
    async def body(place: Workspace) -> None:
        git(place.path, "update-index", flag, "greeting.txt")
        (place.path / "greeting.txt").write_text("mended\n")
        made = await place.commit("mend it")
        assert made is not None
        assert made.files_changed == ("greeting.txt",)
        assert git(place.path, "show", "HEAD:greeting.txt") == "mended"
        git(place.path, "update-index", flag, "greeting.txt")
        (place.path / "greeting.txt").write_text("what a check left behind\n")
        await place.discard()
        assert (place.path / "greeting.txt").read_text() == "mended\n"

    in_workspace(home, checkout, body)


def test_an_entry_that_was_made_to_fit_hides_nothing_from_the_commit(home: Home, checkout: Path) -> None:
    """It has the dates of the changed file, and the id of what the base has."""

    async def body(place: Workspace) -> None:
        assert place.git_dir is not None
        index = place.git_dir / "index"
        before = git(place.path, "rev-parse", "HEAD:greeting.txt")
        (place.path / "greeting.txt").write_text("mended\n")
        os.utime(place.path / "greeting.txt", (0, 0))
        git(place.path, "add", "greeting.txt")
        after = git(place.path, "rev-parse", ":greeting.txt")
        whole = index.read_bytes()[:-20].replace(bytes.fromhex(after), bytes.fromhex(before))
        index.write_bytes(whole + hashlib.sha1(whole, usedforsecurity=False).digest())
        git(place.path, "add", "--all")
        assert git(place.path, "diff", "HEAD", "--stat") == "", "git by itself sees nothing"
        made = await place.commit("mend it")
        assert made is not None
        assert made.files_changed == ("greeting.txt",)

    in_workspace(home, checkout, body)


def test_a_repository_inside_the_work_is_refused_and_not_committed_as_a_pointer(home: Home, checkout: Path) -> None:
    async def body(place: Workspace) -> str:
        inner = place.path / "impl"
        inner.mkdir()
        git(inner, "init", "--quiet")
        (inner / "calc.py").write_text("x = 1\n")
        git(inner, "add", "calc.py")
        git(inner, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "-m", "x")
        with pytest.raises(WorkspaceError) as refusal:
            await place.commit("make it")
        shutil.rmtree(inner / ".git")
        made = await place.commit("make it")
        assert made is not None
        assert made.files_changed == ("impl/calc.py",)
        return refusal.value.code

    assert in_workspace(home, checkout, body) == "nested_repository"


def lie(place: Workspace, script: str) -> None:
    """Run a script as the attempt would, in its directory; `$g` is the worktree's git directory, `$m` the mirror."""
    assert place.git_dir is not None
    who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    names = {"g": str(place.git_dir), "m": str(place.mirror), "PATH": os.environ["PATH"], **who}
    subprocess.run(["sh", "-ec", script], cwd=place.path, env=names, check=True)


OTHER_COMMON = """
e=$g/other; mkdir -p $e/info; ln -s $m/objects $e/objects; ln -s $m/refs $e/refs; cp $m/HEAD $e/HEAD
printf '[core]\n bare = false\n repositoryformatversion = 0\n[filter "x"]\n clean = printf other\n' > $e/config
echo 'greeting.txt filter=x' > $e/info/attributes; echo hidden.txt > $e/info/exclude
echo mended > greeting.txt; echo 1 > hidden.txt; echo $e > $g/commondir
"""


def test_settings_of_the_attempts_own_decide_nothing_about_what_is_committed(home: Home, checkout: Path) -> None:
    """A worktree's git directory names the folder where git finds configuration, attributes and excludes."""

    async def body(place: Workspace) -> None:
        lie(place, OTHER_COMMON)
        assert git(place.path, "status", "--porcelain", "hidden.txt") == "", "git by itself is taken in"
        made = await place.commit("mend it")
        assert made is not None
        assert made.files_changed == ("greeting.txt", "hidden.txt")
        assert place.mirror is not None
        assert git(place.mirror, "show", f"{made.commit}:greeting.txt") == "mended"
        assert git(place.path, "rev-parse", "--git-path", "config") == str(place.mirror / "config")

    in_workspace(home, checkout, body)


INNER = """
mkdir src; echo good > src/a.py; cd src; git init -q .; git add -A; git commit -qm x; cd ..
printf '[submodule "src"]\n\tpath = src\n\turl = ./src\n\tignore = all\n' > .gitmodules
"""


@pytest.mark.parametrize("script", [INNER, INNER + "git add -A; git commit -qm all"])
def test_a_repository_inside_is_refused_though_it_calls_itself_a_submodule(
    home: Home, checkout: Path, script: str
) -> None:
    async def body(place: Workspace) -> None:
        lie(place, script)
        with pytest.raises(WorkspaceError) as refusal:
            await place.commit("make it")
        assert (refusal.value.failure_class, refusal.value.code) == (FailureClass.task_error, "nested_repository")

    in_workspace(home, checkout, body)


def test_a_submodule_with_files_of_the_attempts_own_is_refused_and_an_empty_one_is_not(
    home: Home, checkout: Path
) -> None:
    """Its files would be looked at by the checks and be in no commit."""
    pointer = git(checkout, "rev-parse", "HEAD")
    git(checkout, "update-index", "--add", "--cacheinfo", f"160000,{pointer},lib")
    git(checkout, "commit", "--quiet", "-m", "a submodule")

    async def body(place: Workspace) -> None:
        (place.path / "greeting.txt").write_text("mended\n")
        made = await place.commit("mend it")
        assert made is not None
        assert made.files_changed == ("greeting.txt",)
        lie(place, "cd lib; git init -q .; echo good > a.py; git add -A; git commit -qm x")
        with pytest.raises(WorkspaceError) as refusal:
            await place.commit("more")
        assert refusal.value.code == "nested_repository"

    in_workspace(home, checkout, body)


def test_a_list_that_was_cut_short_hides_no_repository(home: Home, checkout: Path) -> None:
    async def body(place: Workspace) -> None:
        folder = place.path / ("x" * 200)
        folder.mkdir()
        for number in range(5_000):
            (folder / f"{number:05}{'y' * 40}").write_text(f"{number}\n")
        lie(place, INNER.replace("src", "xz"))
        with pytest.raises(WorkspaceError) as refusal:
            await place.commit("much")
        assert refusal.value.code == "nested_repository"

    in_workspace(home, checkout, body)


def test_a_name_like_a_row_of_gits_own_list_is_a_name(home: Home, checkout: Path) -> None:
    async def body(place: Workspace) -> None:
        (place.path / ":100644 100644 evil").write_text("1\n")
        (place.path / f":100644 160000 {'a' * 40} {'b' * 40} A").write_text("1\n")
        made = await place.commit("add them")
        assert made is not None
        assert made.files_changed == (":100644 100644 evil", f":100644 160000 {'a' * 40} {'b' * 40} A")

    in_workspace(home, checkout, body)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("git checkout -q --orphan other", "head_missing"),
        ("rm $g/HEAD", "head_missing"),
        ("echo nonsense > $g/HEAD", "head_missing"),
        ("mkdir inner; cd inner; git init -q .", "not_committable"),
    ],
)
def test_what_the_task_did_to_its_git_directory_is_its_own_failure(
    home: Home, checkout: Path, script: str, code: str
) -> None:
    async def body(place: Workspace) -> None:
        lie(place, script)
        (place.path / "greeting.txt").write_text("mended\n")
        with pytest.raises(WorkspaceError) as refusal:
            await place.commit("mend it")
        assert (refusal.value.failure_class, refusal.value.code) == (FailureClass.task_error, code)

    in_workspace(home, checkout, body)


def test_a_git_directory_that_was_closed_is_opened_again(home: Home, checkout: Path) -> None:
    async def body(place: Workspace) -> None:
        assert place.git_dir is not None
        place.git_dir.chmod(0o500)
        (place.path / "greeting.txt").write_text("mended\n")
        made = await place.commit("mend it")
        assert made is not None
        assert stat.S_IMODE(place.git_dir.stat().st_mode) == 0o700

    in_workspace(home, checkout, body)


def test_the_users_own_checkout_is_never_written(home: Home, checkout: Path) -> None:
    def everything() -> dict[str, tuple[int, int]]:
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(checkout.rglob("*"))}

    async def body(place: Workspace) -> None:
        (place.path / "greeting.txt").write_text("changed\n")
        await place.commit("change")

    before = everything()
    in_workspace(home, checkout, body)
    assert everything() == before


def test_each_attempt_starts_from_the_fresh_base(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout, attempt=1)
        (checkout / "greeting.txt").write_text("second\n")
        git(checkout, "commit", "--quiet", "-am", "second")
        second = await prepared(home, checkout, attempt=2)
        assert (first.path / "greeting.txt").read_text() == "hello\n"
        assert (second.path / "greeting.txt").read_text() == "second\n"
        assert second.base_commit == git(checkout, "rev-parse", "HEAD")
        assert first.mirror == second.mirror

    asyncio.run(run())


def test_attempts_of_one_repository_can_be_prepared_at_the_same_time(home: Home, checkout: Path) -> None:
    async def run() -> None:
        places = await asyncio.gather(*(prepared(home, checkout, task=n) for n in range(1, 5)))
        assert len({place.path for place in places}) == 4
        assert all((place.path / "greeting.txt").exists() for place in places)

    asyncio.run(run())


def test_a_named_branch_is_the_base_and_an_unknown_one_is_a_configuration_error(
    home: Home, checkout: Path
) -> None:
    git(checkout, "checkout", "--quiet", "-b", "release/1.0")
    (checkout / "greeting.txt").write_text("release\n")
    git(checkout, "commit", "--quiet", "-am", "release")
    git(checkout, "checkout", "--quiet", "main")

    async def run() -> str:
        place = await prepared(home, checkout, branch="release/1.0")
        return (place.path / "greeting.txt").read_text()

    assert asyncio.run(run()) == "release\n"
    error = refused(prepared(home, checkout, branch="nowhere", attempt=2))
    assert (error.failure_class, error.code) == (FailureClass.configuration, "branch_missing")
    assert "nowhere" in error.message


def test_an_attempt_that_changed_nothing_has_no_commit(home: Home, checkout: Path) -> None:
    async def body(place: Workspace) -> object:
        return await place.commit("nothing")

    assert in_workspace(home, checkout, body) is None


def test_commits_that_the_attempt_made_by_itself_count(home: Home, checkout: Path) -> None:
    async def body(place: Workspace) -> None:
        git(place.path, "checkout", "--quiet", "-b", "its-own-branch")
        (place.path / "greeting.txt").write_text("by itself\n")
        git(place.path, "commit", "--quiet", "-am", "by itself")
        made = await place.commit("unused")
        assert made is not None
        assert made.files_changed == ("greeting.txt",)
        assert place.mirror is not None
        assert git(place.mirror, "rev-parse", place.branch) == made.commit

    in_workspace(home, checkout, body)


def test_a_commit_of_the_attempts_own_keeps_what_git_ignores(home: Home, checkout: Path) -> None:
    async def body(place: Workspace) -> None:
        (place.path / "wanted.log").write_text("first\n")
        git(place.path, "add", "--force", "wanted.log")
        git(place.path, "commit", "--quiet", "-m", "by itself")
        (place.path / "wanted.log").write_text("second\n")
        made = await place.commit("the rest")
        assert made is not None
        assert made.files_changed == ("wanted.log",)
        assert git(place.path, "show", f"{made.commit}:wanted.log") == "second"
        assert place.mirror is not None
        assert git(place.mirror, "rev-parse", place.branch) == made.commit

    in_workspace(home, checkout, body)


def test_what_was_changed_off_the_branch_lies_on_the_branch(home: Home, checkout: Path) -> None:
    async def body(place: Workspace) -> None:
        git(place.path, "checkout", "--quiet", "--detach")
        (place.path / "greeting.txt").write_text("off the branch\n")
        made = await place.commit("change it")
        assert made is not None
        assert place.mirror is not None
        assert git(place.mirror, "rev-parse", place.branch, f"{place.branch}^{{tree}}").split() == [
            made.commit,
            made.tree,
        ]

    in_workspace(home, checkout, body)


def test_configuration_and_hooks_written_by_a_task_run_nothing(
    home: Home, checkout: Path, tmp_path: Path
) -> None:
    async def body(place: Workspace) -> None:
        assert place.mirror is not None
        trap = tmp_path / "trap.sh"
        trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n")
        trap.chmod(0o755)
        for key in (
            "core.fsmonitor",
            "filter.trap.clean",
            "filter.trap.smudge",
            "diff.external",
            "core.sshCommand",
        ):
            git(place.path, "config", key, str(trap))
        hooks = place.mirror / "hooks"
        hooks.mkdir()
        for hook in (
            "pre-commit",
            "post-commit",
            "post-checkout",
            "reference-transaction",
            "post-index-change",
        ):
            (hooks / hook).symlink_to(trap)
        (place.path / ".gitattributes").write_text("* filter=trap\n")
        (place.path / "greeting.txt").write_text("changed\n")
        await place.files_changed()
        await place.is_clean()
        assert await place.commit("change") is not None
        await prepared(home, checkout, attempt=2)
        assert not (tmp_path / "sprung").exists()

    in_workspace(home, checkout, body)


def test_a_git_file_that_a_task_points_elsewhere_is_not_followed(
    home: Home, checkout: Path, tmp_path: Path
) -> None:
    async def body(place: Workspace) -> None:
        other = tmp_path / "other"
        other.mkdir()
        git(other, "init", "--quiet")
        (place.path / ".git").write_text(f"gitdir: {other}/.git\n")
        (place.path / "greeting.txt").write_text("changed\n")
        made = await place.commit("change")
        assert made is not None
        assert place.mirror is not None
        assert git(place.mirror, "rev-parse", place.branch) == made.commit

    in_workspace(home, checkout, body)


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch /tmp/x",
        "ext::sh -c id",
        "http://example.org/r",
        "git://example.org/r",
        "ssh://-oProxyCommand=id/r",
        "-x:y",
        "a\nb",
    ],
)
def test_an_address_that_is_an_option_or_another_protocol_is_refused(url: str) -> None:
    error = refused(allowed_remote(url, Role.admin))
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_refused")


@pytest.mark.parametrize(
    "url",
    ["/srv/repository", "file:///srv/repository", "~/repository", "https://127.0.0.1/r", "git@10.1.2.3:r"],
)
def test_local_repositories_and_private_addresses_are_not_for_ordinary_submitters(url: str) -> None:
    error = refused(allowed_remote(url, Role.submit))
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_refused")


@pytest.mark.parametrize("url", ["https://169.254.169.254/latest", "ssh://[fe80::1]/r", "https://0.0.0.0/r"])
def test_metadata_and_link_local_addresses_are_refused_to_everyone(url: str) -> None:
    assert refused(allowed_remote(url, Role.admin)).code == "repository_refused"


def test_private_addresses_are_allowed_to_admin() -> None:
    assert asyncio.run(allowed_remote("git@127.0.0.1:team/r.git", Role.admin)).protocol == "ssh"


def test_an_empty_repository_is_a_configuration_error(home: Home, tmp_path: Path) -> None:
    empty = tmp_path / "empty.git"
    empty.mkdir()
    git(empty, "init", "--quiet", "--bare")
    error = refused(prepared(home, empty))
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_empty")


def test_a_directory_that_is_no_repository_or_missing_is_a_configuration_error(
    home: Home, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    for place in (tmp_path / "plain", tmp_path / "absent"):
        error = refused(prepared(home, place))
        assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_missing")


def test_a_host_that_does_not_answer_is_an_infrastructure_error(home: Home) -> None:
    error = refused(prepared(home, "https://127.0.0.1:1/r.git"))
    assert (error.failure_class, error.code) == (FailureClass.infrastructure, "repository_unreachable")
    assert error.message.endswith("if that lasts, look at the network between this host and there")


def test_without_a_repository_the_workspace_is_empty_and_lists_what_was_made(home: Home) -> None:
    async def body(place: Workspace) -> None:
        assert not place.has_repository
        assert list(place.path.iterdir()) == []
        (place.path / "sub").mkdir()
        (place.path / "sub" / "made.txt").write_text("made\n")
        assert await place.files_changed() == ("sub/made.txt",)
        assert await place.commit("ignored") is None

    in_workspace(home, None, body)


def test_the_same_attempt_number_after_a_restored_hub_gets_a_fresh_place(home: Home, checkout: Path) -> None:
    async def run() -> None:
        first = await prepared(home, checkout)
        second = await prepared(home, checkout)
        assert first.path != second.path
        assert first.branch != second.branch

    asyncio.run(run())
