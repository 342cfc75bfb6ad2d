"""The command line: names, options, addresses of the hub, exit codes, one line for an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from agentcom import __version__
from agentcom import messages as m
from agentcom.auth import HubAddress, write_hub_address
from agentcom.cli import main, root
from agentcom.errors import NotFound, Refused
from agentcom.model import Tier
from tests.command_line import complaint, said
from tests.fake_hub_requests import FakeHub, task


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


def test_a_loopback_endpoint_belongs_to_this_machines_host(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answers["endpoint_add"] = {"id": 1, "name": "local", "url": "u"}
    monkeypatch.setenv("AGENTCOM_SIDECAR_NAME", "box")
    assert main(["endpoint", "add", "http://localhost:11434"]) == 0
    assert hub.asked[0].host == "box"


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


def test_an_option_that_there_is_not_is_still_told_as_one(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", "set", "all", "5", "-x"]) == 2
    assert "No such option '-x'" in complaint(capsys)


def test_a_pause_is_of_one_thing(hub: FakeHub) -> None:
    assert main(["queue", "pause", "--tier", "complex", "--host", "box"]) == 2
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


def test_a_refusal_keeps_the_hubs_code_and_hint(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["queue_pause"] = Refused("forbidden", "this needs operate", retry_after_s=2)
    assert main(["queue", "pause"]) == 4
    assert complaint(capsys) == "agentcom: refused (forbidden): this needs operate; try again in 2 s"


def test_what_is_not_there_exits_with_5(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["task_get"] = NotFound("there is no task 99")
    assert main(["task", "show", "99"]) == 5
    assert "99" in complaint(capsys)


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


def test_the_address_can_be_given_before_and_after_the_command(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hub_address(hub.home.run / "hub.json", HubAddress("tcp://127.0.0.1:9", hub.pair.public))
    assert main(["--hub", hub.address, "task", "show", "7", "--json"]) == 0
    assert main(["task", "show", "7", "--hub", hub.address, "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
