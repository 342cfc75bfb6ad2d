"""One origin for everything, as with a real forge: clone, fetch, push and the pull request over https, with a token.

The forge is a process of its own: `git http-backend` behind TLS, and the API beside it on the same port.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import msgspec
import psutil
import pytest

from agentcom.config import GitSettings, SidecarSettings
from agentcom.model import FailureClass, Role, Strategy, TaskSpec
from agentcom_sidecar import push as pushes
from agentcom_sidecar.execution import execute
from agentcom_sidecar.forges import base
from agentcom_sidecar.forges.places import place_of
from agentcom_sidecar.git import WorkspaceError
from tests.standins.forge import BLIND_TOKEN, READ_TOKEN, TOKEN
from tests.standins.origin import Origin, origin_of
from tests.works import Ran, check, repository, settings, work_of

RECEIVE, UPLOAD = "git-receive-pack", "git-upload-pack"


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))  # whoever runs the tests has credentials of their own
    monkeypatch.setattr(pushes, "AGAIN_AFTER_S", (0.0, 0.0))
    monkeypatch.setattr(base, "AWAY_S", 0.01)
    with origin_of(repository(tmp_path / "theirs"), tmp_path) as made:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(made.certificate))
        yield made


def attempt(
    origin: Origin,
    *,
    name: str = "one",
    command: str = "echo hello > hello.txt",
    token: str = TOKEN,
    role: Role = Role.admin,
    fetch_s: float = 30,
    seen: set[str] | None = None,
) -> Ran:
    """One attempt on a host of its own (`name`), which has `token` in a file. `seen` gets what its processes show."""
    host = origin.folder / name
    host.mkdir()
    given = msgspec.structs.replace(
        settings(),
        git=GitSettings(forges=(origin.entry(origin.token_file(host, token)),)),
        sidecar=SidecarSettings(fetch_s=fetch_s, kill_grace_s=0.2),
    )
    spec = TaskSpec(
        description="Say hello", repo=origin.url, command=command, checks=(check("file_exists", "hello.txt"),)
    )

    async def run() -> Ran:
        watcher = asyncio.create_task(watch_children(seen)) if seen is not None else None
        work, ran = await work_of(host, Strategy.trivial, spec, given=given, role=role)
        ran.outcome = await execute(work)
        if watcher is not None:
            watcher.cancel()
        return ran

    return asyncio.run(run())


def test_clone_push_and_pull_request_go_through_one_origin(origin: Origin) -> None:
    result = attempt(origin).completed
    assert result.pushed
    assert origin.git("rev-parse", str(result.branch)) == result.commit
    [found] = origin.requests()
    assert (result.pull_request, found["branch"]) == (found["html_url"], result.branch)
    assert origin.asked(UPLOAD)
    assert origin.asked(RECEIVE)
    message = origin.git("log", "-1", "--format=%(trailers)", str(result.branch))
    assert message.split("\n")[:2] == ["AgentCom-Task: 7", "AgentCom-Attempt: 1"]


def test_a_second_attempt_fetches_what_is_new_and_moves_the_open_one(origin: Origin) -> None:
    first = attempt(origin).completed
    newer = origin.git("commit-tree", "main^{tree}", "-p", "main", "-m", "newer")
    origin.git("update-ref", "refs/heads/main", newer)
    second = attempt(origin, name="two", command="echo more > hello.txt").completed
    assert origin.git("rev-parse", f"{second.commit}^") == newer
    assert second.pull_request == first.pull_request
    assert origin.git("rev-parse", str(first.branch)) == second.commit
    assert len(origin.requests()) == 1


async def watch_children(seen: set[str]) -> None:
    """What anybody could read of this process's descendants: arguments and environments."""
    while True:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                seen.update(child.cmdline())
                seen.update(f"{name}={value}" for name, value in child.environ().items())
        await asyncio.sleep(0.02)


