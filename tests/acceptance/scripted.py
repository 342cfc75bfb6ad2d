"""One hub and one sidecar whose model plays a script, for the acceptance tests of a whole file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentcom.client import Client
from tests.sources import BROKEN
from tests.standins import StandIn, standin
from tests.world import World, eventually, make_repository
from tests.world import world as make_world

MODEL = "qwen2.5-coder:7b"
TESTS = """\
import unittest

import calc


class Adds(unittest.TestCase):
    def test_add(self):
        self.assertEqual(calc.add(2, 2), 4)
"""


@dataclass
class Scripted:
    world: World
    client: Client
    model: StandIn
    folder: Path

    def repository(self, name: str, **files: str) -> str:
        """A real repository of that name, with calc.py broken and a test that shows it."""
        path = self.folder / name
        make_repository(path, {"calc.py": BROKEN, "test_calc.py": TESTS, **files})
        return str(path)

    def says(self, *replies: dict[str, Any]) -> None:
        """What the model answers from now on, one reply a call; the last one again and again."""
        self.model.set_script({"models": [model()], "replies": list(replies)})

    def run(self, description: str, *checks: str | dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A task to its end."""
        given = [each if isinstance(each, dict) else _check(each) for each in checks]
        task = self.client.submit(description=description, checks=given, **fields)["id"]
        return self.client.wait(task, timeout_s=60)


def model() -> dict[str, Any]:
    return {"name": MODEL, "capabilities": ["completion", "tools"], "warm": True}


def says(text: str) -> dict[str, Any]:
    return {"content": text}


def statuses(done: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """Per iteration the kinds of the checks with what they said."""
    iterations = done["result"]["iterations"]
    return [[(check["kind"], check["status"]) for check in each["checks"]] for each in iterations]


@contextlib.contextmanager
def scripted(folder: Path, **environment: str) -> Iterator[Scripted]:
    """A hub and the sidecar `box`, whose model server is a stand-in; commands need no isolation here."""
    with (
        make_world(folder) as world,
        standin("ollama", {"models": [model()], "replies": [says("Done.")]}) as server,
    ):
        world.hub()
        world.join("box")
        own = {"AGENTCOM_SANDBOX_ACCEPT_UNISOLATED": "true", "AGENTCOM_ENDPOINTS_DISCOVER": server.url}
        world.sidecar("box", **{**own, **environment})
        client = world.client()

        def has_model() -> bool:
            return any(each["healthy"] for each in client.endpoint_list()["endpoints"])

        eventually("the model server is seen", has_model)
        yield Scripted(world, client, server, folder)


def _check(text: str) -> dict[str, Any]:
    kind, _, target = text.partition("=")
    return {"kind": kind, "target": target}
