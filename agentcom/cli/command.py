"""What all commands share: the options --json, --hub and --debug, and the way to the hub.

A command parses, calls, prints. Errors are raised, and turned into one line and an exit code by `main`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import click

from agentcom.cli import output
from agentcom.client import Client
from agentcom.config import Home, home_path

ADDRESS = re.compile(r"tcp://[^\s/]+:(?P<port>[0-9]{1,5})")
NEGATIVE = re.compile(r"-\.?\d.*")  # a number below zero; no option begins with a digit
PORT_MAX = 65_535
REACH_S = 4.0  # with the start of the interpreter a hub that is not there is told within 5 s


class Invocation:
    """One run of the command line."""

    def __init__(self) -> None:
        self.as_json = False
        self.hub: str | None = None
        output.go_by(0.0)
        self.debug = os.environ.get("AGENTCOM_DEBUG", "") not in ("", "0")

    @property
    def home(self) -> Home:
        return Home(home_path())

    def client(self) -> Client:
        """A connected client; the caller closes it."""
        if not self.hub:
            _check_address(os.environ.get("AGENTCOM_HUB"), "AGENTCOM_HUB")
        client = Client.connect(self.home, self.hub, REACH_S)
        output.go_by(client.ahead_s)
        return client


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Invocation), name, value)

    return callback


def _flag(flag: str, name: str, text: str, **rest: Any) -> click.Option:
    return click.Option([flag, name], expose_value=False, callback=_remember(name), help=text, **rest)


def debug_option() -> click.Option:
    return _flag("--debug", "debug", "Show a traceback with an error.", is_flag=True)


def _address(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Whether a hub is there is found out later."""
    _check_address(value, None)
    _remember("hub")(context, parameter, value)


def _check_address(value: str | None, variable: str | None) -> None:
    """An empty address counts as none. `variable`: where it was given, if not by an option."""
    found = ADDRESS.fullmatch(value) if value else None
    if value and (found is None or not 1 <= int(found["port"]) <= PORT_MAX):
        said = f"{value!r} is not the address of a hub, which has the form tcp://HOST:PORT"
        raise click.BadParameter(said, param_hint=variable)


def hub_option() -> click.Option:
    text = "Address of the hub, tcp://HOST:PORT."
    return click.Option(["--hub", "hub"], expose_value=False, callback=_address, help=text, metavar="ADDRESS")


def json_option() -> click.Option:
    return _flag("--json", "as_json", "Print one JSON document.", is_flag=True)


class HubCommand(click.Command):
    """A command that asks the hub: takes --json, --hub and --debug."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [json_option(), hub_option(), debug_option()]


class NumberCommand(HubCommand):
    """Takes a negative number as an argument, so that its refusal speaks of the number, not of an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        negative = [word for word in args if NEGATIVE.fullmatch(word)]
        if negative and "--" not in args:
            args = [*(word for word in args if word not in negative), "--", *negative]
        return super().parse_args(ctx, args)


def out_of_range(metavar: str, said: str) -> click.BadParameter:
    return click.BadParameter(said, param_hint=repr(metavar))


class LocalCommand(click.Command):
    """A command that runs a daemon of this home: takes --debug."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())


class Group(click.Group):
    """A noun: its commands ask the hub unless they say otherwise."""

    command_class = HubCommand


Group.group_class = Group
