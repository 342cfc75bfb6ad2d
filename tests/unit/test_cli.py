"""The command line: names, options, exit codes, one JSON document, one line for an error."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from agentcom import __version__
from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair, load_key, parse_join_code, sha256_hex, write_hub_address
from agentcom.cli import doctor, main, output, root, storage
from agentcom.cli.demo import usable_repository
from agentcom.clock import rfc3339
from agentcom.config import Home
from agentcom.errors import NotFound, Refused, StoreError
from agentcom.model import Role, Tier
from agentcom.store import start
from agentcom.supervisor import Start, write_start
from agentcom_sidecar import guards, isolation
from tests.fake_hub_requests import FakeHub, task


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in [name for name in os.environ if name.startswith("AGENTCOM_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("AGENTCOM_HOME", str(home))
    fake = FakeHub(home).start()
    fake.answers["submit"] = lambda op: {
        "tasks": [
            {"id": n, "state": "ready", "tier": "standard", "created": True}
            for n, _ in enumerate(op.tasks, 7)
        ]
    }
    fake.answers["task_get"] = lambda op: task(op.task)
    yield fake
    fake.stop()


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON document on stdout, with nothing on stderr."""
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, with nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err.rstrip("\n")


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


def test_the_commands_have_the_names_of_the_contract() -> None:
    assert {name for name, _ in commands(root)} == {
        *("up", "hub", "sidecar", "web", "submit", "join", "doctor", "demo", "events"),
        *(f"config {verb}" for verb in ("get", "set", "unset")),
        *(
            f"task {verb}"
            for verb in ("list", "show", "why", "story", "log", "verify-report", "cancel", "retry", "hold", "release",
                         "answer")
        ),
        *(f"dead {verb}" for verb in ("list", "retry", "purge")),
        *(f"agent {verb}" for verb in ("list", "remove", "cordon", "uncordon")),
        *(f"git {verb}" for verb in ("status", "gc")),
        *(f"host {verb}" for verb in ("list", "show", "invite", "remove", "drain", "accept-key")),
        *(f"endpoint {verb}" for verb in ("list", "show", "add", "update", "remove", "probe")),
        *(f"repo {verb}" for verb in ("list", "show", "add", "update", "set", "remove")),
        *(f"scheduler {verb}" for verb in ("list", "replay")),
        *(f"queue {verb}" for verb in ("pause", "resume", "stats")),
        *(f"queue {noun} {verb}" for noun in ("limit", "weight") for verb in ("set", "unset", "list")),
        *(f"budget {verb}" for verb in ("show", "set", "unset")),
        *(f"backup {verb}" for verb in ("now", "list", "verify", "restore", "acknowledge")),
        "compact",
        *(f"token {verb}" for verb in ("add", "list", "revoke", "link")),
    }


def test_every_command_that_asks_the_hub_takes_json() -> None:
    daemons = {"hub", "sidecar", "web"}
    without = {
        name for name, command in commands(root) if not any("--json" in p.opts for p in command.params)
    }
    assert without == daemons


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"agentcom {__version__}\n"


READS = [
    (["task", "list"], "task_list", {"tasks": [task(7)], "next_cursor": None}),
    (["task", "show", "7"], "task_get", task(7)),
    (
        ["task", "why", "7"],
        "task_why",
        {"id": 7, "state": "ready", "shows": "present", "reason": "no host", "hosts": [
            {"host": "box", "agent": "Grey Area", "fails": "model", "message": "has no llama", "change": "pull it"},
        ]},
    ),
    (["dead", "list"], "dead_list", {"tasks": [task(7, state="dead", result=None)], "next_cursor": None}),
    (["agent", "list"], "agent_list", {"agents": [{"name": "Grey Area", "host": "box", "state": "idle"}]}),
    (["host", "list"], "host_list", {"hosts": [{"name": "box", "state": "online", "resources": None}]}),
    (["host", "show", "box"], "host_show", {"name": "box", "state": "online", "resources": None, "trend": {"cpu": []}}),
    (
        ["endpoint", "list"],
        "endpoint_list",
        {"endpoints": [{
            "id": 1, "name": "gpu", "kind": "ollama", "url": "http://10.0.0.9:11434", "healthy": True,
            "models": [{"name": "qwen", "warm": True}],
        }]},
    ),
    (["endpoint", "show", "gpu"], "endpoint_show", {
        "id": 1, "name": "gpu", "kind": "ollama", "url": "http://10.0.0.9:11434", "healthy": True,
        "models": [{"name": "qwen", "warm": True}],
    }),
    (["repo", "list"], "repo_list", {"repos": [{
            "id": 1, "name": "engine", "url": "https://git.example/engine", "default_branch": None, "hosts": [],
            "checks": [{"kind": "git_clean"}], "live_tasks": 2,
        }]}),
    (["repo", "show", "engine"], "repo_show", {
            "id": 1, "name": "engine", "url": "https://git.example/engine", "default_branch": None, "hosts": [],
            "checks": [{"kind": "git_clean"}], "live_tasks": 2,
        }),
    (["queue", "stats"], "queue_stats", {"paused": False, "by_state": {"ready": 2}, "by_lane": {}, "agents": {}}),
    (
        ["token", "list"],
        "token_list",
        {"tokens": [{"name": "ci", "role": "submit", "kind": "token", "created": None, "revoked": False}]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "tag", "answer"), READS, ids=[" ".join(read[0]) for read in READS])
def test_a_read_command_prints_the_hubs_answer_as_one_document(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], arguments: list[str], tag: str, answer: dict
) -> None:
    hub.answers[tag] = answer
    assert main([*arguments, "--json"]) == 0
    assert said(capsys) == answer


@pytest.mark.parametrize(("arguments", "tag", "answer"), READS, ids=[" ".join(read[0]) for read in READS])
def test_a_read_command_prints_text_for_people(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], arguments: list[str], tag: str, answer: dict
) -> None:
    hub.answers[tag] = answer
    assert main(arguments) == 0
    text = capsys.readouterr().out
    names = {
        "task": "7",
        "dead": "7",
        "agent": "Grey Area",
        "host": "box",
        "endpoint": "qwen",
        "queue": "ready 2",
        "repo": "engine",
    }
    assert names.get(arguments[0], "ci") in text
    assert "\x1b" not in text


