"""One pull request per task: real git with a bare repository as origin, and a stand-in forge over it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

from agentcom.config import GitSettings
from agentcom.messages import ToVerify
from agentcom.model import Role, Strategy, TaskResult, TaskSpec
from agentcom.report_statement import fault_of
from agentcom.signed_report import fingerprint, signature_in_short
from agentcom_sidecar import pull_requests, second_look, workspace
from agentcom_sidecar.execution import execute
from agentcom_sidecar.forges import base, github, places
from agentcom_sidecar.forges.base import ForgeError
from agentcom_sidecar.signer import Signer
from agentcom_sidecar.work import Outcome
from tests.integration.test_workspace import git
from tests.standins import standin
from tests.standins.forge import TOKEN
from tests.standins.starter import StandIn
from tests.works import Ran, check, repository, run_attempt, settings, work_of

APIS = {"github": "", "gitea": "/api/v1", "gitlab": "/api/v4"}
ENTERPRISE = "/api/v3"
MODEL = "llama3.2:latest"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    checkout = repository(tmp_path / "theirs")
    (tmp_path / "team").mkdir()
    git(tmp_path, "clone", "--quiet", "--bare", str(checkout), str(tmp_path / "team" / "project.git"))
    return tmp_path / "team" / "project.git"


@pytest.fixture
def forge(origin: Path) -> Iterator[StandIn]:
    server = StandIn("forge", None, "--repository", str(origin))
    yield server
    server.kill()


def attempt(
    folder: Path,
    origin: Path,
    forge: StandIn,
    *,
    kind: str = "github",
    name: str = "one",
    command: str = "echo hello > hello.txt",
    mode: int = 0o600,
    target: str = "hello.txt",
    wanted: bool | None = None,
    second_host: bool = False,
    report: TaskResult | None = None,
) -> Ran:
    """One attempt on a host of its own (`name`)."""
    host = folder / name
    host.mkdir()
    entry = entry_of(folder, host, kind, f"{forge.url}{APIS[kind]}", mode)
    given = msgspec.structs.replace(settings(), git=GitSettings(forges=(entry,)))
    spec = TaskSpec(
        description="Say hello",
        repo=str(origin),
        command=command,
        checks=(check("file_exists", target),),
        pull_request=wanted,
        second_host=second_host,
    )

    async def run() -> Ran:
        work, ran = await work_of(host, Strategy.trivial, spec, given=given)
        signer = Signer(host / "host_signing.key")
        work = replace(work, sign=partial(signer.signed, task=7, attempt=1, host=work.assign.route.host))
        if report is not None:
            wanted = to_verify(report)
            work.assign.verifies = wanted
            place = await workspace.clone(spec, (7, 1), wanted, "", given, work.home, submitter_role=Role.admin)
            if place is None:
                ran.outcome = Outcome(outcome="completed", result=second_look.not_there(wanted))
                return ran
            work = replace(work, workspace=place)
        outcome = await execute(work)
        if outcome.result is not None:  # as the outbox does
            outcome = replace(outcome, result=work.sign(outcome.result))
        ran.outcome = outcome
        return ran

    return asyncio.run(run())


def entry_of(folder: Path, host: Path, kind: str, api: str, mode: int = 0o600) -> str:
    """Of `git.forges`, with a token file of the host's own."""
    file = host / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(mode)
    return f"{folder} {kind} {api} {file}"


def to_verify(report: TaskResult) -> ToVerify:
    """What the hub tells a second host of it."""
    assert report.signed is not None
    return ToVerify(
        attempt=1,
        host="here",
        key=report.signed.key,
        commit=report.commit or "",
        tree=report.tree or "",
        base=report.base or "",
        branch=report.branch or "",
        report=report,
    )


def requests_at(forge: StandIn) -> list[dict[str, object]]:
    found: list[dict[str, object]] = forge.state()["requests"]
    return found


