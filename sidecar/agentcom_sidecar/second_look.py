"""Verifying another host's work: what is believed of its report, and what is reported where there is nothing to see.

The hub says which commit, tree and branch that host has reported; the checks are those of the task, as this host got
it. Nothing is written to the repository but, where all agrees, the pull request.
"""

from __future__ import annotations

from agentcom.messages import Assign, ToVerify
from agentcom.model import Backend, ResultStatus, TaskResult
from agentcom.report_statement import fault_of
from agentcom_sidecar.backends.base import BackendError, infrastructure


def not_there(wanted: ToVerify) -> TaskResult:
    """The repository has no such branch."""
    return TaskResult(
        status=ResultStatus.partial_pass,
        backend=Backend.shell,
        model="none",
        branch=wanted.branch,
        warnings=(f"the repository has no branch {wanted.branch}",),
    )


def refusal_of(assign: Assign, wanted: ToVerify) -> BackendError | None:
    """Why the report that is to be verified is none of that host; None where it is, or where its key is not known."""
    if wanted.report is None or not wanted.key:
        return None
    fault = fault_of(wanted.report, key=wanted.key, task=assign.task, attempt=wanted.attempt, host=wanted.host)
    return infrastructure(fault.code, f"the report to verify: {fault.message}") if fault is not None else None
