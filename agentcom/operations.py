"""Operations on the hub's store: a part of messages.py, which is where they are used from."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from agentcom import limits


class BackupList(Struct, tag_field="op", tag="backup_list", frozen=True, kw_only=True):
    """The backups, the newest first, the schedule, and the last chores on the store with what came of them."""


class BackupNow(Struct, tag_field="op", tag="backup_now", frozen=True, kw_only=True):
    """Begins a backup, or joins the one that runs. The reply has the chore's number; `backup_list` tells its end."""


class BackupVerify(Struct, tag_field="op", tag="backup_verify", frozen=True, kw_only=True):
    """Begins the check of a backup, by its file's name, as thorough as that at a start."""

    backup: Annotated[str, Meta(max_length=limits.LABEL_CHARS_MAX)]


class Compact(Struct, tag_field="op", tag="compact", frozen=True, kw_only=True):
    """Begins to put a compact copy in the place of the store's file; `hub_status` says what that would free."""


class StoreAcknowledge(Struct, tag_field="op", tag="store_acknowledge", frozen=True, kw_only=True):
    """An operator has seen what a start or a restore could not save: it is no longer shown."""