@pytest.mark.parametrize("kind", APIS)
def test_a_verified_attempt_opens_a_pull_request_with_its_evidence(
    tmp_path: Path, origin: Path, forge: StandIn, kind: str
) -> None:
    result = attempt(tmp_path, origin, forge, kind=kind).completed
    (found,) = requests_at(forge)
    assert result.pull_request == found["html_url"]
    assert (found["title"], found["branch"]) == ("Say hello", result.branch)
    body = str(found["body"])
    assert "| file_exists `hello.txt` | fail | pass |" in body
    assert "Risk: low: 1 files, 1 lines" in body
    for trailer in ("AgentCom-Task: 7", "AgentCom-Attempt: 1", f"AgentCom-Tree: {result.tree}"):
        assert trailer in body.splitlines()
    assert result.signed is not None
    assert fault_of(result, key=result.signed.key, task=7, attempt=1, host="here") is None
    assert f"AgentCom-Signature: {signature_in_short(result.signed)}" in body.splitlines()
    assert f"signed by `here`, key `{fingerprint(result.signed.key)}`" in body


@pytest.mark.parametrize("kind", APIS)
def test_a_partial_attempt_opens_a_draft(tmp_path: Path, origin: Path, forge: StandIn, kind: str) -> None:
    attempt(tmp_path, origin, forge, kind=kind, target="other.txt")
    (found,) = requests_at(forge)
    prefix = {"github": "", "gitea": "WIP: ", "gitlab": "Draft: "}[kind]
    assert found["title"] == f"{prefix}Say hello"
    assert found["draft"] is True


@pytest.mark.parametrize("is_done_first", [False, True], ids=["then-done", "then-partial"])
def test_whether_it_is_a_draft_goes_with_the_later_attempt(
    tmp_path: Path, origin: Path, forge: StandIn, is_done_first: bool
) -> None:
    targets = ("hello.txt", "other.txt") if is_done_first else ("other.txt", "hello.txt")
    attempt(tmp_path, origin, forge, target=targets[0])
    assert [each["draft"] for each in requests_at(forge)] == [not is_done_first]
    later = attempt(tmp_path, origin, forge, name="two", command="echo 2 > hello.txt", target=targets[1])
    (found,) = requests_at(forge)
    assert (found["draft"], later.result.pull_request) == (is_done_first, found["html_url"])
    assert f"Status: **{later.result.status}**" in str(found["body"])
    assert not any("draft" in each for each in later.result.warnings)


@pytest.mark.parametrize(("kind", "path"), [*APIS.items(), ("github", ENTERPRISE)])
def test_an_open_one_becomes_ready_and_a_draft_again_on_every_forge(
    origin: Path, forge: StandIn, kind: str, path: str
) -> None:
    git(origin, "branch", "work")
    wanted = base.Draft("work", "main", "Say hello", "body", is_draft=True)

    async def run() -> list[object]:
        server = places.KINDS[kind](f"{forge.url}{path}", "team/project", TOKEN)
        assert await server.create(wanted) is not None
        shown = [requests_at(forge)[0]["draft"]]
        for is_draft in (False, False, True):  # twice the same: nothing is asked
            (ours,) = await server.open_ones()
            await server.mark(ours, is_draft=is_draft)
            await server.update(ours.number, replace(wanted, is_draft=is_draft))
            shown.append(requests_at(forge)[0]["draft"])
        await server.api.aclose()
        return shown

    assert asyncio.run(run()) == [True, False, False, True]
    mutations = [each["path"] for each in forge.log() if each["path"].endswith("graphql")]
    assert mutations == {"": ["/graphql"] * 2, ENTERPRISE: ["/api/graphql"] * 2}.get(path, [])


def test_a_draft_flag_whose_answer_was_lost_is_looked_at_again(
    tmp_path: Path, origin: Path, forge: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "AWAY_S", 0.01)
    attempt(tmp_path, origin, forge, target="other.txt")
    forge.set_script({"lose_mark": 1})
    later = attempt(tmp_path, origin, forge, name="two", command="echo 2 > hello.txt")
    (found,) = requests_at(forge)
    assert (found["draft"], later.completed.pull_request) == (False, found["html_url"])
    assert "Mind:" not in str(found["body"])


