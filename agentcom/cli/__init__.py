"""The command line. A file per noun: parse, call, print.

Exit codes: 0 done, 1 failed, 2 usage, 3 hub unreachable, 4 refused, 5 not found; `submit --wait` adds 10 and
11. An error is one line on stderr that says what to do; a traceback comes only with --debug.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from agentcom import __version__
from agentcom.cli import (
    agent,
    backup,
    budget,
    daemons,
    dead,
    demo,
    doctor,
    endpoint,
    events,
    git,
    host,
    join,
    queue,
    repo,
    scheduler,
    settings,
    submit,
    task,
    token,
)
from agentcom.cli.command import Group, Invocation, debug_option, hub_option
from agentcom.errors import AgentComError, HubUnreachable, NotFound, Refused

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4
EXIT_NOT_FOUND = 5
EXIT_INTERRUPTED = 130


@click.group(
    cls=Group, params=[hub_option(), debug_option()], context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="agentcom %(version)s")
def root() -> None:
    """AgentCom queues work for AI coding agents and runs each task on the right machine."""


for noun in (
    *daemons.COMMANDS, submit.submit, task.task, dead.dead, agent.agent, host.host, join.join, endpoint.endpoint,
    repo.repo, git.git, queue.queue, budget.budget, events.events, scheduler.scheduler,
    backup.backup, backup.compact, token.token, settings.config, doctor.doctor, demo.demo,
):  # fmt: skip
    root.add_command(noun)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    invocation = Invocation()
    try:
        code = root.main(
            args=None if arguments is None else list(arguments),
            prog_name="agentcom",
            standalone_mode=False,
            obj=invocation,
        )
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`): nothing is left to be said, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except Exception as error:
        return _tell(error, invocation.debug)
    return code if isinstance(code, int) else 0


def _tell(error: Exception, debug: bool) -> int:
    """Print `error` in one line; the exit code that stands for it."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    code, text = _verdict(error)
    click.echo("agentcom: " + " ".join(text.split()), err=True)
    return code


def _verdict(error: Exception) -> tuple[int, str]:
    match error:
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "agentcom"
            return EXIT_USAGE, f"{error.format_message().rstrip('.')}; see `{command} --help`"
        case click.ClickException():
            return EXIT_FAILED, error.format_message()
        case NotFound():
            return EXIT_NOT_FOUND, error.message
        case Refused():
            again = "" if error.retry_after_s is None else f"; try again in {error.retry_after_s:g} s"
            return EXIT_REFUSED, f"refused ({error.code}): {error.message}{again}"
        case HubUnreachable():
            return EXIT_UNREACHABLE, error.message
        case AgentComError():
            return EXIT_FAILED, error.message
        case OSError():
            return EXIT_FAILED, f"{error}; run it again with --debug for more"
    return EXIT_FAILED, f"internal error: {type(error).__name__}: {error}; run it again with --debug for more"
