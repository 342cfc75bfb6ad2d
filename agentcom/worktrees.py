"""A worktree as its host tells the hub of it: what the attempt left there, and what of that is nowhere else."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from agentcom import limits
from agentcom.fields import Count, Reason

NAMED_CHARS_MAX = 255  # of a branch or a directory


class Worktree(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None where git could not say, or there is no repository; `why` then says so. `looked_s`: seconds since the host
    looked. `removable`: nothing in it would be lost; `goes_in_s`: when it is old enough to go by itself, None where it
    stays."""

    name: Annotated[str, Meta(max_length=NAMED_CHARS_MAX)]
    task: Count | None = None
    attempt: Count | None = None
    repo: Annotated[str, Meta(max_length=limits.URL_CHARS_MAX)] | None = None
    branch: Annotated[str, Meta(max_length=NAMED_CHARS_MAX)] | None = None
    base_branch: Annotated[str, Meta(max_length=NAMED_CHARS_MAX)] | None = None
    ahead: Count | None = None
    behind: Count | None = None
    files_changed: Count | None = None
    insertions: Count | None = None
    deletions: Count | None = None
    uncommitted: Count | None = None
    unpushed: Count | None = None
    merged: bool = False
    pushed_as: Annotated[str, Meta(max_length=NAMED_CHARS_MAX)] | None = None
    age_s: Count = 0
    looked_s: Count = 0
    in_use: bool = False
    removable: bool = False
    why: Reason = ""
    goes_in_s: Count | None = None