def test_the_token_meets_no_worktree_no_child_and_no_argument(origin: Origin) -> None:
    # Long enough for its processes to be seen.
    origin.forge.set_script({"routes": {"/team/project.git/info/refs": {"delay_s": 0.2}}})
    command = "(env; cat .git; git config --list) > found.txt; echo hello > hello.txt"
    seen: set[str] = set()
    ran = attempt(origin, command=command, seen=seen)
    assert ran.completed.pushed
    assert ran.completed.pull_request
    assert any("credential.https://localhost" in each for each in seen), "git has been seen at it"
    assert not [each for each in seen if TOKEN in each]
    found = origin.git("show", f"{ran.completed.branch}:found.txt")
    assert "core.repositoryformatversion" in found
    assert TOKEN not in found
    holding = [
        str(each)
        for each in (origin.folder / "one").rglob("*")
        if each.is_file() and each.name != "forge.token" and TOKEN.encode() in each.read_bytes()
    ]
    assert holding == []
    assert TOKEN not in repr(ran.outcome) + ran.log


def test_a_task_of_submit_does_not_spend_the_token(origin: Origin) -> None:
    with pytest.raises(WorkspaceError, match="private address may only be named by operate or admin"):
        attempt(origin, role=Role.submit)
    assert origin.asked(UPLOAD) == []


def test_the_token_is_for_the_port_that_its_prefix_names() -> None:
    entries = ("git.example/team gitea https://git.example/api/v1 /t", "git.example:8443 gitlab https://g/api/v4 /t")
    for url, inside, is_exact in (
        ("https://git.example/team/a.git", "a", True),
        ("https://git.example:443/team/a.git", "a", True),
        ("https://git.example:8443/team/a.git", "team/a", True),
        ("https://git.example:9999/team/a.git", "a", False),
        ("ssh://git@git.example:2222/team/a.git", "a", False),
        ("git@git.example:team/a.git", "a", True),
    ):
        place = place_of(url, entries)
        assert place is not None
        assert (place.repository, place.is_exact) == (inside, is_exact), url


# Refused, raced, away: each ends in its failure class, with what to do.


@pytest.mark.parametrize(
    ("token", "code", "what"),
    [
        ("nobody-knows-this-one", "repository_denied", "credentials that may read it, then release the task"),
        (BLIND_TOKEN, "repository_missing", "these credentials may see it"),
    ],
)
def test_a_token_that_may_not_read_holds_the_task(origin: Origin, token: str, code: str, what: str) -> None:
    with pytest.raises(WorkspaceError) as caught:
        attempt(origin, token=token)
    assert (caught.value.failure_class, caught.value.code) == (FailureClass.configuration, code)
    assert what.removeprefix("these ") in caught.value.message
    assert token not in caught.value.message


def test_a_token_that_may_only_read_holds_the_task_with_what_to_do(origin: Origin) -> None:
    ran = attempt(origin, token=READ_TOKEN)
    assert (ran.failed.failure_class, ran.failed.code) == (FailureClass.configuration, "push_denied")
    assert "credentials to write there" in ran.failed.message
    assert ran.result.commit is not None
    assert (origin.branches(), origin.requests()) == ({"main"}, [])


def test_a_protected_branch_holds_the_task_with_the_forges_words(origin: Origin) -> None:
    hook = origin.bare / "hooks" / "update"
    hook.write_text("#!/bin/sh\necho GH006: Protected branch update failed; exit 1\n")
    hook.chmod(0o755)
    ran = attempt(origin)
    assert (ran.failed.failure_class, ran.failed.code) == (FailureClass.configuration, "push_refused")
    assert "GH006" in ran.failed.message
    assert "allow agentcom/* there" in ran.failed.message


