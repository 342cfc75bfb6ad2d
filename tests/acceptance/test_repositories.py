"""A registered repository from end to end: its check always runs, attempts work side by side, one goes on where another
has stopped, and the host's disk is told of and cleaned."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.world import World, eventually, make_repository


def bare(folder: Path, files: dict[str, str]) -> Path:
    make_repository(folder / "theirs", files)
    origin = folder / "origin.git"
    subprocess.run(["git", "clone", "-q", "--bare", "theirs", str(origin)], cwd=folder, check=True)
    return origin


def show(origin: Path, name: str) -> str:
    found = subprocess.run(["git", "show", name], cwd=origin, check=True, capture_output=True, text=True)
    return found.stdout


def meets(folder: Path, mine: str, other: str) -> str:
    """A command that ends only when the other one runs at the same time."""
    wait = f"while [ ! -e '{folder / other}' ]; do sleep 0.05; done"
    return f"touch '{folder / mine}'; {wait}; echo {mine} > {mine}.txt"


def submit(world: World, text: str, command: str, *options: str) -> int:
    given = ("--repo", "engine", "--no-verify", "--timeout", "30", "--command", command)
    return int(world.json("hub", "submit", text, *given, *options)["id"])


def checks_of(done: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["kind"], one["source"], one["status"]) for one in done["result"]["iterations"][-1]["checks"]]


def told(world: World, task: int) -> tuple[Any, ...] | None:
    """What `git status --all` on the hub's machine, which runs no sidecar, says of the task's worktree."""
    trees = world.json("hub", "git", "status", "--all")["worktrees"]
    one = next((each for each in trees if each["task"] == task), None)
    return one and tuple(one[name] for name in ("host", "branch", "ahead", "unpushed", "uncommitted"))


def test_a_registered_repository_two_attempts_at_once_a_dependant_on_one_and_clean_up(world: World) -> None:
    origin = bare(world.folder, {"README.md": "engine\n"})
    world.hub()
    world.join("box")
    world.sidecar("box", AGENTCOM_SIDECAR_AGENTS="2", AGENTCOM_SIDECAR_WORKTREES_S="1")
    client = world.client()
    made = world.json("hub", "repo", "add", "engine", str(origin), "--check", "file_exists=README.md", "--host", "box")
    assert (made["url"], made["hosts"]) == (str(origin), ["box"])

    first = submit(world, "Write one", meets(world.folder, "one", "two"))
    second = submit(world, "Write two", meets(world.folder, "two", "one"))
    third = submit(world, "Go on", "cat one.txt > seen.txt", "--after", str(first), "--base", "predecessor")
    done = {task: client.wait(task, timeout_s=60) for task in (first, second, third)}
    assert {each["state"] for each in done.values()} == {"completed"}, done
    always = [("file_exists", "repository", "pass")]
    assert [checks_of(each) for each in done.values()] == [always] * 3
    assert {each["result"]["status"] for each in done.values()} == {"verified"}
    assert all(each["result"]["pushed"] for each in done.values())
    assert show(origin, f"{done[third]['result']['branch']}:seen.txt") == "one\n"
    base = show(origin, f"{done[third]['result']['branch']}^:one.txt")
    assert base == "one\n"

    loose = world.home("box") / "sidecar" / "work" / f"{second}-1" / "loose.txt"
    loose.write_text("not committed\n")
    records = world.home("box") / "sidecar" / "attempts"
    eventually("no attempt is on record", lambda: not list(records.glob("*.attempt")))
    found = {each["task"]: each for each in world.json("box", "git", "status")["worktrees"]}
    assert {task: (one["ahead"], one["unpushed"], one["uncommitted"]) for task, one in found.items()} == {
        first: (1, 0, 0),
        second: (1, 0, 1),
        third: (1, 0, 0),
    }
    assert found[third]["base_branch"] == done[first]["result"]["branch"]
    there = ("box", found[second]["branch"], 1, 0, 1)
    eventually("the hub knows what lies there", lambda: told(world, second) == there)
    gone = world.json("box", "git", "gc", "--older-than", "0")
    assert [each["task"] for each in gone["removed"]] == [first, third]
    assert [(each["task"], each["why"]) for each in gone["kept"]] == [(second, "1 uncommitted files")]
    assert loose.exists()
