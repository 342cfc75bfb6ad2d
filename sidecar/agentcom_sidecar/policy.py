"""What this host allows, whatever the hub says. Read from this host's own settings only.

Without isolation a command can read this user's keys, so only people who may operate the hub can have
commands run, unless the host's owner has accepted the risk. An isolated command is anybody's.
"""

from __future__ import annotations

from agentcom.model import FailureClass, Role, TaskError
from agentcom_sidecar import isolation
from agentcom_sidecar.command import View
from agentcom_sidecar.isolation import Isolation
from agentcom_sidecar.work import Work

TRUSTED = frozenset({Role.operate, Role.admin})


def isolation_of(work: Work) -> Isolation:
    """What isolates this attempt's commands, as far as this process has tried it out."""
    return isolation.known(work.settings.sandbox.mode)


def view(work: Work) -> View:
    """What this attempt's commands see where they are isolated."""
    return work.workspace.view


def check_commands(work: Work) -> TaskError | None:
    """Why the task's own commands and checks may not run here; None when they may."""
    return _refusal(work, is_chosen_by_model=False)


def check_model_commands(work: Work) -> TaskError | None:
    """The same for a command that a model chose: its submitter's role does not vouch for it."""
    return _refusal(work, is_chosen_by_model=True)


def _refusal(work: Work, *, is_chosen_by_model: bool) -> TaskError | None:
    sandbox, found = work.settings.sandbox, isolation_of(work)
    if found.holds:
        return None
    if sandbox.mode == "require":
        return TaskError(
            failure_class=FailureClass.configuration,
            code="sandbox_unavailable",
            message='sandbox.mode is "require" on this host, and nothing isolates commands there '
            f'({found.note}); to run them without isolation, set sandbox.mode = "auto" in its config.toml',
        )
    is_vouched_for = work.assign.submitter_role in TRUSTED and not is_chosen_by_model
    if is_vouched_for or sandbox.accept_unisolated:
        return None
    whose = "a command that a model chose" if is_chosen_by_model else f"a task of {work.assign.submitter!r}"
    return TaskError(
        failure_class=FailureClass.configuration,
        code="unisolated_refused",
        message=f"nothing is isolated on this host ({found.note}), and {whose} wants to run a command, which could "
        "read its user's keys; to allow that, set sandbox.accept_unisolated = true in the host's own config.toml",
    )