@pytest.mark.parametrize("is_reused", [True, False])
def test_a_forge_without_drafts_leaves_a_warning_that_stands_in_the_pull_request_too(
    tmp_path: Path, origin: Path, forge: StandIn, is_reused: bool
) -> None:
    if is_reused:
        attempt(tmp_path, origin, forge)
    forge.set_script({"drafts": False})
    later = attempt(tmp_path, origin, forge, name="two", command="echo 2 > hello.txt", target="other.txt")
    (found,) = requests_at(forge)
    assert (found["draft"], later.result.pull_request) == (False, found["html_url"])
    [said] = [each for each in later.result.warnings if "its pull request is no draft" in each]
    assert "convert it to a draft by hand" in said
    assert "does not have permission to convert" in said
    assert str(found["body"]).startswith(f"**Mind:** {said}.\n\n* Status: **partial_pass**")


def test_a_draft_flag_that_a_server_is_away_for_is_not_said_to_be_refused(
    tmp_path: Path, origin: Path, forge: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "AWAY_S", 0.01)
    attempt(tmp_path, origin, forge, target="other.txt")
    forge.set_script({"routes": {"/graphql": {"status": 503}}})
    later = attempt(tmp_path, origin, forge, name="two", command="echo 2 > hello.txt")
    [said] = [each for each in later.completed.warnings if "still a draft" in each]
    assert "mark it as ready for review by hand, the forge has not (forge_unreachable: " in said
    assert "open it by hand" not in said, "it is open"


@pytest.mark.parametrize("answer", [None, "no", [], {"errors": 5}, {"errors": ["no"]}, {"data": {"x": None}}])
def test_an_answer_of_graphql_in_another_form_is_a_refusal(answer: object) -> None:
    with pytest.raises(ForgeError, match="refuses x: it does not say why"):
        github._check(answer, "x", "https://forge.example/graphql", is_draft=True)


def test_an_answer_that_is_nested_too_deep_is_a_bad_answer() -> None:
    with pytest.raises(ForgeError) as refused:
        base._json(base.Answer(200, {}, b"[" * 200_000), "https://forge.example")
    assert refused.value.code == "forge_bad_answer"


@pytest.mark.parametrize("is_checked", [False, True])
def test_work_that_a_guard_has_stopped_says_so_and_is_a_draft_where_no_check_has_passed(
    tmp_path: Path, origin: Path, forge: StandIn, is_checked: bool
) -> None:
    calls = [{"name": "write_file", "arguments": {"path": f"{n}.txt", "content": "x\n"}} for n in range(4)]
    entry = entry_of(tmp_path, tmp_path, "github", forge.url)
    given = msgspec.structs.replace(settings(), git=GitSettings(forges=(entry,)))
    given = msgspec.structs.replace(given, sidecar=msgspec.structs.replace(given.sidecar, rounds_standard=2))
    checks = (check("file_exists", "0.txt"),) if is_checked else ()
    spec = TaskSpec(description="Write files", repo=str(origin), checks=checks)
    with standin("ollama") as server:
        models = [{"name": MODEL, "warm": True}]
        server.set_script({"models": models, "replies": [{"tool_calls": [each]} for each in calls]})
        options = {"endpoint_url": server.url, "model": MODEL, "given": given, "max_fix_attempts": 0}
        result = run_attempt(tmp_path, Strategy.local_llm, spec, **options).completed
    assert (result.status, result.stop_reason) == ("verified" if is_checked else "unchecked", "rounds")
    (found,) = requests_at(forge)
    assert found["draft"] is not is_checked
    [row] = [line for line in str(found["body"]).splitlines() if line.startswith("* Stopped")]
    assert row.startswith("* Stopped before it was done, by `rounds`: `after 2 rounds, the limit of this tier")
    assert "(sidecar.rounds_standard of this host)" in row


def test_git_reads_the_trailers_of_the_pull_request_and_of_its_commit(
    tmp_path: Path, origin: Path, forge: StandIn
) -> None:
    result = attempt(tmp_path, origin, forge).completed
    assert result.signed is not None
    (found,) = requests_at(forge)
    tree = git(origin, "show", "-s", "--format=%T", str(result.commit))
    own = {"AgentCom-Task": "7", "AgentCom-Attempt": "1", "AgentCom-Tree": tree}
    told = {"AgentCom-Commit": result.commit, "AgentCom-Signature": signature_in_short(result.signed)}
    assert trailers_of(str(found["body"])) == own | told
    assert trailers_of(git(origin, "show", "-s", "--format=%B", str(result.commit))) == own
    assert result.tree == tree


