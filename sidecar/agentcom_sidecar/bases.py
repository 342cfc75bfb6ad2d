"""Where an attempt starts: at a branch of its repository, or at what a task before it has made.

The work of a predecessor is found at the repository where it was pushed, else in this host's mirror where that host did
the work. Where it is in neither place the attempt ends with what to do: it never starts from something else in silence,
except where the predecessor changed nothing, or its branch is gone because it was merged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentcom.messages import Assign, Predecessor
from agentcom.model import TaskSpec
from agentcom.repos import same_place
from agentcom_sidecar.git import check_branch, configuration

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")


@dataclass(frozen=True, kw_only=True)
class Start:
    """`branch` is where it starts, empty for what HEAD names; `before` is the task whose `commit` it starts from."""

    branch: str = ""
    before: Predecessor | None = None

    @property
    def commit(self) -> str:
        return self.before.commit if self.before is not None else ""

    @property
    def wanted(self) -> str | None:
        """The branch as git may get it."""
        return check_branch(self.branch) if self.branch else None

    @property
    def branch_before(self) -> str | None:
        """That of the predecessor, where it was pushed."""
        return check_branch(self.before.branch) if self.before is not None and self.before.pushed else None


def start_of(spec: TaskSpec, assign: Assign) -> Start:
    """Where the task asks to start. Raises WorkspaceError (configuration) with what to do."""
    plain = Start(branch=spec.branch or assign.base_branch)
    if spec.base is None or spec.repo is None:
        return plain
    before = _named(spec, assign)
    if before is None:
        raise configuration(
            "base_missing", f"base: what task {spec.base} has made is kept no longer; submit it again without base"
        )
    if same_place(before.repo) != same_place(spec.repo):
        raise configuration(
            "base_elsewhere",
            f"base: task {before.task} worked in {before.repo or 'no repository'}, not in this one; "
            "submit it again without base",
        )
    if not before.commit:
        return plain  # it changed nothing: what it left is what the repository has
    if not _COMMIT.match(before.commit):
        raise configuration("base_missing", f"base: {before.commit[:80]!r} of task {before.task} is no commit")
    return Start(branch=plain.branch, before=before)


def _named(spec: TaskSpec, assign: Assign) -> Predecessor | None:
    wanted = spec.depends_on[0] if spec.base == "predecessor" and spec.depends_on else spec.base
    return next((one for one in assign.predecessors if one.task == wanted), None)


def not_here(before: Predecessor, shown: str) -> Exception:
    """The error of an attempt whose base is neither at the repository nor on this host."""
    if before.pushed:
        return configuration(
            "base_missing",
            f"base: {before.branch} of task {before.task} is no longer at {shown}; push it again, "
            "or submit the task again without base",
        )
    return configuration(
        "base_missing",
        f"base: {before.branch} of task {before.task} was not pushed and lies on host {before.host} only; push it from "
        f"there, or submit the task again with --needs host:{before.host}",
    )
