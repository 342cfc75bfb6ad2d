"""What a task needs of an agent, and whether the agent has it.

A capability is a word: `docker`, `os:linux`, `gpu:nvidia`. One with a value is written NAME=VALUE: `tool:node=20.11.1`,
`cpus=16`, `zone=eu`. A need is met by
* the same word: `docker`, `zone=eu`;
* its name, whatever the value: `tool:node`;
* a value that compares as asked: `tool:node>=20`, `cpus>8`, `tool:python3=3.11`, with `=`, `>`, `>=`, `<` and `<=`.
  Versions are compared part by part, as far as the need goes: 20.11.1 is `=20`, `<=20` and `>=20`, not `>20`;
* what the machine is: where an agent declares of a fact what its host did not find, it counts for nothing, nor does a
  comparison that anybody declares (facts.py);
* the place itself: `host:NAME` and `agent:NAME` pin a task. They are about names alone: nothing that a host says of
  itself meets them.
* the plugin for a kind of check: `check:coverage`; a task with such a check needs it without a word.
* any place but one: `not-host:NAME`;
* a model that can do it: `model:tools`, `model:vision`. The registry knows which can, so no agent lacks it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from agentcom.agent_programs import PREFIX
from agentcom.facts import SINGLE, is_comparison, is_of_machine, overruled

PIN_HOST: Final = "host:"
PIN_AGENT: Final = "agent:"
NOT_HOST: Final = "not-host:"
OF_MODEL: Final = "model:"
OF_CHECK: Final = "check:"  # a kind of check that a plugin of the host has
OF_CLAUDE: Final = frozenset({"completion", "thinking", "tools", "vision"})

_COMPARED = re.compile(r"\s*([^<>=]+?)\s*(>=|<=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_VERSION = re.compile(r"v?(\d{1,9}(?:\.\d{1,9})*)")
_LEADING_VERSION = re.compile(r"v?(\d{1,9}(?:\.\d{1,9}){0,7})")

Version = tuple[int, ...]


class Need(NamedTuple):
    """One need as it was read. Without an operator any value will do."""

    text: str
    name: str
    operator: str = ""
    value: str = ""
    version: Version = ()


@lru_cache(maxsize=4096)
def need_of(text: str) -> Need:
    """The need in `text`. One that admission would refuse now is a word like any other."""
    found = _COMPARED.fullmatch(text)
    if found is None or fault_of(text):
        return Need(text, text.strip())
    name, operator, value = found.groups()
    exact = _VERSION.fullmatch(value)
    return Need(text, name, operator.replace("==", "="), value, _numbers(exact[1]) if exact else ())


def fault_of(text: str) -> str:
    """What is wrong with a need, for the person who gives it; empty for nothing."""
    found = _COMPARED.fullmatch(text)
    if found is None:
        return "it does not begin with a name" if re.match(r"\s*([<>=]|$)", text) else ""
    name, operator, value = found.groups()
    if not value or (operator not in ("=", "==") and not _VERSION.fullmatch(value)):
        return f"after {operator} comes a version, as {name}{operator}20 or {name}{operator}20.1"
    return ""


class Abilities:
    """What an agent and its host offer, made ready for many questions. Made anew when either says something else."""

    __slots__ = ("_names", "_values", "_words", "of_agent", "of_host")

    def __init__(self, of_host: tuple[str, ...], of_agent: tuple[str, ...]) -> None:
        of_host = tuple(word for word in of_host if not is_comparison(word))
        wrong = overruled(of_agent, of_host)
        of_agent = tuple(word for word in of_agent if word not in wrong) if wrong else of_agent
        self.of_host, self.of_agent = of_host, of_agent
        self._words = frozenset((*of_host, *of_agent))
        self._values: dict[str, tuple[str, ...]] = {}
        for word in dict.fromkeys((*of_agent, *of_host)):
            name, is_valued, value = word.partition("=")
            if is_valued:
                self._values[name] = (*self._values.get(name, ()), value)
        self._names = self._words | self._values.keys()

    def meets(self, text: str) -> bool:
        """Whether something offered is what is needed. Pins are not for this."""
        if text in self._words:
            return True
        need = need_of(text)
        if not need.operator:
            return need.name in self._names
        return any(_compares(value, need) for value in self._values.get(need.name, ()))

    def nearest(self, text: str) -> str:
        """What is offered in its place: another value, the other system, or the tool that a plain word means; empty for
        nothing."""
        name = need_of(text).name
        for kind in SINGLE:
            if name.startswith(kind):
                return next((word for word in self.of_host if word.startswith(kind)), "")
        values = self._values.get(name)
        if values:
            return f"{name}={values[0]}"
        if name in self._words:
            return name
        tool = f"tool:{name}"
        return tool if tool in self._names else ""


def unmet(needs: Iterable[str], abilities: Abilities, host: str, agent: str) -> list[str]:
    """Those of the needs that this agent does not meet, in their order."""
    return [need for need in needs if not _is_met(need, abilities, host, agent)]


def first_unmet(needs: tuple[str, ...], abilities: Abilities, host: str, agent: str) -> str | None:
    for need in needs:
        if not _is_met(need, abilities, host, agent):
            return need
    return None


def _is_met(need: str, abilities: Abilities, host: str, agent: str) -> bool:
    if need.startswith(PIN_HOST):
        return need[len(PIN_HOST) :] == host
    if need.startswith(PIN_AGENT):
        return need[len(PIN_AGENT) :] == agent
    if need.startswith(NOT_HOST):
        return need[len(NOT_HOST) :] != host
    return need.startswith(OF_MODEL) or abilities.meets(need)


@lru_cache(maxsize=1024)
def of_model(needs: tuple[str, ...]) -> tuple[str, ...]:
    """What the model has to be able to do."""
    return tuple(need[len(OF_MODEL) :] for need in needs if need.startswith(OF_MODEL))


def lack(
    needs: Sequence[str], host: str, abilities: Abilities, program_faults: Sequence[str] = ()
) -> tuple[str, str, str]:
    """Why a host is refused whose nearest agent lacks these: the condition, what is the matter, and the smallest
    change that mends the first of them. `program_faults`: of programs that the host offers, `NAME: why`."""
    need = needs[0]
    if need_of(need).name.startswith(PREFIX) and program_faults:
        program = need_of(need).name.removeprefix(PREFIX)
        why = next((line.partition(": ")[2] for line in program_faults if line.startswith(f"{program}: ")), "")
        if why:
            change = (
                f"mend that on {host}, where `agentcom doctor` says the same; its sidecar sees a program that is there "
                "by itself, and a change of config.toml when it starts anew"
            )
            return "program_unusable", f"{host} offers {program} and cannot use it: {why}", change
    if need.startswith(NOT_HOST):
        said = f"the task is for another host than {host}"
        return "other_host", said, "wait for another host, or join one: agentcom host invite"
    for pin, kind in ((PIN_HOST, "host"), (PIN_AGENT, "agent")):
        if need.startswith(pin):
            name = need[len(pin) :]
            change = f"wait for {name}, or submit it again without --needs {need}"
            return "pinned_elsewhere", f"the task is pinned to {kind} {name}", change
    instead = abilities.nearest(need)
    message = f"no agent on {host} has {' and '.join(needs)}" + (f"; {host} has {instead}" if instead else "")
    return "need_missing", message, _remedy(need, host, instead)


def _remedy(need: str, host: str, instead: str) -> str:
    _, name, operator, value, _ = need_of(need)
    if is_of_machine(name):
        is_less_enough = bool(instead) and operator not in ("", "<", "<=")
        again = "with less" if is_less_enough else f"without --needs {shlex.quote(need)}"
        return f"wait for a host that has {need}, or join one: agentcom host invite; or submit it again {again}"
    if instead == f"tool:{name}":
        return f"ask for --needs {instead}, or add {name} to sidecar.capabilities on {host}"
    if name.startswith(PREFIX):
        program = name.removeprefix(PREFIX)
        if instead:
            return f"update {program} on {host}; its sidecar finds it by itself"
        change = f"install {program}, and name it in programs.offer, on {host}; its sidecar finds it by itself"
        return f"{change}, and `agentcom doctor` there says what is missing"
    if name.startswith(OF_CHECK):
        kind = name.removeprefix(OF_CHECK)
        return f"install a plugin for checks of kind {kind} on {host} and start its sidecar anew (docs/verification.md)"
    if name.startswith("tool:"):
        tool = name.removeprefix("tool:")
        return f"{'update' if instead else 'install'} {tool} on {host}; its sidecar finds it by itself"
    if is_comparison(need):
        return f"add {name}=VALUE to sidecar.capabilities on {host}, with a value {operator}{value}"
    return f"add {need} to sidecar.capabilities on {host}"


def _compares(value: str, need: Need) -> bool:
    found = _LEADING_VERSION.match(value)
    if found is None or not need.version:
        return need.operator == "=" and value == need.value
    length = len(need.version)
    have = (_numbers(found[1]) + (0,) * length)[:length]
    match need.operator:
        case "=":
            return have == need.version
        case ">=":
            return have >= need.version
        case "<=":
            return have <= need.version
        case ">":
            return have > need.version
        case _:
            return have < need.version


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))