def test_of_two_that_push_one_name_the_later_takes_a_numbered_one(origin: Origin) -> None:
    """Somebody's push is received between our look at the branch and ours."""
    hook = origin.bare / "hooks" / "update"
    hook.write_text(
        "#!/bin/sh\nrm $0\nunset GIT_QUARANTINE_PATH\nexport GIT_AUTHOR_NAME=o GIT_AUTHOR_EMAIL=o@o "
        "GIT_COMMITTER_NAME=o GIT_COMMITTER_EMAIL=o@o\n"
        "git update-ref $1 $(git commit-tree -m theirs main^{tree})\n"
    )
    hook.chmod(0o755)
    result = attempt(origin).completed
    assert result.pushed
    assert str(result.branch).endswith("-2")
    taken = str(result.branch).removesuffix("-2")
    assert origin.git("log", "-1", "--format=%s", taken) == "theirs"
    assert origin.git("rev-parse", str(result.branch)) == result.commit


def test_a_branch_that_lies_in_the_way_is_named(origin: Origin) -> None:
    origin.git("branch", "agentcom", "main")
    ran = attempt(origin)
    assert (ran.failed.failure_class, ran.failed.code) == (FailureClass.configuration, "push_refused")
    assert "the branch agentcom there lies in the way: rename or delete it" in ran.failed.message


def test_what_the_forge_cannot_take_now_is_asked_again(origin: Origin) -> None:
    busy = {"status": 429, "headers": {"retry-after": "1"}}
    closed = {"status": 403, "headers": {"retry-after": "1"}}
    origin.forge.set_script({"git": {RECEIVE: [busy, {"status": 502}]}, "next": [closed, {"status": 500}]})
    result = attempt(origin).completed
    assert result.pushed
    assert result.pull_request


def test_a_push_that_it_never_takes_is_infrastructure(origin: Origin) -> None:
    origin.forge.set_script({"git": {RECEIVE: [{"status": 503}] * 9}})
    ran = attempt(origin)
    assert (ran.failed.failure_class, ran.failed.code) == (FailureClass.infrastructure, "push_unreachable")
    assert "if that lasts, look at the network" in ran.failed.message
    assert "tried again" not in ran.failed.message, "the message is a dead letter's too"
    assert len(origin.asked(RECEIVE)) == 1 + len(pushes.AGAIN_AFTER_S)


def test_a_push_that_hangs_ends_once_within_its_bound(origin: Origin) -> None:
    origin.forge.set_script({"git": {RECEIVE: [{"hang": True}] * 9}})
    ran = attempt(origin, fetch_s=2)
    assert (ran.failed.failure_class, ran.failed.code) == (FailureClass.infrastructure, "push_unreachable")
    assert "sidecar.fetch_s" in ran.failed.message
    assert len(origin.asked(RECEIVE)) == 1


def test_an_api_that_hangs_is_asked_three_times_and_costs_no_work(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ANSWER_S_MAX", 0.2)
    origin.forge.set_script({"next": [{"hang": True}] * 9})
    result = attempt(origin).completed
    assert (result.pushed, result.pull_request) == (True, None)
    [told] = [each for each in result.warnings if "forge_unreachable" in each]
    assert "does not answer within 0.2 s: look at the network" in told
    assert len([each for each in origin.forge.log() if "/branches/" in each["path"]]) == base.TRIES


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": formatdate(1_000_030, usegmt=True)}, 30),
        ({"retry-after": "soon"}, 0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000090"}, 90),
        ({"x-ratelimit-remaining": "12", "x-ratelimit-reset": "1000090"}, 0),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "1000005"}, 5),
        ({}, 0),
    ],
)
def test_a_closed_rate_limit_is_waited_for_as_its_headers_say(headers: dict[str, str], wait_s: float) -> None:
    assert base._opens_in_s(headers, 1_000_000.0) == wait_s


def test_a_rate_limit_that_opens_later_than_the_bound_is_not_waited_for(origin: Origin) -> None:
    opens_s = str(int(time.time()) + 3600)
    origin.forge.set_script(
        {"next": [{"status": 403, "headers": {"x-ratelimit-remaining": "0", "x-ratelimit-reset": opens_s}}]}
    )
    result = attempt(origin).completed
    assert result.pushed
    [told] = [each for each in result.warnings if "forge_rate_limited" in each]
    assert "opens in 3" in told
    assert "do it by hand then" in told
