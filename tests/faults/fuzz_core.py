"""Messages of any content to the hub's core: valid in type, meaningless in content, from people and hosts alike.

The core must answer each or refuse it, and hold its invariants (`Hub.validate` after every event) and keep the
store such that a hub can start from it. What makes no sense to it must at worst cost the peer that sent it.
"""

from __future__ import annotations

import random
import typing
from typing import Any

import msgspec

from agentcom import messages as m
from agentcom.model import Role
from tests import factories
from tests.core_rig import Caller, HostEnd, Rig
from tests.faults.fuzz_targets import Target
from tests.faults.samples import valid

TASKS, ATTEMPTS = 12, 3  # the numbers that are aimed at
RESTART_EVERY = 500
LIVES = 1500  # messages before a rig is made anew, so that it stays small
OPERATIONS: tuple[Any, ...] = typing.get_args(m.Operation)
FROM_HOSTS: tuple[Any, ...] = tuple(kind for kind in typing.get_args(m.ToHub) if kind is not m.Request)


def core(seed: int) -> Target:
    """The target: an input is the seed of one message, and the story goes on from input to input."""
    stories = _Stories(seed)

    def accepts(content: bytes) -> bool:
        return stories.turn(random.Random(content))

    return Target("messages to the core", [random.Random(seed + n).randbytes(8) for n in range(50)], accepts)


class _Stories:
    """One rig after the other, with three people and two hosts."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._turns = 0
        self._begin()

    def _begin(self) -> None:
        self._rig = Rig(seed=self._seed + self._turns)
        self._people: list[Caller] = [
            self._rig.admin,
            *(self._rig.member(role) for role in (Role.submit, Role.view)),
        ]
        self._hosts = [self._rig.host(name, agents=2) for name in ("box", "den")]
        for _ in range(4):
            self._rig.admin.submit(factories.shell_task())

    def turn(self, rng: random.Random) -> bool:
        """One message; True if it was not refused."""
        self._turns += 1
        if self._turns % LIVES == 0:
            self._begin()
        elif self._turns % RESTART_EVERY == 0:
            self._rig.start()
        elif rng.random() < 0.1:
            self._rig.advance(rng.choice((50, 2000, 20_000, 90_000)))
        caller = rng.choice((*self._people, *self._hosts, *self._hosts))
        caller.received.clear()
        message = self._aimed(self._message(caller, rng), caller, rng)
        caller.send(message)
        if any(isinstance(one, m.Error) and one.code == "no_session" for one in caller.received):
            self._again(caller)
            return False
        return not any(isinstance(one, m.Error) for one in caller.received)

    def _message(self, caller: Caller, rng: random.Random) -> m.ToHub:
        if isinstance(caller, HostEnd) and rng.random() < 0.8:
            return typing.cast(m.ToHub, valid(rng.choice(FROM_HOSTS), rng))
        op = valid(rng.choice(OPERATIONS), rng)
        return caller.request(op)

    def _aimed(self, message: m.ToHub, caller: Caller, rng: random.Random) -> m.ToHub:
        """The message with a good session, and numbers that mean something more often than not."""
        plain = _aim(msgspec.to_builtins(message, builtin_types=(bytes, msgspec.Raw)), rng)
        if "session" in plain and rng.random() < 0.95:
            plain["session"] = caller.token
        if isinstance(message, m.Hello):
            plain["protocol"] = rng.choice((1, 1, 1, plain["protocol"]))
        try:
            return msgspec.convert(plain, type=type(message))
        except msgspec.ValidationError:
            return message

    def _again(self, caller: Caller) -> None:
        """A new session, where its key still stands."""
        caller.received.clear()
        try:
            caller.hello()
        except AssertionError:
            if isinstance(caller, HostEnd):
                self._hosts = [one for one in self._hosts if one is not caller] or [
                    self._rig.host(f"new-{self._turns}")
                ]
            else:
                self._begin()


def _aim(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list | tuple):
        return [_aim(each, rng) for each in value]
    if not isinstance(value, dict):
        return value
    aimed = {name: _aim(each, rng) for name, each in value.items()}
    for name, most in (("task", TASKS), ("attempt", ATTEMPTS), ("endpoint", 3)):
        if isinstance(aimed.get(name), int) and rng.random() < 0.9:
            aimed[name] = rng.randint(1, most)
    if isinstance(aimed.get("tasks"), list) and all(isinstance(each, int) for each in aimed["tasks"]):
        aimed["tasks"] = [rng.randint(1, TASKS) for _ in aimed["tasks"]]
    return aimed
