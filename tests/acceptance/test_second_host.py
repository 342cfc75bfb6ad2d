"""A second host from end to end: two sidecars and a bare repository between them. What passes in the worktree of the
first and not in a clean clone is found out."""

from __future__ import annotations

from typing import Any

from tests.acceptance.test_repositories import bare
from tests.world import World

HELLO = "echo hello > hello.txt; echo built > build.out"


def submit(world: World, origin: str, check: str) -> dict[str, Any]:
    given = ("--repo", origin, "--second-host", "--command", HELLO, "--timeout", "30")
    made = world.json("hub", "submit", "Say hello", *given, "--check", check)
    return world.client().wait(int(made["id"]), timeout_s=60)


def test_another_host_verifies_the_pushed_commit_from_a_clean_clone_and_finds_what_only_the_first_one_has(
    world: World,
) -> None:
    origin = bare(world.folder, {"README.md": "engine\n", ".gitignore": "build.out\n"})
    world.hub()
    for name in ("box", "den"):
        world.join(name)
        world.sidecar(name)

    done = submit(world, str(origin), "command_succeeds=grep -q hello hello.txt")
    assert (done["state"], done["result"]["status"]) == ("completed", "verified"), done
    second, first = done["result"]["second_host"], done["result"]["signature"]
    assert {first["host"], second["host"]} == {"box", "den"}
    assert (second["verdict"], second["commit"], second["tree"]) == (
        "agrees", done["result"]["commit"], done["result"]["tree"],
    )  # fmt: skip
    assert second["signature"]["host"] == second["host"]
    assert second["signature"]["verified"]
    shown = world.run("hub", "task", "show", str(done["id"])).stdout
    assert f"second host: {second['host']} agrees" in shown
    found = world.json("hub", "task", "verify-report", str(done["id"]))
    assert [(one["host"], one["said"]) for one in found["attempts"]] == [
        (first["host"], "verified"), (second["host"], "verified"),
    ]  # fmt: skip
    assert not list((world.home(second["host"]) / "sidecar").glob("clones/*"))

    wrong = submit(world, str(origin), "command_succeeds=test -e build.out")
    assert (wrong["state"], wrong["error"]["class"], wrong["error"]["code"]) == (
        "dead", "disagreement", "second_host_disagrees",
    )  # fmt: skip
    assert "command_succeeds test -e build.out: fail" in wrong["error"]["message"]
    own, other = wrong["result"]["iterations"][-1]["checks"], wrong["result"]["second_host"]["checks"]
    assert ([one["status"] for one in own], [one["status"] for one in other]) == (["pass"], ["fail"])
