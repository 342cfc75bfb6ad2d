"""A report from end to end: signed by the sidecar, held to by the hub, checked without it; and a key that changes."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.acceptance.test_repositories import bare
from tests.world import World, eventually

ACCEPT = re.compile(r"agentcom host accept-key box [0-9a-f]{64}")


def _events(world: World, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.json("hub", "events", "--event", name)["events"]
    return found


def test_a_report_is_signed_by_its_host_and_a_host_whose_key_changes_is_refused_until_it_is_accepted(
    world: World,
) -> None:
    origin = bare(world.folder, {"README.md": "engine\n"})
    world.hub()
    world.join("box")
    key_file = world.home("box") / "keys" / "host_signing.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    sidecar = world.sidecar("box")
    given = ("--repo", str(origin), "--check", "file_exists=hello.txt", "--command", "echo hello > hello.txt")
    done = world.json("hub", "submit", "Say hello", *given, "--wait")
    assert done["result"]["status"] == "verified"
    signature = done["result"]["signature"]
    assert (signature["host"], signature["verified"]) == ("box", True)
    (host,) = world.json("hub", "host", "list")["hosts"]
    assert host["signing_key"] == signature["key"]
    shown = world.run("hub", "task", "show", str(done["id"]))
    assert f"signed by box, key {signature['key']}, verified" in shown.stdout

    # It is checked again without the hub, against the commit and tree that git has.
    saved = world.folder / "report.json"
    assert world.json("hub", "task", "verify-report", str(done["id"]), "--save", str(saved))["verified"]
    assert world.json("nowhere", "task", "verify-report", str(saved))["verified"]
    kept = json.loads(saved.read_text())
    statement = json.loads(kept["attempts"][0]["result"]["signed"]["statement"])
    named = ["git", "rev-parse", f"{done['result']['branch']}^{{tree}}"]
    tree = subprocess.run(named, cwd=origin, capture_output=True, text=True, check=True)
    assert (statement["commit"], statement["tree"]) == (done["result"]["commit"], tree.stdout.strip())
    private = key_file.read_text()
    logs = "".join(path.read_text(errors="replace") for path in world.folder.glob("*.log"))
    assert private not in saved.read_text() + logs

    # Another key under the same name: no work, an event, and the command that accepts it.
    sidecar.stop()
    key_file.write_text(secrets.token_bytes(32).hex())
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(world.sidecar, "box")  # it is ready when it is welcomed
        (event,) = eventually("the hub has refused the key", lambda: _events(world, "signing_key_refused"))
        assert (event["host"], event["known"]) == ("box", signature["key"])
        said = eventually("the sidecar says what to do", lambda: ACCEPT.search(world.daemons[-1].text()))
        accepted = world.json("hub", *said[0].split()[1:])
        assert accepted["fingerprint"] == event["offered"]
        starting.result()
    again = world.json("hub", "submit", "Say hello again", *given, "--wait")
    assert again["result"]["signature"]["key"] == event["offered"]
    assert world.json("hub", "task", "verify-report", str(again["id"]))["verified"]
