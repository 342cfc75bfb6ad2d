"""`agentcom repo` in words: what a repository that moves takes along."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentcom.cli import main
from tests.fake_hub_requests import FakeHub

OLD, NEW = "https://git.example/engine", "https://git.example/moved"
VIEW: dict[str, Any] = {
    "id": 1, "name": "engine", "url": NEW, "default_branch": None, "hosts": [], "checks": [], "live_tasks": 0,
}  # fmt: skip
UPDATE = ["repo", "update", "engine", "--url", NEW]


def test_a_repository_that_moves_says_what_went_with_it_and_what_stayed(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["repo_update"] = answer = {
        **VIEW,
        "moved": [
            {"kind": "pause", "key": f"repo:{NEW}"},
            {"kind": "budget", "key": f"repo:{NEW}", "usd": 20.0, "per": "month"},
        ],
        "stayed": [{"kind": "limit", "key": f"repo:{OLD}", "number": 3}],
    }
    assert main(UPDATE) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "  goes to this address with it: pause, budget 20 USD per month",
        f"  limit 3 stays at {OLD}: the new address has a limit of its own, which stands",
    ]
    assert main([*UPDATE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer


def test_one_that_is_registered_says_what_came_to_it_from_another_spelling_and_what_stays_there(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "git@git.example:engine"
    hub.answers["repo_add"] = answer = {
        **VIEW,
        "moved": [{"kind": "limit", "key": f"repo:{NEW}", "number": 3}],
        "stayed": [{"kind": "pause", "key": f"repo:{other}"}],
    }
    assert main(["repo", "add", "engine", NEW]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "  goes to this address with it: limit 3",
        f"  pause stays at {other}: the new address has a pause of its own, which stands",
    ]
    assert main(["repo", "add", "engine", NEW, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer


@pytest.mark.parametrize("more", [{"moved": [], "stayed": []}, {}], ids=["nothing was set", "an older hub"])
def test_where_nothing_moved_nothing_is_said_of_it(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], more: dict[str, Any]
) -> None:
    hub.answers["repo_update"] = {**VIEW, **more}
    assert main(UPDATE) == 0
    assert capsys.readouterr().out.endswith("  tasks that are not over: 0\n")
