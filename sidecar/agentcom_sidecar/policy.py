"""What this host allows, whatever the hub says. Read from this host's own settings only.

Without isolation a command can read this user's keys, so only people who may operate the hub can have
commands run, unless the host's owner has accepted the risk. An isolated command is anybody's, within [policy].
"""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from pathlib import Path

import psutil

from agentcom import limits
from agentcom.config import PolicySettings, Settings
from agentcom.messages import Assign
from agentcom.model import Allowance, FailureClass, Role, Strategy, TaskError, TaskSpec
from agentcom_sidecar import isolation
from agentcom_sidecar.backends.base import configuration
from agentcom_sidecar.command import CommandLimits, View
from agentcom_sidecar.isolation import Isolation
from agentcom_sidecar.work import Work

NO_MODEL = "none"
TRUSTED = frozenset({Role.operate, Role.admin})


def isolation_of(work: Work) -> Isolation:
    """What isolates this attempt's commands, as far as this process has tried it out."""
    return isolation.known(work.settings.sandbox.mode)


def view(work: Work) -> View:
    """What this attempt's commands see where they are isolated. BackendError (configuration) where
    `sandbox.readable` would show them this sidecar's home."""
    own = work.workspace.view
    return View(
        readable=(*_shown(work), *own.readable),
        hidden=own.hidden,
        writable=own.writable,
        network=Allowance.network in work.spec.allow,  # the policy was asked before the attempt began
    )


def _shown(work: Work) -> list[Path]:
    """The paths of `sandbox.readable` that are there."""
    named = [Path(each).expanduser() for each in work.settings.sandbox.readable]
    home = work.home.path.resolve()
    for path in named:
        if not path.is_absolute() or home.is_relative_to(path.resolve()) or path.resolve().is_relative_to(home):
            raise configuration(
                "bad_setting",
                f"sandbox.readable names {path}: it must be absolute, and neither hold nor lie in {home} (keys)",
            )
    return [path for path in named if path.exists()]


MEMORY_SHARE = 0.8  # of the machine's memory, for one command, where `sandbox.memory_mib` says nothing


@functools.cache
def _memory_bytes() -> int:
    """Looked at once: it took as long as everything else here together, for each command."""
    return int(psutil.virtual_memory().total)


def command_limits(settings: Settings) -> CommandLimits:
    sandbox = settings.sandbox
    return CommandLimits(
        file_bytes_max=sandbox.file_mib * limits.MIB,
        tree_processes_max=sandbox.processes_max,
        tree_memory_bytes_max=sandbox.memory_mib * limits.MIB or int(MEMORY_SHARE * _memory_bytes()),
    )


def refusal_of(assign: Assign, spec: TaskSpec, allowed: PolicySettings) -> str | None:
    """Why this host does not take the assignment at all, in words that name the setting; None when it does."""
    wants_network = Allowance.network in spec.allow
    if allowed.tiers and assign.tier not in allowed.tiers:
        return f"policy.tiers of this host has no {assign.tier}"
    if spec.repo is not None and allowed.repositories and not _matches(spec.repo, allowed.repositories):
        return f"policy.repositories of this host has nothing that fits {spec.repo}"
    is_program = assign.route.strategy is Strategy.agent_program
    if is_program and not _is_for(allowed.programs, assign.submitter_role):
        return f"policy.programs of this host is {allowed.programs!r}, and a task of {assign.submitter!r} wants one"
    # A program that is told no model takes the one that this host's owner gave it.
    is_model = assign.route.strategy is not Strategy.trivial and not (is_program and assign.route.model == NO_MODEL)
    if is_model and allowed.models and not _matches(assign.route.model, allowed.models):
        return f"policy.models of this host has nothing that fits {assign.route.model}"
    if assign.route.remote and not _is_for(allowed.cloud_models, assign.submitter_role):
        return (
            f"policy.cloud_models of this host is {allowed.cloud_models!r}, and a third party runs {assign.route.model}"
        )
    if spec.command is not None and not _is_for(allowed.commands, assign.submitter_role):
        return f"policy.commands of this host is {allowed.commands!r}, and a task of {assign.submitter!r} is a command"
    if wants_network and not _is_for(allowed.network, assign.submitter_role):
        return f"policy.network of this host is {allowed.network!r}, and a task of {assign.submitter!r} wants it"
    return None


def may_preload(settings: Settings) -> bool:
    """Whether models are loaded here ahead of tasks: not by default where people use the GPU too."""
    wish = settings.sidecar.preload
    return wish == "always" or (wish == "auto" and not settings.sidecar.shares_gpu)


def preload_refusal(model: str, settings: Settings) -> str | None:
    """Why this host does not load the model ahead of tasks, in words that name the setting; None when it does."""
    if not may_preload(settings):
        why = "never" if settings.sidecar.preload == "never" else "auto, and sidecar.shares_gpu is true"
        return f"sidecar.preload of this host is {why}"
    if settings.policy.models and not _matches(model, settings.policy.models):
        return f"policy.models of this host has nothing that fits {model}"
    return None


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _is_for(who: str, role: Role) -> bool:
    return who == "all" or (who == "trusted" and role in TRUSTED)


def check_commands(work: Work) -> TaskError | None:
    """Why the task's own commands and checks may not run here; None when they may."""
    return _refusal(work, is_chosen_by_model=False)


def check_model_commands(work: Work) -> TaskError | None:
    """The same for a command that a model chose: its submitter's role does not vouch for it."""
    return _refusal(work, is_chosen_by_model=True)


def _refusal(work: Work, *, is_chosen_by_model: bool) -> TaskError | None:
    sandbox, found = work.settings.sandbox, isolation_of(work)
    commands = work.settings.policy.commands
    if not _is_for(commands, work.assign.submitter_role):
        return TaskError(
            failure_class=FailureClass.configuration,
            code="policy_refused",
            message=f"policy.commands of this host is {commands!r}: a task of {work.assign.submitter!r} runs none",
        )
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