def trailers_of(message: str) -> dict[str, str]:
    """What git itself takes for trailers."""
    call = ["git", "interpret-trailers", "--parse"]
    said = subprocess.run(call, input=message, capture_output=True, text=True, check=True).stdout
    return dict(line.split(": ", 1) for line in said.splitlines())


@pytest.mark.parametrize("kind", APIS)
def test_a_later_attempt_whose_first_was_never_reported_opens_no_second_one(
    tmp_path: Path, origin: Path, forge: StandIn, kind: str
) -> None:
    first = attempt(tmp_path, origin, forge, kind=kind).completed
    second = attempt(
        tmp_path, origin, forge, kind=kind, name="two", command="echo more > hello.txt"
    ).completed
    (found,) = requests_at(forge)
    assert second.pull_request == first.pull_request == found["html_url"]
    assert second.branch == first.branch == found["branch"]
    assert git(origin, "rev-parse", str(first.branch)) == second.commit
    assert f"AgentCom-Commit: {second.commit}" in str(found["body"])


@pytest.mark.parametrize("kind", APIS)
def test_one_whose_answer_was_lost_is_found_again_and_not_opened_twice(
    tmp_path: Path, origin: Path, forge: StandIn, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "AWAY_S", 0.01)
    forge.set_script({"lose": 1})
    result = attempt(tmp_path, origin, forge, kind=kind).completed
    again = [each["status"] for each in forge.log() if each["method"] == "POST"][1:]
    assert again == [422 if kind == "github" else 409]
    (found,) = requests_at(forge)
    assert result.pull_request == found["html_url"]


def test_commits_of_others_on_its_branch_are_never_replaced(
    tmp_path: Path, origin: Path, forge: StandIn
) -> None:
    first = attempt(tmp_path, origin, forge).completed
    theirs = git(origin, "commit-tree", "main^{tree}", "-p", str(first.commit), "-m", "by hand")
    git(origin, "update-ref", f"refs/heads/{first.branch}", theirs)
    second = attempt(tmp_path, origin, forge, name="two", command="echo more > hello.txt").completed
    assert git(origin, "rev-parse", str(first.branch)) == theirs
    assert len(requests_at(forge)) == 1
    assert second.pushed
    assert any("commits of others" in each for each in second.warnings)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 401}, "forge_denied"),
        ({"status": 403}, "forge_denied"),
        (
            {"status": 403, "headers": {"x-ratelimit-remaining": "0", "retry-after": "3600"}},
            "forge_rate_limited",
        ),
        ({"status": 404}, "forge_missing"),
        ({"status": 200, "mib": 5}, "forge_bad_answer"),
        ({"status": 302, "headers": {"location": "http://elsewhere.example/"}}, "forge_refused"),
    ],
)
def test_what_a_forge_refuses_costs_no_work_but_a_warning(
    tmp_path: Path, origin: Path, forge: StandIn, fault: dict[str, object], code: str
) -> None:
    forge.set_script({"next": [fault]})
    ran = attempt(tmp_path, origin, forge)
    assert ran.completed.pushed
    assert (ran.result.pull_request, requests_at(forge)) == (None, [])
    assert any(each.startswith(f"no pull request ({code})") for each in ran.result.warnings)
    assert TOKEN not in repr(ran.outcome) + ran.log


def test_a_forge_that_is_away_for_a_moment_is_asked_again(
    tmp_path: Path, origin: Path, forge: StandIn
) -> None:
    forge.set_script({"next": [{"status": 502}, {"status": 429, "headers": {"retry-after": "0"}}]})
    assert attempt(tmp_path, origin, forge).completed.pull_request is not None


