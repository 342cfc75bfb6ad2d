"""`agentcom config`: get, set, unset: the settings of this home, and those that the hub changes at run time.

A setting belongs either to the hub, which then checks it, keeps it and lets it apply at once, or to one machine:
that one is written into the config.toml of this home and read when a daemon starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import click

from agentcom import config as configuration
from agentcom import config_file
from agentcom.cli import output
from agentcom.cli.command import NEGATIVE, Group, HubCommand, Invocation, pass_invocation
from agentcom.config import Home
from agentcom.errors import HubUnreachable, Refused
from agentcom.model import JsonObject
from agentcom.settings import NAMES, Value, checked, is_local, known, names_under, value_of, with_values


@click.group(cls=Group)
def config() -> None:
    """Settings: of the hub at run time, of this home in its config.toml."""


@config.command()
@click.argument("name", metavar="[SECTION[.KEY]]", required=False)
@pass_invocation
def get(invocation: Invocation, name: str | None) -> None:
    """Print all settings, a section, or one value, and where each comes from."""
    names = names_under(name or "")
    found = _here(invocation.home, names)
    if any(not is_local(each) for each in names):
        found |= {each: view for each, view in _of_hub(invocation, name or "").items() if each in found}
    if name in NAMES:
        one = found[name]
        output.document(one) if invocation.as_json else output.line(_text(one["value"]))
    elif invocation.as_json:
        output.document(found)
    else:
        _print(found)


class SetCommand(HubCommand):
    """Takes a negative number after a name as its value, not as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words: list[str] = []
        for word in args:
            if words and NEGATIVE.fullmatch(word) and not words[-1].startswith("-") and "=" not in words[-1]:
                words[-1] += f"={word}"
            else:
                words.append(word)
        return super().parse_args(ctx, words)


@config.command("set", cls=SetCommand)
@click.argument("words", metavar="NAME VALUE|NAME=VALUE...", nargs=-1, required=True)
@pass_invocation
def set_(invocation: Invocation, words: tuple[str, ...]) -> None:
    """Change settings, all or none: the hub's at once, those of this home in its config.toml."""
    pairs = _pairs(words)
    values = {name: checked(name, text) for name, text in pairs.items()}
    if _are_local(values):
        home = invocation.home.prepare()
        with_values(configuration.load(home.path), values)
        config_file.put(_file(home), values)
        _wrote(invocation, home, list(values))
    else:
        with invocation.client() as client:
            _changed(invocation, client.config_change(values))


@config.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_invocation
def unset(invocation: Invocation, names: tuple[str, ...]) -> None:
    """Take back what was set: the environment's, config.toml's or the default value applies again."""
    if _are_local(names):
        config_file.remove(_file(invocation.home.check()), list(names))
        _wrote(invocation, invocation.home, list(names))
    else:
        with invocation.client() as client:
            _changed(invocation, client.config_change(unset=names))


def _here(home: Home, names: Iterable[str]) -> JsonObject:
    """The settings of this home: file and environment together."""
    settings, sources = configuration.load(home.path), configuration.sources(home.path)
    return {
        name: {
            "value": value_of(settings, name),
            "source": sources.get(name, "default"),
            "default": NAMES[name].value,
        }
        for name in names
    }


def _of_hub(invocation: Invocation, name: str) -> JsonObject:
    try:
        with invocation.client() as client:
            found: JsonObject = client.config_get(name)["settings"]
            return found
    except HubUnreachable:
        output.note("the hub cannot be reached: what this home would give it is shown")
    except Refused as refused:
        output.note(f"the hub does not tell ({refused.message}): what this home would give it is shown")
    return {}


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    if len(words) == 2 and "=" not in words[0]:
        return {words[0]: words[1]}
    pairs = [word.partition("=") for word in words]
    if any(not middle for _, middle, _ in pairs):
        raise click.UsageError("give NAME VALUE, or NAME=VALUE for each setting")
    found = {name: text for name, _, text in pairs}
    if len(found) < len(pairs):
        raise click.UsageError("the same setting is given twice; which of its values is meant?")
    return found


def _are_local(names: Iterable[str]) -> bool:
    """Whether they stand in config.toml; a mixture is refused, since it could not be all or none."""
    kinds = {(known(name), is_local(name))[1] for name in names}
    if len(kinds) > 1:
        raise click.UsageError("some of these are the hub's and some this home's; change them apart")
    return kinds == {True}


def _file(home: Home) -> Any:
    return home.path / "config.toml"


def _wrote(invocation: Invocation, home: Home, names: list[str]) -> None:
    found = _here(home, names)
    if invocation.as_json:
        output.document({"settings": found, "file": str(_file(home))})
        return
    _print(found)
    for name in names:
        variable = f"AGENTCOM_{name.replace('.', '_')}".upper()
        if variable in os.environ:
            output.note(f"{variable} is set in this environment and comes first")
    if "backups.folder" in names:
        output.note(
            "backups in the folder from before are not moved: while the hub is stopped, move each .mdb with its .json"
        )
    output.note(f"in {_file(home)}; it applies when the daemon that reads it starts again")


def _changed(invocation: Invocation, answer: JsonObject) -> None:
    if invocation.as_json:
        output.document(answer)
    else:
        _print(answer["settings"])


def _print(found: JsonObject) -> None:
    output.table(
        ("SETTING", "VALUE", "FROM", "SET BY", "AT", "NOTE"),
        [
            (name, _text(view["value"]), view["source"], view.get("by"), view.get("at"), view.get("ignored"))
            for name, view in found.items()
        ],
        "nothing was changed",
    )


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
