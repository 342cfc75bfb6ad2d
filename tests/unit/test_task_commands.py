"""`agentcom task show`, `why`, `story` and `log`: what people are told of a task, its times and its result."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agentcom import messages as m
from agentcom.cli import main
from tests.command_line import said
from tests.fake_hub_requests import FakeHub, task, wall


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


def test_a_check_that_was_run_twice_is_shown_with_both_verdicts(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = {"kind": "test_passes", "target": "", "status": "fail", "before": "fail", "with_base": "fail", "output": ""}
    result = {"status": "partial_pass", "duration_ms": 1, "iterations": [{"n": 1, "status": "fail", "checks": [ran]}]}
    hub.answers["task_get"] = lambda op: task(op.task) | {"result": result}
    assert main(["task", "show", "1"]) == 0
    assert "fail test_passes (fail with the tests of the base)" in capsys.readouterr().out


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