def test_an_account_says_on_which_hosts_it_is_blocked(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = {"host": "box", "reason": "the window is used up", "until": "2027-01-15T08:00:00.000Z"}
    account = {
        "id": 2, "name": "anthropic", "kind": "anthropic", "url": "https://api.anthropic.com:443", "healthy": True,
        "blocked_on": [blocked],
    }  # fmt: skip
    hub.answers |= {"endpoint_show": account, "endpoint_list": {"endpoints": [account]}}
    assert main(["endpoint", "list"]) == 0
    assert "blocked on box until" in capsys.readouterr().out
    assert main(["endpoint", "show", "anthropic"]) == 0
    assert "box until 2027-01-15T08:00:00.000Z: the window is used up" in capsys.readouterr().out


RULES = {
    "paused": False,
    "pauses": [{"key": "tier:complex", "set_by": "ann", "set_at": "2027-01-15T08:00:00.000Z"}],
    "limits": [
        {
            "key": "label:deploy",
            "number": 2,
            "running": 1,
            "set_by": "ann",
            "set_at": "2027-01-15T08:00:00.000Z",
        }
    ],
    "weights": [],
}


def test_limits_and_weights_are_listed(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["queue_rules"] = RULES
    assert main(["queue", "limit", "list", "--json"]) == 0
    assert said(capsys) == {"limits": RULES["limits"]}
    assert main(["queue", "limit", "list"]) == 0
    assert ["label:deploy", "2", "1", "ann"] in [
        line.split()[:4] for line in capsys.readouterr().out.splitlines()
    ]
    assert main(["queue", "weight", "list"]) == 0
    assert "no weights" in capsys.readouterr().out


def test_what_is_paused_is_said_with_the_counts(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["queue_stats"] = {"paused": False, "pauses": ["tier:complex"], "by_state": {}}
    assert main(["queue", "stats"]) == 0
    assert "paused: tier:complex" in capsys.readouterr().out


def test_a_pause_is_of_one_thing(hub: FakeHub) -> None:
    assert main(["queue", "pause", "--tier", "complex", "--host", "box"]) == 2
    assert hub.asked == []


def test_why_says_each_condition_that_holds_a_task_back(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["task_why"] = {
        "id": 7, "state": "ready", "shows": "present", "reason": "the queue is paused; agentcom queue resume",
        "conditions": [
            {"condition": "queue_paused", "message": "the queue is paused", "change": "agentcom queue resume"},
            {"condition": "limit_reached", "message": "2 of 2 run", "change": "wait"},
        ],
    }  # fmt: skip
    assert main(["task", "why", "7"]) == 0
    assert "limit_reached" in capsys.readouterr().out


def test_why_of_a_routed_task_names_each_part_of_the_decision_in_seconds(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"run": 4_000_000, "load": 2_500_000, "wait": 0, "recent_failure": 60_000_000, "host_load": 250_000}
    other = {"host": "two", "agent": "two-1", "endpoint": "ollama-2", "cost_us": 90_000_000}
    other["parts"] = {"wait": 90_000_000}
    hub.answers["task_why"] = {
        "id": 7, "state": "working", "tier": "standard", "shows": "decision", "reason": "attempt 1 was routed: x",
        "classification": {"source": "inferred", "inferred": "standard", "signals": ["1 file"]},
        "route": {
            "strategy": "local_llm", "agent": "one-1", "host": "one", "backend": "ollama", "model": "m",
            "endpoint": "ollama-1", "reason": "inferred_tier", "others": [other], "refused": {"no_ollama": 2},
            "score": {"host": "one", "agent": "one-1", "cost_us": 66_750_000, "parts": parts},
        },
        "hosts": [], "next_cursor": None,
    }  # fmt: skip
    assert main(["task", "why", "7"]) == 0
    told = capsys.readouterr().out
    assert "tier: standard (inferred; looks standard; signs: 1 file)" in told
    assert "expected to be finished in 66.8 s:" in told
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert lines[lines.index("expected to be finished in 66.8 s:") + 1 :][:4] == [
        "load of the model 2.5 s",
        "the work itself 4.0 s",
        "load of the host 0.2 s",
        "failures there lately 60.0 s",
    ]
    assert "two two-1 ollama-2 90.0 s wait 90.0 s" in lines
    assert "hosts that could not take it: no_ollama (2)" in told


def test_why_never_cuts_what_would_help(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    help_ = "do this " * 60
    hub.answers["task_why"] = {
        "id": 7, "state": "ready", "shows": "present", "reason": "no host can run it now", "next_cursor": None,
        "hosts": [{"host": "one", "agent": None, "fails": "no_claude", "message": "no key", "change": help_}],
    }  # fmt: skip
    assert main(["task", "why", "7"]) == 0
    told = capsys.readouterr().out
    assert f"    one: no_claude: no key\n      what would help: {help_}\n" in told


def test_a_state_that_no_dead_letter_has_is_refused_with_those_that_one_can_have(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead", "list", "--state", "completed"]) == 4
    assert capsys.readouterr().err.endswith("it is one of dead, expired, cancelled\n")


def test_a_task_that_ended_without_a_result_is_not_shown_with_the_result_none(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["task_get"] = lambda op: task(op.task) | {"result": {"status": None, "duration_ms": 5}}
    assert main(["task", "show", "1"]) == 0
    assert "result: not completed in 5 ms" in capsys.readouterr().out


def test_a_task_whose_story_was_shortened_says_by_which_setting(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = {"at": "2027-01-15T08:00:00.000Z", "by": "retention.stories_s"}
    hub.answers["task_get"] = lambda op: task(op.task, story_shortened=cut)
    assert main(["task", "show", "1"]) == 0
    told = "shortened by retention.stories_s at 2027-01-15T08:00:00.000Z: earlier entries have gone"
    assert told in capsys.readouterr().out


def test_a_task_whose_result_has_gone_still_tells_its_status_and_which_settings_keep_results(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["task_get"] = lambda op: task(op.task, result=None, status="unchecked")
    assert main(["task", "show", "1"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("task 1  completed unchecked\n")
    assert "  result: its result has gone (retention.reports_s, retention.reports_max)\n" in told


def test_a_task_that_is_not_completed_has_no_result_that_has_gone(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["task_get"] = lambda op: task(op.task, state="cancelled", result=None, status=None)
    assert main(["task", "show", "1"]) == 0
    assert "result" not in capsys.readouterr().out


def shown(hub: FakeHub, capsys: pytest.CaptureFixture[str], **fields: Any) -> dict[str, str]:
    """The labelled lines of a task as people see it, by label."""
    hub.answers["task_get"] = lambda op: task(op.task, **fields)
    assert main(["task", "show", "1"]) == 0
    lines = re.findall(r"^  (\w[\w ]*?)(?:  +|: )(.+)$", capsys.readouterr().out, re.MULTILINE)
    return dict(lines)


def test_the_times_of_a_task_are_shown_with_how_far_they_are(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    day = 86_400
    created, before, start, complete, expires = map(wall, (-150, 9_000, 10 * day, 20 * day, 30 * day + 60))
    told = shown(
        hub, capsys, state="delayed", created_at=created, assigned_at=None, finished_at=None, result=None,
        not_before=before, start_by=start, complete_by=complete, ttl_s=2_592_000, expires_at=expires,
    )  # fmt: skip
    names = ("created", "not before", "start by", "complete by", "ttl", "expires")
    assert [told[name] for name in names] == [
        f"{created} (2 min ago)", f"{before} (in 2 h)", f"{start} (in 9 d)", f"{complete} (in 19 d)",
        "2592000 s (30 d)", f"{expires} (in 30 d)",
    ]  # fmt: skip
    assert not {"assigned", "finished", "retry"} & set(told)


@pytest.mark.parametrize("ahead_s", [7_200, -7_200])
def test_how_far_a_time_is_goes_by_the_clock_of_the_hub_and_not_of_who_asks(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], ahead_s: int
) -> None:
    hub.ahead_s = ahead_s
    created, finished = wall(ahead_s - 600.5), wall(ahead_s + 600.5)
    told = shown(hub, capsys, created_at=created, finished_at=finished)
    assert (told["created"], told["finished"]) == (f"{created} (10 min ago)", f"{finished} (in 10 min)")
    agent = {"name": "Beagle", "host": "box", "state": "idle", "since": created}
    hub.answers["agent_list"] = {"agents": [agent]}
    assert main(["agent", "list"]) == 0
    assert "10 min" in capsys.readouterr().out


def test_times_that_a_task_does_not_have_are_not_shown(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    given = dict.fromkeys(("not_before", "start_by", "complete_by", "ttl_s", "expires_at", "retry_at"))
    told = shown(hub, capsys, **given)
    assert {"created", "finished"} <= set(told)
    assert not {"not before", "start by", "complete by", "ttl", "expires", "retry"} & set(told)


def test_a_task_that_waits_for_its_next_try_says_when_that_is_and_why(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"class": "infrastructure", "code": "connection_lost", "message": "the server went away"}
    at = wall(150)
    told = shown(hub, capsys, state="delayed", error=error, retry_at=at, result=None, ttl_s=90)
    assert told["retry"] == f"{at} (in 2 min), because infrastructure/connection_lost: the server went away"
    assert "error" not in told
    assert told["ttl"] == "90 s"


def test_a_check_that_was_run_twice_is_shown_with_both_verdicts(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = {"kind": "test_passes", "target": "", "status": "fail", "before": "fail", "with_base": "fail", "output": ""}
    result = {"status": "partial_pass", "duration_ms": 1, "iterations": [{"n": 1, "status": "fail", "checks": [ran]}]}
    hub.answers["task_get"] = lambda op: task(op.task) | {"result": result}
    assert main(["task", "show", "1"]) == 0
    assert "fail test_passes (fail with the tests of the base)" in capsys.readouterr().out


def test_a_task_with_all_options_arrives_as_given(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "submit", "fix the parser", "--tier", "standard", "--lane", "high", "--repo", "https://example.org/r.git",
        "--branch", "dev", "--file", "a.py:the bug: here", "--file", "b.py", "--criterion", "it parses",
        "--check", "file_exists=a.py", "--check", "command_succeeds=test 1 = 1", "--check", "git_clean",
        "--needs", "gpu", "--model", "qwen", "--max-retries", "2", "--fix-attempts", "0", "--timeout", "60",
        "--not-before", "2027-01-01T00:00:00Z", "--ttl", "3600", "--key", "k1", "--label", "l1", "--label", "l2",
        "--no-verify", "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert said(capsys)["id"] == 7
    (spec,) = hub.asked_of(m.Submit)[0].tasks
    assert (spec.description, spec.tier, spec.lane, spec.branch) == (
        "fix the parser",
        "standard",
        "high",
        "dev",
    )
    assert [(f.path, f.reason) for f in spec.files] == [("a.py", "the bug: here"), ("b.py", "")]
    assert [(c.kind, c.target) for c in spec.checks] == [
        ("file_exists", "a.py"), ("command_succeeds", "test 1 = 1"), ("git_clean", ""),
    ]  # fmt: skip
    assert (spec.success_criteria, spec.needs, spec.labels) == (("it parses",), ("gpu",), ("l1", "l2"))
    assert (spec.max_retries, spec.max_fix_attempts, spec.timeout_s, spec.ttl_s) == (2, 0, 60, 3600)
    assert (spec.model, spec.idempotency_key, spec.verify) == ("qwen", "k1", False)
    assert (spec.repo, spec.not_before) == ("https://example.org/r.git", "2027-01-01T00:00:00Z")


def test_a_bare_task_needs_only_its_text(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "say hello"]) == 0
    assert capsys.readouterr().out == "task 7 added: standard, ready\n"
    (spec,) = hub.asked_of(m.Submit)[0].tasks
    assert spec == m.TaskSpec("say hello", idempotency_key=spec.idempotency_key)


@pytest.mark.parametrize(
    ("options", "wanted"), [([], None), (["--pull-request"], True), (["--no-pull-request"], False)]
)
def test_whether_a_pull_request_is_opened_arrives_as_given(
    hub: FakeHub, options: list[str], wanted: bool | None
) -> None:
    assert main(["submit", "x", *options]) == 0
    assert hub.asked_of(m.Submit)[0].tasks[0].pull_request is wanted


def test_beside_a_file_of_tasks_an_option_that_says_no_is_refused_too(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "tasks").write_text('{"description": "a"}\n')
    assert main(["submit", "--from", str(tmp_path / "tasks"), "--no-pull-request"]) == 2
    assert not hub.asked_of(m.Submit)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (task(7), 0),
        (task(7, result={**task()["result"], "status": "already_done"}), 0),
        (task(7, result={**task()["result"], "status": "unchecked"}), 0),
        (task(7, result={**task()["result"], "status": "skipped"}), 0),
        (task(7, result={**task()["result"], "status": "partial_pass"}), 10),
        (task(7, result={**task()["result"], "status": "no_change"}), 10),
        (task(7, state="dead", result=None, error={"class": "task_error", "message": "it broke"}), 11),
        (task(7, state="cancelled", result=None), 11),
        (task(7, state="expired", result=None), 11),
    ],
)
def test_waiting_ends_with_the_code_of_the_result(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], found: dict, code: int
) -> None:
    hub.answers["task_wait"] = found
    assert main(["submit", "x", "--wait", "--json"]) == code
    assert said(capsys) == found


def test_a_task_that_is_held_is_told_once_while_waiting(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([task(7, state="held", result=None), task(7, state="held", result=None), task(7)])
    hub.answers["task_wait"] = lambda op: next(answers)
    assert main(["submit", "x", "--wait", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("is held") == 1
    assert "this goes on waiting, and Ctrl-C leaves the task held" in captured.err
    assert json.loads(captured.out)["state"] == "completed"


def test_json_lines_are_submitted_as_one_batch(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"description": "a"}\n\n{"description": "b"}\n'))
    )
    assert main(["submit", "--from", "-", "--json"]) == 0
    assert [each["id"] for each in said(capsys)["tasks"]] == [7, 8]
    (batch,) = hub.asked_of(m.Submit)
    assert [spec.description for spec in batch.tasks] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"description": "a"}\n{"description": "b", "lane": "fast"}\n', "line 2: lane"),
        ('{"description": "a"}\n\nnot json\n', "line 3: not JSON"),
        ("[]\n", "line 1: a task is a JSON object"),
        ('{"descriptoin": "a"}\n', "line 1: descri"),
    ],
)
def test_a_bad_line_refuses_the_whole_file_and_is_named(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, part: str
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(text)
    assert main(["submit", "--from", str(file)]) == 4
    line = complaint(capsys)
    assert part in line
    assert "nothing was submitted" in line
    assert hub.asked == []


def test_the_hubs_refusal_of_a_batch_names_the_line(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.answers["submit"] = Refused("forbidden", "tasks[1].repo: a local path", field="tasks[1].repo")
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"description": "a"}\n\n{"description": "b", "repo": "/r"}\n')
    assert main(["submit", "--from", str(file)]) == 4
    assert "line 3: tasks[1].repo" in complaint(capsys)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--lane", "fast"], "lane"),
        (["--tier", "huge"], "tier"),
        (["--check", "No kind"], "checks[0].kind"),
        (["--max-retries", "-1"], "max_retries"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_field(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], options: list[str], field: str
) -> None:
    assert main(["submit", "x", *options]) == 4
    assert f"refused (invalid): {field}" in complaint(capsys)
    assert hub.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit"],
        ["submit", "x", "--max-retries", "many"],
        ["submit", "x", "--no-such-option"],
        ["submit", "x", "--from", "-"],
        ["task", "show", "0"],
        ["task", "show", "seven"],
        ["dead", "purge"],
        ["dead", "retry", "3", "--all"],
        ["dead", "retry", "3", "--state", "dead"],
        ["endpoint", "update", "gpu"],
        ["up", "--once"],
        ["up", "--http", "here"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_a_usage_error_is_one_line_that_names_the_help(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    assert "--help" in complaint(capsys)


def test_a_refusal_keeps_the_hubs_code_and_hint(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["queue_pause"] = Refused("forbidden", "this needs operate", retry_after_s=2)
    assert main(["queue", "pause"]) == 4
    assert complaint(capsys) == "agentcom: refused (forbidden): this needs operate; try again in 2 s"


def test_what_is_not_there_exits_with_5(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["task_get"] = NotFound("there is no task 99")
    assert main(["task", "show", "99"]) == 5
    assert "99" in complaint(capsys)


def test_a_setting_that_is_not_there_exits_with_5(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "get", "hub.colour"]) == 5
    assert "hub.colour" in complaint(capsys)


def test_settings_are_read_from_file_and_environment(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCOM_HUB_PORT", "9000")
    (hub.home.path / "config.toml").write_text("[log]\nlevel = 'debug'\n")
    assert main(["config", "get", "hub.port", "--json"]) == 0
    assert said(capsys) == {"value": 9000, "source": "environment", "default": 7420}
    assert main(["config", "get", "log", "--json"]) == 0
    assert said(capsys) == {"log.level": {"value": "debug", "source": "config.toml", "default": "info"}}
    assert main(["config", "get", "log.level"]) == 0
    assert capsys.readouterr().out == "debug\n"
    assert hub.asked == []


LEASE = {
    "value": 60, "source": "stored", "default": 45, "unset_to": 45, "was": 45, "by": "ann",
    "at": "2027-01-15T08:00:00.000Z",
}  # fmt: skip


def test_settings_of_the_hub_are_told_by_the_hub(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["config_get"] = {"settings": {"queue.lease_s": LEASE}}
    assert main(["config", "get", "queue.lease_s", "--json"]) == 0
    assert said(capsys) == LEASE
    assert main(["config", "get", "queue"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (lease,) = [line.split() for line in lines if line.startswith("queue.lease_s")]
    assert lease == ["queue.lease_s", "60", "stored", "ann", "2027-01-15T08:00:00.000Z"]
    assert any(line.split() == ["queue.park_s", "60", "default"] for line in lines)
    assert hub.asked == [m.ConfigGet(name="queue.lease_s"), m.ConfigGet(name="queue")]


def test_without_a_hub_its_settings_are_those_of_this_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTCOM_HOME", str(tmp_path / "none"))
    assert main(["config", "get", "queue.lease_s"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "45\n"
    assert captured.err == "the hub cannot be reached: what this home would give it is shown\n"


def test_a_setting_of_the_hub_is_set_and_unset_there(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["config_change"] = {"settings": {"queue.lease_s": LEASE}}
    assert main(["config", "set", "queue.lease_s", "60"]) == 0
    assert "60" in capsys.readouterr().out
    assert main(["config", "set", "queue.lease_s=60", "queue.max_retries=1", "--json"]) == 0
    assert said(capsys) == {"settings": {"queue.lease_s": LEASE}}
    assert main(["config", "unset", "queue.lease_s", "queue.park_s"]) == 0
    assert hub.asked == [
        m.ConfigChange(set={"queue.lease_s": 60}),
        m.ConfigChange(set={"queue.lease_s": 60, "queue.max_retries": 1}),
        m.ConfigChange(unset=("queue.lease_s", "queue.park_s")),
    ]
    assert not (hub.home.path / "config.toml").exists()


def test_a_setting_that_is_given_twice_is_refused(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "set", "queue.lease_s=60", "queue.lease_s=90"]) == 2
    assert "the same setting is given twice" in capsys.readouterr().err
    assert hub.asked == []


@pytest.mark.parametrize("address", ["nonsense", "tcp://x", "tcp://x:70000", "http://x:7420"])
def test_a_malformed_address_of_the_hub_is_a_usage_error(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    for arguments in (["--hub", address, "task", "list"], ["task", "list", "--hub", address]):
        assert main(arguments) == 2
        assert f"{address!r} is not the address of a hub, which has the form tcp://HOST:PORT" in complaint(capsys)
    assert hub.asked == []


def test_a_malformed_address_of_the_hub_in_the_environment_is_a_usage_error_that_names_the_variable(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCOM_HUB", "nonsense")
    assert main(["task", "list"]) == 2
    said = complaint(capsys)
    assert "AGENTCOM_HUB: 'nonsense' is not the address of a hub, which has the form tcp://HOST:PORT" in said
    assert hub.asked == []


def test_an_address_of_the_hub_that_is_given_goes_before_one_in_the_environment(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answers["task_get"] = task(7)
    monkeypatch.setenv("AGENTCOM_HUB", "nonsense")
    assert main(["task", "show", "7", "--hub", hub.address, "--json"]) == 0


def test_an_empty_address_of_the_hub_counts_as_none(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "show", "7", "--hub", "", "--json"]) == 0
    assert said(capsys) == task(7)


def test_an_address_where_no_hub_is_is_no_usage_error(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("tcp://localhost:1", "tcp://[::1]:1"):
        assert main(["task", "list", "--hub", address]) == 3
        complaint(capsys)


def test_a_negative_number_is_the_value_of_a_setting_and_no_option(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["queue.max_retries", "-5"], ["queue.max_retries=-5"], ["queue.max_retries", "--", "-5"]):
        assert main(["config", "set", *words]) == 4
        assert "queue.max_retries cannot be \"-5\"" in complaint(capsys)
    assert main(["config", "set", "queue.max_retries", "-5", "--json"]) == 4
    assert "queue.max_retries cannot be" in complaint(capsys)
    assert main(["config", "set", "nonsense", "-5"]) == 5
    assert "there is no setting nonsense" in complaint(capsys)
    assert main(["config", "set", "-5"]) == 2
    assert hub.asked == []


def test_a_local_setting_is_written_into_this_homes_config_toml(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hub.home.path / "config.toml"
    assert main(["config", "set", "sandbox.mode", "require", "--json"]) == 0
    mode = {"value": "require", "source": "config.toml", "default": "auto"}
    assert said(capsys) == {"settings": {"sandbox.mode": mode}, "file": str(file)}
    assert file.read_text() == '[sandbox]\nmode = "require"\n'
    monkeypatch.setenv("AGENTCOM_SANDBOX_MODE", "off")
    assert main(["config", "unset", "sandbox.mode"]) == 0
    assert "AGENTCOM_SANDBOX_MODE is set in this environment and comes first" in capsys.readouterr().err
    assert file.read_text() == ""
    assert hub.asked == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["set", "queue.lease_s", "soon"], 4),
        (["set", "sandbox.mode", "sometimes"], 4),
        (["set", "queue.colour", "1"], 5),
        (["unset", "queue.colour"], 5),
        (["set", "queue.lease_s"], 2),
        (["set", "queue.lease_s=1", "sandbox.mode=off"], 2),
        (["unset"], 2),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_asked_or_written(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    assert main(["config", *arguments]) == code
    complaint(capsys)
    assert hub.asked == []
    assert not (hub.home.path / "config.toml").exists()


def entry(n: int, **fields: Any) -> dict[str, Any]:
    told = dict.fromkeys(("outcome", "cause", "code", "by", "until"))
    return {"at": f"2027-01-15T08:00:0{n}.000Z", "event": "held", "attempt": None, **told, **fields}


def test_a_story_is_told_whole_however_many_pages_it_has(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = {
        "event": "ended",
        "attempt": 1,
        "outcome": "failed",
        "code": "exit_1",
        "cause": "it ended with 1",
    }
    pages = {
        None: {"entries": [entry(0, event="submitted", by="ann")], "next_cursor": 1},
        1: {"entries": [entry(1, **ended)], "next_cursor": None},
    }
    hub.answers["task_story"] = lambda op: {"task": 7, "state": "dead", **pages[op.cursor]}
    assert main(["task", "story", "7", "--json"]) == 0
    assert [each["event"] for each in said(capsys)["entries"]] == ["submitted", "ended"]
    assert main(["task", "story", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "task 7 is dead"
    assert lines[-1].split(maxsplit=3) == [
        "2027-01-15T08:00:01.000Z", "ended", "1", "failed: exit_1: it ended with 1",
    ]  # fmt: skip


def test_events_are_told_with_their_fields(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    event = {"number": 4, "at": "2027-01-15T08:00:00.000Z", "topic": "host", "event": "host_offline"}
    hub.answers["event_list"] = {"events": [{**event, "name": "orion", "reason": "gone"}], "next_cursor": 4}
    assert main(["events", "--topic", "host", "--event", "host_offline", "--limit", "1"]) == 0
    captured = capsys.readouterr()
    told = captured.out.splitlines()[-1].split(maxsplit=2)
    assert told == ["2027-01-15T08:00:00.000Z", "host_offline", "name orion, reason gone"]
    assert captured.err == "more with: --cursor 4\n"
    assert hub.asked == [m.EventList(topic="host", event="host_offline", limit=1)]


def test_a_topic_that_there_is_not_is_a_usage_error_with_those_that_there_are(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["events", "--topic", "nonsense"]) == 2
    said = complaint(capsys)
    assert "'nonsense' is not one of 'task', 'agent', 'host', 'endpoint', 'queue', 'hub'" in said
    assert hub.asked == []


def test_an_event_that_there_is_not_is_a_usage_error_with_those_that_there_are(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["events", "--event", "nonsense"]) == 2
    said = complaint(capsys)
    assert "'nonsense' is not one of 'agent_removed', 'agent_unresponsive'," in said
    assert "'host_offline'" in said
    assert hub.asked == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["budget", "set", "all", "-5"], ["'USD'", "-5 is no budget", "0 (no paid work) to", "budget unset all"]),
        (["budget", "set", "all", "-5", "--per", "month"], ["-5 is no budget", "budget unset all --per month"]),
        (["budget", "set", "all", "nan"], ["nan is no budget"]),
        (["queue", "limit", "set", "label:x", "-1"], ["'N'", "-1 is no limit", "1 to 1000000", "limit unset label:x"]),
        (["queue", "limit", "set", "label:x", "0"], ["0 is no limit", "agentcom queue pause"]),
        (["queue", "weight", "set", "repo:x", "-1"], ["-1 is no weight", "1 to 1000", "queue weight unset repo:x"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_number_that_is_out_of_range_is_a_usage_error_that_says_which_are_and_what_to_do(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], arguments: list[str], wanted: list[str]
) -> None:
    assert main(arguments) == 2
    said = complaint(capsys)
    assert [part for part in wanted if part not in said] == [], said
    assert hub.asked == []


def test_an_option_that_there_is_not_is_still_told_as_one(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", "set", "all", "5", "-x"]) == 2
    assert "No such option '-x'" in complaint(capsys)


def test_a_home_without_a_hub_exits_with_3_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTCOM_HOME", str(tmp_path / "none"))
    assert main(["task", "list"]) == 3
    assert "agentcom up" in complaint(capsys)


def test_a_hub_that_does_not_answer_exits_with_3(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentcom.cli.command.REACH_S", 0.3)
    hub.stop()
    assert main(["task", "list"]) == 3
    line = complaint(capsys)
    assert hub.address in line
    assert "agentcom up" in line


def test_a_home_that_others_can_read_is_refused_with_the_remedy(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.home.path.chmod(0o755)
    assert main(["task", "list"]) == 1
    assert f"chmod 700 {hub.home.path}" in complaint(capsys)


def test_a_traceback_comes_only_with_debug(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["task_get"] = NotFound("there is no task 99")
    assert main(["task", "show", "99", "--debug"]) == 5
    assert "Traceback" in capsys.readouterr().err


def test_the_address_can_be_given_before_and_after_the_command(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hub_address(hub.home.run / "hub.json", HubAddress("tcp://127.0.0.1:9", hub.pair.public))
    assert main(["--hub", hub.address, "task", "show", "7", "--json"]) == 0
    assert main(["task", "show", "7", "--hub", hub.address, "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_list_goes_on_until_it_is_as_long_as_asked(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = {None: ([9], 5), 5: ([], 3), 3: ([2], None)}
    hub.answers["task_list"] = lambda op: {
        "tasks": [task(n) for n in pages[op.cursor][0]],
        "next_cursor": pages[op.cursor][1],
    }
    assert main(["task", "list", "--state", "completed", "--json"]) == 0
    found = said(capsys)
    assert [each["id"] for each in found["tasks"]] == [9, 2]
    assert found["next_cursor"] is None
    assert {op.state for op in hub.asked_of(m.TaskList)} == {"completed"}


def test_a_log_is_printed_as_it_is(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    whole = "one\ntwo\n"

    def answer(op: m.TaskLog) -> dict:
        text = whole[op.offset : op.offset + 5]
        return {
            "task": 7, "attempt": 1, "offset": op.offset, "next_offset": op.offset + len(text), "text": text,
            "complete": True, "lost_bytes": 0,
        }  # fmt: skip

    hub.answers["task_log"] = answer
    assert main(["task", "log", "7", "--follow"]) == 0
    assert capsys.readouterr().out == whole
    assert main(["task", "log", "7", "--json"]) == 0
    found = said(capsys)
    assert (found["text"], found["offset"], found["next_offset"]) == (whole, 0, 8)


@pytest.mark.parametrize(
    ("arguments", "op"),
    [
        (["task", "cancel", "3", "--reason", "no"], m.TaskCancel(task=3, reason="no")),
        (["task", "retry", "3"], m.TaskRetry(task=3)),
        (["task", "hold", "3"], m.TaskHold(task=3)),
        (["task", "release", "3"], m.TaskRelease(task=3)),
        (["task", "answer", "3", "Blue.", "--anywhere"], m.TaskAnswer(task=3, text="Blue.", anywhere=True)),
        (["dead", "retry", "3", "4"], m.DeadRetry(tasks=(3, 4))),
        (["dead", "purge", "--all"], m.DeadPurge()),
        (
            ["dead", "purge", "--state", "expired", "--older-than", "60"],
            m.DeadPurge(state="expired", older_than_s=60),
        ),
        (
            ["dead", "retry", "--code", "worker_lost", "--label", "a"],
            m.DeadRetry(code="worker_lost", label="a"),
        ),
        (["agent", "cordon", "Grey Area"], m.AgentCordon(agent="Grey Area")),
        (["agent", "uncordon", "Grey Area"], m.AgentCordon(agent="Grey Area", cordoned=False)),
        (["agent", "remove", "Grey Area"], m.AgentRemove(agent="Grey Area")),
        (["agent", "remove", "Grey Area", "--now"], m.AgentRemove(agent="Grey Area", now=True)),
        (["host", "remove", "box"], m.HostRemove(host="box")),
        (["host", "remove", "box", "--now"], m.HostRemove(host="box", now=True)),
        (["host", "drain", "box"], m.HostDrain(host="box")),
        (["host", "drain", "box", "--undo"], m.HostDrain(host="box", draining=False)),
        (["host", "accept-key", "box", "ab" * 32], m.HostAcceptKey(host="box", key="ab" * 32)),
        (["queue", "pause"], m.QueuePause()),
        (["queue", "resume"], m.QueuePause(paused=False)),
        (["queue", "pause", "--tier", "complex"], m.QueuePause(tier=Tier.complex)),
        (["queue", "pause", "--host", "box"], m.QueuePause(host="box")),
        (["queue", "resume", "--repo", "https://a/b"], m.QueuePause(paused=False, repo="https://a/b")),
        (["queue", "limit", "set", "label:deploy", "2"], m.QueueLimit(key="label:deploy", number=2)),
        (["queue", "limit", "unset", "label:deploy"], m.QueueLimit(key="label:deploy")),
        (["queue", "weight", "set", "submitter:ann", "3"], m.QueueWeight(key="submitter:ann", number=3)),
        (["queue", "weight", "unset", "submitter:ann"], m.QueueWeight(key="submitter:ann")),
        (["endpoint", "add", "http://10.0.0.9:11434"], m.EndpointAdd(url="http://10.0.0.9:11434")),
        (
            ["endpoint", "add", "http://127.0.0.1:11434", "--host", "box", "--cap", "2", "--num-ctx", "4096"],
            m.EndpointAdd(url="http://127.0.0.1:11434", host="box", cap=2, num_ctx=4096),
        ),
        (["endpoint", "update", "gpu", "--cap", "3"], m.EndpointUpdate(endpoint="gpu", cap=3)),
        (["endpoint", "remove", "gpu"], m.EndpointRemove(endpoint="gpu")),
        (["endpoint", "remove", "gpu", "--now"], m.EndpointRemove(endpoint="gpu", now=True)),
        (["endpoint", "probe", "gpu"], m.EndpointProbeNow(endpoint="gpu")),
        (["token", "revoke", "ci"], m.TokenRevoke(name="ci")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_asks_for_one_operation(hub: FakeHub, arguments: list[str], op: Any) -> None:
    hub.answers[op.__struct_config__.tag] = {
        "id": 3, "state": "ready", "tasks": [3], "purged": 1, "name": "gpu", "url": "u", "cap": 1,
        "fingerprint": "3475:0f98",
    }  # fmt: skip
    assert main(arguments) == 0
    assert hub.asked == [op]


@pytest.mark.parametrize("key", ["zzz", "3475:0f98", "AB" * 32, "ab" * 33])
def test_what_is_no_signing_key_is_told_what_one_looks_like_and_where_it_stands(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert main(["host", "accept-key", "box", key]) == 2
    said = complaint(capsys)
    assert "a signing key has 64 hex digits (0-9, a-f)" in said
    assert "the log of the sidecar that was refused has this command" in said
    assert "regex" not in said
    assert hub.asked == []


def test_a_loopback_endpoint_belongs_to_this_machines_host(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answers["endpoint_add"] = {"id": 1, "name": "local", "url": "u"}
    monkeypatch.setenv("AGENTCOM_SIDECAR_NAME", "box")
    assert main(["endpoint", "add", "http://localhost:11434"]) == 0
    assert hub.asked[0].host == "box"


def test_a_new_token_is_printed_once_and_only_its_hash_is_sent(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["token_add"] = {"name": "ci", "role": "view"}
    assert main(["token", "add", "ci", "--role", "view", "--json"]) == 0
    found = said(capsys)
    assert hub.asked == [m.TokenAdd(name="ci", role=Role.view, token_sha256=sha256_hex(found["token"]))]


def test_a_link_carries_its_secret_in_the_fragment(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["token_link"] = {"expires": "soon"}
    write_start(hub.home, Start("http://127.0.0.1:7999", "", "", "", os.getpid(), ""))
    assert main(["token", "link"]) == 0
    address, _, secret = capsys.readouterr().out.strip().partition("/#link=")
    assert address == "http://127.0.0.1:7999"
    assert hub.asked[0].secret_sha256 == sha256_hex(secret)


@pytest.fixture
def invitation(hub: FakeHub) -> dict[str, Any]:
    answer = {
        "address": hub.address, "hub_key": hub.pair.public, "expires": "soon", "loopback_only": True, "note": "",
    }  # fmt: skip
    hub.answers["host_invite"] = answer
    return answer


def test_an_invitation_of_a_loopback_hub_names_the_settings(
    hub: FakeHub, invitation: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["host", "invite"]) == 0
    captured = capsys.readouterr()
    assert parse_join_code(captured.out).address == hub.address
    assert "hub.bind" in captured.err
    assert "hub.public_address" in captured.err


def joining(
    hub: FakeHub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    role: str = "host",
) -> str:
    """A code of `hub` for `role`; from here on commands run in `home`."""
    assert main(["host", "invite", "--role", role]) == 0
    monkeypatch.setenv("AGENTCOM_HOME", str(home))
    return capsys.readouterr().out.strip()


def test_joining_makes_the_hosts_keys_and_enrols_them(
    hub: FakeHub,
    invitation: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code = joining(hub, capsys, monkeypatch, tmp_path / "b")
    assert main(["join", code, "--name", "box", "--json"]) == 0
    assert said(capsys)["name"] == "box"
    home = Home(tmp_path / "b")
    (enrolled,) = hub.enrolled
    assert enrolled.key == load_key(home.keys / "host.key").public
    assert len(enrolled.signing_key or "") == 64
    assert json.loads((home.keys / "hub.json").read_bytes()) == {"hub": hub.address, "key": hub.pair.public}
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.keys.iterdir())


@pytest.mark.parametrize("written", ["", '[sandbox]\nmode = "auto"\n'])
def test_a_host_that_joins_requires_isolation_unless_its_owner_has_said_otherwise(
    written: str,
    hub: FakeHub,
    invitation: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code = joining(hub, capsys, monkeypatch, tmp_path / "b")
    file = Home(tmp_path / "b").prepare().path / "config.toml"
    file.write_text(written)
    file.chmod(0o600)
    assert main(["join", code, "--name", "box"]) == 0
    assert file.read_text() == (written or '[sandbox]\nmode = "require"\n')


def test_the_same_code_again_gives_the_same_answer_and_another_is_refused(
    hub: FakeHub,
    invitation: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code = joining(hub, capsys, monkeypatch, tmp_path / "b")
    monkeypatch.setattr("sys.stdin", io.StringIO(code + "\n"))
    assert main(["join", "-", "--name", "box"]) == 0
    assert main(["join", code]) == 0
    assert "as box" in capsys.readouterr().out
    assert len(hub.enrolled) == 1
    monkeypatch.setenv("AGENTCOM_HOME", str(hub.home.path))
    other = joining(hub, capsys, monkeypatch, tmp_path / "b")
    assert main(["join", other]) == 1
    assert "has joined already, as box" in complaint(capsys)


def test_a_home_with_a_hub_of_its_own_does_not_join_another(
    hub: FakeHub,
    invitation: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    invitation["hub_key"] = KeyPair.make().public
    code = joining(hub, capsys, monkeypatch, hub.home.path)
    assert main(["join", code]) == 1
    assert "hub of its own" in complaint(capsys)


def test_what_is_not_a_join_code_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTCOM_HOME", str(tmp_path / "b"))
    assert main(["join", "nonsense"]) == 1
    assert "host invite" in complaint(capsys)


NO_BUDGET = {
    "budget_list": {"budgets": [], "attempt_usd": 2.0, "counted_usd": {}, "held": 0},
    "endpoint_list": {"endpoints": []},
}


def test_the_doctor_looks_at_everything(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["hub_status"] = {
        "version": __version__,
        "scheduler": "cython",
        "started": "now",
        "paused": False,
        "pauses": ["tier:complex"],
    }
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    hub.answers["host_list"] = {"hosts": [{"name": "box", "state": "offline", "last_seen": "then"}]}
    hub.answers["queue_stats"] = {}
    hub.answers |= NO_BUDGET
    assert main(["doctor", "--json"]) == 0
    found = said(capsys)
    assert found["ok"] is True
    assert {"versions", "home", "settings", "keys", "scheduler", "git", "sandbox", "hub"} <= {
        check["name"] for check in found["checks"]
    }
    paused = next(check for check in found["checks"] if check["name"] == "queue")
    assert (paused["detail"], paused["hint"]) == (
        "the tier complex is paused",
        "run `agentcom queue resume --tier complex`",
    )
    sandbox = next(check for check in found["checks"] if check["name"] == "sandbox")
    assert sandbox["detail"].split(":")[0] in ("bubblewrap", "none")


@pytest.mark.parametrize(
    ("mode", "found", "status", "words"),
    [
        ("auto", isolation.BUBBLEWRAP, "ok", "a command was tried out and was isolated"),
        ("auto", isolation.Isolation("none", "bubblewrap is not installed", "install it"), "warn", "not installed"),
        ("require", isolation.Isolation("none", "no namespaces", "use sysctl"), "fail", "no namespaces"),
        ("off", isolation.BUBBLEWRAP, "warn", 'sandbox.mode is "off"'),
    ],
)
def test_the_doctor_says_what_isolates_and_what_to_do_where_nothing_does(
    mode: str,
    found: isolation.Isolation,
    status: str,
    words: str,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AGENTCOM_SANDBOX_MODE", mode)
    monkeypatch.setattr(isolation, "_found", found)
    monkeypatch.setattr(guards, "kind", lambda: "compiled")
    main(["doctor", "--json"])
    sandbox = next(check for check in said(capsys)["checks"] if check["name"] == "sandbox")
    assert sandbox["status"] == status
    assert words in sandbox["detail"]
    assert isolation.known(mode).remedy in sandbox["hint"]  # type: ignore[arg-type]


def test_the_doctor_says_which_program_is_offered_and_is_not_well(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    for name, status in (("codex", 3), ("gemini", 4)):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho no node here\nexit {status}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("AGENTCOM_PROGRAMS_OFFER", "codex,opencode")
    assert main(["doctor", "--json"]) == 1
    checks = [check for check in said(capsys)["checks"] if check["name"] in ("program", "programs")]
    told = {check["detail"].split()[0]: check["hint"] for check in checks if check["status"] == "fail"}
    assert told.keys() == {"codex", "opencode"}, "gemini is not offered"
    assert told["codex"].startswith("it ended with 3 when it was asked for its version: no node here")
    assert "install" in told["opencode"]
    assert "gemini (broken) (not in programs.offer)" in checks[-1]["detail"]


def test_the_doctor_says_where_commands_start_slower_for_want_of_a_compiler(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(isolation, "_found", isolation.BUBBLEWRAP)
    monkeypatch.setattr(guards, "kind", lambda: "python")
    main(["doctor", "--json"])
    sandbox = next(check for check in said(capsys)["checks"] if check["name"] == "sandbox")
    assert (sandbox["status"], "its guard is python" in sandbox["detail"]) == ("warn", True)
    assert "C compiler" in sandbox["hint"]


SCRUBBED = {"rows": 12, "rounds": 3, "damaged": ""}
STORE = {
    "file_bytes": 40960, "used_bytes": 20480, "map_bytes": 2**30, "free_pages": 5, "alarms": [],
    "databases": {"tasks": {"rows": 3, "bytes": 4096}, "feed": {"rows": 0, "bytes": 0}},
}  # fmt: skip


def test_the_doctor_gives_rows_and_bytes_of_each_database_and_the_free_pages(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["hub_status"] = {
        "version": __version__, "scheduler": "cython", "started": "now", "store": STORE, "troubles": [],
    }  # fmt: skip
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    hub.answers["host_list"] = {"hosts": []}
    hub.answers["queue_stats"] = {}
    hub.answers |= NO_BUDGET
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in said(capsys)["checks"]}
    assert checks["databases"]["figures"] == STORE["databases"]
    assert (checks["store"]["figures"]["free_pages"], checks["store"]["figures"]["used_bytes"]) == (5, 20480)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "20 KiB free (5 pages) in a file of 40 KiB" in text
    assert "databases: rows (bytes) tasks 3 (4 KiB)" in text
    assert "feed" not in text


@pytest.mark.parametrize("setting", ["hub.map_gib", "hub.map_mib"])
def test_how_full_the_store_is_names_the_setting_that_counts(setting: str) -> None:
    text = dict(storage.lines({**STORE, "map_setting": setting}))[storage.STORE]
    assert text.endswith(f"in a file of 40 KiB, 0.0% of {setting}")


def test_the_doctor_says_when_the_store_was_restored_what_is_missing_and_what_may_be_deleted(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = "/home/x/store/data.mdb.set-aside-1"
    repair = {
        "at": "2027-01-15T08:00:00Z", "why": "the store is damaged: page 3", "backup": "backup-40.mdb", "replayed": 13,
        "sequence": 53, "missing": [], "set_aside": aside, "seen": False,
    }  # fmt: skip
    asked = {**repair, "why": "", "backup": "", "missing": ["batches 54 to 55 are nowhere"], "set_aside": ""}
    seen = {**repair, "seen": True}
    hub.answers["hub_status"] = {
        "version": __version__, "scheduler": "cython", "started": "now", "troubles": [],
        "store": {**STORE, "repairs": [repair, asked, seen], "set_aside": [{"path": aside, "bytes": 4096}] * 7},
    }  # fmt: skip
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    hub.answers["host_list"] = {"hosts": []}
    hub.answers["queue_stats"] = {}
    hub.answers |= NO_BUDGET
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(n for n, one in enumerate(lines) if "restored:" in one)
    by_itself, where, by_hand, to_do, known, still, files, hint = lines[first : first + 8]
    assert by_itself == (
        "warn  restored: at 2027-01-15T08:00:00Z, because the store is damaged: page 3; from backup-40.mdb and "
        "13 batches of the journal, to batch 53; no batch is known to be missing"
    )
    kept = f"the file from before is {aside}; delete it when nobody wants to see it"
    acknowledge = "when you have seen it: agentcom backup acknowledge"
    assert where.strip() == f"{acknowledge}; {kept}"
    assert by_hand == (
        "warn  restored: at 2027-01-15T08:00:00Z, as was asked for; from 13 batches of the journal alone, "
        "to batch 53; missing: batches 54 to 55 are nowhere"
    )
    assert to_do.strip() == acknowledge
    assert (known, still.strip()) == (by_itself.replace("warn", "ok  "), kept)
    assert files == f"ok    set aside: 28 KiB in {', '.join([aside] * 5)} and 2 more beside them"
    assert "delete it" in hint
    assert main(["doctor", "--json"]) == 0
    assert repair in [check["figures"] for check in said(capsys)["checks"]]


def test_the_statistics_of_the_queue_show_the_free_pages(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["queue_stats"] = {"paused": False, "by_state": {}, "store": STORE}
    assert main(["queue", "stats"]) == 0
    assert "(5 pages)" in capsys.readouterr().out


def wall(s: float) -> str:
    """The time so many seconds from now, as the hub tells it."""
    return rfc3339(int((time.time() + s) * 1000)) or ""


def chore(number: int, kind: str, **fields: Any) -> dict[str, Any]:
    """Work on the store as the hub shows it, ended well unless `fields` say otherwise."""
    return {
        "number": number, "kind": kind, "state": "done", "by_itself": False, "started": wall(-700),
        "ended": wall(-600.5), "error": None, "result": None, **fields,
    }  # fmt: skip


LIST = {
    "backups": [], "count": 0, "verified": 0, "unreadable": None, "newest": None, "age_s": None, "needed": False,
    "error": None, "running": None, "next": None, "every_s": 0, "keep": 3, "folder": "/b", "chores": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"count": 3, "verified": 3}, "2 min old, verified, backup-8.mdb, 3 kept"),
        ({"count": 3, "verified": 2}, "2 min old, verified, backup-8.mdb, 2 kept, 1 more that a restore does not take"),
        ({"count": 4, "verified": 2}, "2 min old, verified, backup-8.mdb, 2 kept, 2 more that a restore does not take"),
        ({"count": 2, "newest": None}, "none that passes"),
        ({"newest": None, "next": "noon"}, "none yet; the next is due noon"),
        ({"newest": None, "next": "noon", "unreadable": "cannot list /b: no"}, "cannot list /b: no"),
    ],
)
def test_only_backups_that_pass_count_as_kept_and_none_is_said_only_where_that_is_known(
    fields: dict[str, Any], text: str
) -> None:
    newest = {"verified": True, "name": "backup-8.mdb"}
    assert storage.last_backup({**LIST, "age_s": 150, "newest": newest, **fields}) == text


def test_the_list_says_why_the_folder_of_backups_cannot_be_read(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["backup_list"] = {**LIST, "unreadable": "cannot list /b: no; set backups.folder"}
    assert main(["backup", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cannot list /b: no; set backups.folder",
        "kept: 3, in /b; next: by hand only",
    ]


ON_DISK = {
    **STORE, "journal": {"bytes": 1, "covered_from": 1, "last": 2}, "backups": LIST, "scrub": SCRUBBED,
    "compaction": {"last": None},
}  # fmt: skip


@pytest.mark.parametrize(("ended", "said"), [("noon", "failed at noon: no room"), (None, "failed: no room")])
def test_a_compaction_that_failed_is_told_with_the_figures_and_by_the_doctor(ended: str | None, said: str) -> None:
    failed = {"ended": ended, "error": {"code": "storage_full", "message": "no room"}}
    found = {one.name: one for one in doctor.store_findings({**ON_DISK, "compaction": {"last": failed}}, [])}
    assert (found["compaction"].status, found["compaction"].detail) == ("warn", f"the last one {said}")
    assert "compaction" not in dict(storage.lines(ON_DISK))


def test_a_folder_of_backups_that_cannot_be_read_is_no_ok_for_the_doctor() -> None:
    backups = {**LIST, "unreadable": "cannot list /b: no; set backups.folder"}
    store = {**ON_DISK, "backups": backups}
    found = {one.name: one for one in doctor.store_findings(store, [])}
    assert (found["last backup"].status, found["last backup"].detail) == ("warn", backups["unreadable"])
    assert found["scrub"].status == "ok"


def test_damage_that_the_scrubber_has_found_is_no_ok_for_the_doctor() -> None:
    damaged = "cannot read the record 0a of 'tasks': its checksum does not fit its content"
    store = {**ON_DISK, "scrub": {**SCRUBBED, "damaged": damaged}}
    found = {one.name: one for one in doctor.store_findings(store, [])}
    assert (found["scrub"].status, found["scrub"].detail) == ("fail", f"damage was found: {damaged}")
    assert "start the hub again" in found["scrub"].hint


def test_the_list_of_backups_says_what_is_under_way_on_the_store_and_how_the_last_ended(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = {
        "name": "backup-2.mdb", "passes": False, "condition": "damaged", "sequence": None, "rows": None,
        "problems": ["pages lost", "a leak", "no end"],
    }  # fmt: skip
    made = {"name": "backup-2.mdb", "bytes": 45056, "rows": 27, "sequence": 8}
    rows = {"meta": 4, "tasks": 5}
    good = {**damaged, "passes": True, "condition": "good", "rows": rows, "sequence": 8, "problems": []}
    failed = {"code": "store_full", "message": "no room for the copy: free 4 MiB " + "x" * 300}
    chores = [
        chore(6, "backup", state="running", started=wall(-150), ended=None),
        chore(5, "backup", state="failed", error=failed),
        chore(4, "verify", result=damaged),
        chore(3, "verify", result=good),
        chore(2, "verify", state="failed", error={"code": "store", "message": "cut off"}, ended=None),
        chore(2, "compact", result={"before_bytes": 86016, "after_bytes": 45056, "stopped_ms": 1}),
        chore(1, "backup", by_itself=True, result=made),
    ]
    hub.answers["backup_list"] = {**LIST, "chores": chores, "error": failed["message"]}
    assert main(["backup", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ended = f"{chores[1]['ended']} (10 min ago)"
    assert lines[-7:] == [
        f"  backup 6   under way, begun {chores[0]['started']} (2 min ago)",
        f"  backup 5   failed, {ended}: {failed['message']}",
        f"  verify 4   not passed, {ended}: backup-2.mdb: damaged; pages lost and 2 more",
        f"  verify 3   ok, {ended}: backup-2.mdb: good, 9 rows, batch 8",
        f"  verify 2   failed, begun {chores[4]['started']} (11 min ago): cut off",
        f"  compact 2  ok, {ended}: 84 KiB before, 44 KiB now; the hub stood still for 1 ms",
        f"  backup 1   ok, {ended}, by itself: backup-2.mdb: 44 KiB, 27 rows, batch 8, verified",
    ]
    assert sum(failed["message"] in line for line in lines) == 1


def test_why_no_backup_could_be_begun_is_said_where_no_chore_does(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["backup_list"] = {**LIST, "error": "no process could be started"}
    assert main(["backup", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the last one failed: no process could be started"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (None, ""), (300, "1 KiB"), (53248, "52 KiB"), (2**20, "1 MiB"), (3 * 2**30, "3.0 GiB")],
)
def test_the_size_of_a_small_file_is_not_told_as_0_mib(count: int | None, text: str) -> None:
    assert output.size(count) == text


def test_who_changes_the_folder_of_backups_is_told_to_move_the_old_ones(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["config", "set", "backups.folder", str(tmp_path / "other")]) == 0
    assert "move each .mdb with its .json" in capsys.readouterr().err


def test_the_doctor_says_which_stored_setting_is_ignored_and_why(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["hub_status"] = {"version": __version__, "scheduler": "cython", "started": "now"}
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    hub.answers["host_list"] = {"hosts": []}
    hub.answers["queue_stats"] = {
        "settings": {"stored": ["queue.lease_s"], "ignored": {"queue.lease_s": "too short"}}
    }
    hub.answers |= NO_BUDGET
    assert main(["doctor", "--json"]) == 0
    (found,) = [check for check in said(capsys)["checks"] if check["name"] == "stored setting"]
    assert found["status"] == "warn"
    assert found["detail"] == "queue.lease_s was set and does not apply: too short"
    assert "agentcom config unset queue.lease_s" in found["hint"]


def budget_of(usd: float, left_usd: float, held: int = 0, per: str = "day") -> dict:
    return {"key": "all", "per": per, "usd": usd, "left_usd": left_usd, "held": held}


@pytest.mark.parametrize(
    ("budgets", "kind", "status", "words"),
    [
        ([], "ollama", None, ""),
        ([], "anthropic", "warn", "claude-1 costs money, and no budget is set"),
        ([budget_of(20, 19)], "anthropic", "ok", "1.00 of 20.00 USD are spent or reserved"),
        ([budget_of(20, 4)], "ollama", "warn", "nearly reached: 16.00 of 20.00"),
        ([budget_of(20, 1.5, held=3)], "ollama", "warn", "no further attempt fits; tasks that it holds: 3"),
        ([budget_of(0, 0)], "ollama", "warn", "0.00 of 0.00 USD"),
    ],
)
def test_the_doctor_says_which_budget_is_reached_or_nearly_and_where_there_is_none(
    budgets: list, kind: str, status: str | None, words: str
) -> None:
    found = {"budgets": budgets, "attempt_usd": 2.0}
    told = list(doctor.budget_findings(found, [{"name": "claude-1", "kind": kind}]))
    assert [one.status for one in told] == ([status] if status else [])
    assert all(words in one.detail for one in told)
    if status == "warn":
        assert "agentcom budget set all" in told[0].hint


def test_the_doctor_names_a_key_that_others_can_read(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["hub_status"] = {"version": __version__, "scheduler": "cython", "started": "now"}
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    (hub.home.keys / "hub.key").chmod(0o644)
    assert main(["doctor", "--json"]) == 1
    keys = next(check for check in said(capsys)["checks"] if check["name"] == "keys")
    assert (keys["status"], "hub.key" in keys["detail"], "chmod 600" in keys["hint"]) == ("fail", True, True)


def test_the_doctor_refuses_a_home_on_a_network_file_system_as_the_hub_does(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "file_system", lambda _path: "nfs4")
    with pytest.raises(StoreError) as refused:
        start.open_store(start.StorePaths.of_home(hub.home.path))
    assert main(["doctor", "--json"]) == 1
    (home,) = [check for check in said(capsys)["checks"] if check["name"] == "home"]
    assert (home["status"], home["detail"]) == ("fail", refused.value.message)
    assert "set AGENTCOM_HOME to a directory on a local disk" in home["detail"]
    (hub.home.keys / "hub.key").unlink()
    main(["doctor", "--json"])
    (home,) = [check for check in said(capsys)["checks"] if check["name"] == "home"]
    assert home["status"] != "fail", "no hub is of this home: it has keys of others"


def test_the_demo_ends_with_0_only_when_it_was_verified(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["task_wait"] = task(7)
    assert main(["demo"]) == 0
    assert "verified by Grey Area on box" in capsys.readouterr().out
    hub.answers["task_wait"] = task(7, result={**task()["result"], "status": "partial_pass"})
    assert main(["demo", "--json"]) == 1
    kinds = {check.kind for check in hub.asked_of(m.Submit)[0].tasks[0].checks}
    assert kinds == {"file_exists", "command_succeeds"}


def test_the_demo_says_so_when_the_folder_is_no_repository(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.answers["task_wait"] = task(7)
    assert main(["demo", "--repo", str(tmp_path)]) == 0
    assert "not a git repository with a commit, so in an empty workspace" in capsys.readouterr().out
    assert hub.asked_of(m.Submit)[0].tasks[0].repo is None


def test_a_repository_without_a_commit_is_not_usable(tmp_path: Path) -> None:
    os.system(f"git init -q {tmp_path}/r")
    assert usable_repository(tmp_path / "r") is None
    os.system(
        f"git -C {tmp_path}/r -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m one"
    )
    assert usable_repository(tmp_path / "r") == str((tmp_path / "r").resolve())


def test_no_escape_sequence_of_a_task_reaches_the_terminal(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = task(7, description="x\x1b]0;owned\x07y")
    hub.answers["task_list"] = {"tasks": [nasty], "next_cursor": None}
    hub.answers["task_get"] = nasty
    assert main(["task", "list"]) == 0
    assert main(["task", "show", "7"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.85, "850 ms"),
        (1.5, "1.5 s"),
        (45, "45 s"),
        (150, "2 min"),
        (7300, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_durations_are_told_in_the_largest_unit_that_fits(value: float | None, text: str) -> None:
    assert output.seconds(value) == text


def test_why_walks_the_pages_of_hosts_and_shows_the_ways_that_are_open(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    def page(op: m.TaskWhy) -> Any:
        name = "two" if op.cursor else "one"
        way = {"host": "two", "agent": "two-1", "cost_us": 2_500_000, "parts": {"run": 2_000_000, "load": 500_000}}
        return {
            "id": 7, "state": "ready", "shows": "present", "reason": "it is next", "ways": [way],
            "hosts": [{"host": name, "fails": "", "message": "it can run here now", "change": ""}],
            "next_cursor": None if op.cursor else 1,
        }  # fmt: skip

    hub.answers["task_why"] = page
    assert main(["task", "why", "--now", "7"]) == 0
    told = capsys.readouterr().out
    assert ("one" in told, "two-1" in told, "2.5 s" in told, "run 2.0 s, load 0.5 s" in told) == (True,) * 4
    assert [(op.now, op.cursor) for op in hub.asked_of(m.TaskWhy)] == [(True, None), (True, 1)]
