"""What all commands share: the options --json, --hub and --debug, and the way to the hub.

A command parses, calls, prints. Errors are raised, and turned into one line and an exit code by `main`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

import click

from agentcom.auth import address_fault
from agentcom.cli import output
from agentcom.client import Client
from agentcom.config import Home, home_path

NEGATIVE = re.compile(r"-\.?\d.*")  # a number below zero; no option begins with a digit
NUMBER = re.compile(r"0*[1-9][0-9]{0,18}")  # of a task
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
    fault = address_fault(value) if value else ""
    if fault:
        raise click.BadParameter(fault, param_hint=variable)


def hub_option() -> click.Option:
    text = "Address of the hub, tcp://HOST:PORT."
    return click.Option(["--hub", "hub"], expose_value=False, callback=_address, help=text, metavar="ADDRESS")


def json_option() -> click.Option:
    return _flag("--json", "as_json", "Print one JSON document.", is_flag=True)


class HubCommand(click.Command):
    """A command that asks the hub: takes --json, --hub and --debug. A negative number is one of its arguments, so that
    its refusal speaks of the number, not of an option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [json_option(), hub_option(), debug_option()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args and any(map(NEGATIVE.fullmatch, args)):
            options, words = self._apart(args)
            args = [*options, "--", *words]
        return super().parse_args(ctx, args)

    def _apart(self, args: list[str]) -> tuple[list[str], list[str]]:
        """Options with their values, and the other words, each in their order."""
        with_value = {
            name for one in self.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts
        }
        options, words = [], []
        left = iter(args)
        for word in left:
            if word == "-" or not word.startswith("-") or NEGATIVE.fullmatch(word):
                words.append(word)
            else:
                options.append(word)
                options += islice(left, int(word in with_value))
        return options, words


def task_number(text: str) -> int:
    """What names a task; the type of an argument or option."""
    if not NUMBER.fullmatch(text):
        raise click.BadParameter(f"{text!r} names no task: a task's number is a whole number from 1")
    return int(text)


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