def test_a_token_that_others_can_read_is_not_sent(tmp_path: Path, origin: Path, forge: StandIn) -> None:
    ran = attempt(tmp_path, origin, forge, mode=0o644)
    assert ran.completed.pull_request is None
    assert forge.log() == []


def test_a_task_can_do_without(tmp_path: Path, origin: Path, forge: StandIn) -> None:
    result = attempt(tmp_path, origin, forge, wanted=False).completed
    assert (result.pushed, result.pull_request, forge.log()) == (True, None, [])


def test_a_token_is_sent_by_https_only() -> None:
    with pytest.raises(ForgeError, match="https only"):
        places.place_of(
            "https://git.example/a/b.git", ("git.example github http://git.example/api ~/t",)
        )


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://git.example/team/project.git", "team/project"),
        ("ssh://git@git.example/team/project", "team/project"),
        ("git@git.example:team/project.git", "team/project"),
        ("https://git.example.evil/team/project", None),
        ("https://evil/git.example/team/project", None),
    ],
)
def test_a_forge_serves_the_repositories_below_its_prefix(url: str, repository: str | None) -> None:
    found = places.place_of(url, ("git.example gitea https://git.example/api/v1 ~/t",))
    assert (found.repository if found else None) == repository


def test_the_risk_is_told_from_size_and_paths() -> None:
    assert pull_requests.risk_of({"a.py": 3}).startswith("low")
    assert pull_requests.risk_of({"a.py": 300}).startswith("medium")
    assert pull_requests.risk_of({"a.py": 3000}).startswith("high")
    for path in (".github/workflows/ci.yml", "requirements-dev.txt", "web/package.json", "go.sum", ".env.production"):
        assert pull_requests.risk_of({path: 1}).startswith("high: 1 files, 1 lines; configuration"), path
    assert pull_requests.risk_of(None).startswith("high")


def test_a_second_host_opens_it_with_both_verdicts_and_the_first_one_waits(
    tmp_path: Path, origin: Path, forge: StandIn
) -> None:
    first = attempt(tmp_path, origin, forge, second_host=True).completed
    assert (first.status, first.pushed, first.pull_request, requests_at(forge)) == ("verified", True, None, [])
    second = attempt(tmp_path, origin, forge, name="two", second_host=True, report=first).completed
    assert (second.status, second.commit, second.tree) == ("verified", first.commit, first.tree)
    (found,) = requests_at(forge)
    assert (found["branch"], second.pull_request) == (first.branch, found["html_url"])
    lines = str(found["body"]).splitlines()
    assert "| file_exists `hello.txt` | fail | pass |" in lines
    (row,) = [line for line in lines if "Verified again by" in line]
    assert second.signed is not None
    assert f"signed with key `{fingerprint(second.signed.key)}`" in row
    assert first.signed is not None
    assert f"AgentCom-Signature: {signature_in_short(first.signed)}" in lines


def test_a_second_host_that_does_not_believe_the_report_looks_no_further(
    tmp_path: Path, origin: Path, forge: StandIn
) -> None:
    first = attempt(tmp_path, origin, forge, second_host=True).completed
    forged = msgspec.structs.replace(first, tree="0" * 40)
    error = attempt(tmp_path, origin, forge, name="two", second_host=True, report=forged).outcome.error
    assert error is not None
    assert (error.failure_class, error.code) == ("infrastructure", "report_other_commit")


def test_a_second_host_says_so_where_the_branch_has_another_commit_or_is_gone(
    tmp_path: Path, origin: Path, forge: StandIn
) -> None:
    first = attempt(tmp_path, origin, forge, second_host=True).completed
    other = git(origin, "rev-parse", "HEAD").strip()
    git(origin, "update-ref", f"refs/heads/{first.branch}", other)
    moved = attempt(tmp_path, origin, forge, name="two", second_host=True, report=first).completed
    assert (moved.commit, moved.iterations) == (other, ())
    git(origin, "update-ref", "-d", f"refs/heads/{first.branch}")
    gone = attempt(tmp_path, origin, forge, name="three", second_host=True, report=first)
    assert gone.outcome.result is not None
    assert (gone.outcome.result.commit, gone.outcome.result.status) == (None, "partial_pass")
