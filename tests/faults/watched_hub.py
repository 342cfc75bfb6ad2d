"""The real hub, which notes what it promises: a line in HOME/promised for each batch that is durable, and for each
task, state and accepted result just before the message that says so leaves.

Under the shim these lines stand among the changes to the store, so that a recording shows what was promised when.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from agentcom import config, hub_daemon
from agentcom import messages as m
from agentcom.peers import Peers
from agentcom.store.base import Batch
from agentcom.store.journaled import JournaledStore

PROMISES = "promised"


def watch(home: Path) -> None:
    notes = os.open(home / PROMISES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    send, commit = Peers.send, JournaledStore.commit
    begin_commit, end_commit = JournaledStore.begin_commit, JournaledStore.end_commit
    begun: list[int] = []

    def note(**told: Any) -> None:
        os.write(notes, json.dumps(told).encode() + b"\n")

    def noted_send(peers: Peers, peer: int, body: bytes) -> None:
        message = m.decode_from_hub(body)
        if isinstance(message, m.ResultAck) and message.verdict == "accepted":
            note(task=message.task, accepted=message.attempt)
        elif isinstance(message, m.Reply):
            for task in _tasks_in(message.value):
                note(task=task["id"], state=task["state"], key=task["description"])
        send(peers, peer, body)

    def noted_commit(store: JournaledStore, batch: Batch, sequence: int) -> None:
        commit(store, batch, sequence)
        note(sequence=sequence)

    def noted_begin(store: JournaledStore, batch: Batch, sequence: int) -> bool:
        under_way = begin_commit(store, batch, sequence)
        if under_way:
            begun.append(sequence)
        else:
            note(sequence=sequence)
        return under_way

    def noted_end(store: JournaledStore) -> None:
        end_commit(store)
        while begun:
            note(sequence=begun.pop())

    setattr(Peers, "send", noted_send)  # noqa: B010 - mypy refuses the plain assignment
    setattr(JournaledStore, "commit", noted_commit)  # noqa: B010
    setattr(JournaledStore, "begin_commit", noted_begin)  # noqa: B010
    setattr(JournaledStore, "end_commit", noted_end)  # noqa: B010


def _tasks_in(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    found = value["tasks"] if isinstance(value.get("tasks"), list) else [value]
    return [
        each for each in found if isinstance(each, dict) and {"id", "state", "description"} <= each.keys()
    ]


if __name__ == "__main__":
    place = config.Home(config.home_path()).prepare()
    watch(place.path)
    sys.exit(hub_daemon.main(place, config.load(place.path)))
