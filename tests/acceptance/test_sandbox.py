"""A host that requires isolation, with real daemons: what its results and its record say, and what a command sees."""

from __future__ import annotations

import socket
import sys

from tests.isolating import need_isolation
from tests.world import World


def test_a_host_that_requires_isolation_runs_commands_that_see_nothing_of_it(world: World) -> None:
    need_isolation()
    world.hub()
    world.join("box")
    world.sidecar("box", AGENTCOM_SANDBOX_MODE="require")
    client = world.client()
    keys = world.home("box") / "keys"
    text = f"ls {keys} {world.folder}; test -e {keys}/host.key || echo unseen; test -e /run/agentcom && echo inside"
    alone = client.wait(client.submit(description="look", command=text)["id"], timeout_s=30)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        call = f"import socket; socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 3)"
        asked = f'{sys.executable} -I -c "{call}" 2>/dev/null && echo reached || echo not reached'
        without, with_it = (
            client.wait(client.submit(description="call", command=asked, allow=allow)["id"], timeout_s=30)
            for allow in ([], ["network"])
        )

    assert (keys / "host.key").exists()
    assert alone["result"]["output"].splitlines()[-2:] == ["unseen", "inside"]
    assert (alone["result"]["sandbox"], alone["result"]["sandbox_reason"]) == ("bubblewrap", "")
    assert [task["result"]["output"] for task in (without, with_it)] == ["not reached\n", "reached\n"]
    (box,) = [host for host in world.json("hub", "host", "list")["hosts"] if host["name"] == "box"]
    assert (box["sandbox"], box["sandbox_note"]) == ("bubblewrap", "")
