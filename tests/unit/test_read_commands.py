"""Commands that read: one JSON document for programs, lines for people."""

from __future__ import annotations

import pytest

from agentcom import messages as m
from agentcom.cli import main, output
from tests.command_line import complaint, said
from tests.fake_hub_requests import FakeHub, task

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


def test_a_state_that_no_dead_letter_has_is_refused_with_those_that_one_can_have(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead", "list", "--state", "completed"]) == 4
    assert capsys.readouterr().err.endswith("it is one of dead, expired, cancelled\n")


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


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (None, ""), (300, "1 KiB"), (53248, "52 KiB"), (2**20, "1 MiB"), (3 * 2**30, "3.0 GiB")],
)
def test_the_size_of_a_small_file_is_not_told_as_0_mib(count: int | None, text: str) -> None:
    assert output.size(count) == text
