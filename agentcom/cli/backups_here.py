"""The backups of a home on which no hub runs, read from its files: that is when a restore needs to know of them."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agentcom import config
from agentcom.cli.command import Invocation
from agentcom.errors import NotFound, StoreError
from agentcom.model import JsonObject
from agentcom.supervisor import hub_pid

if TYPE_CHECKING:
    from agentcom.store.start import StorePaths


def is_stopped(invocation: Invocation) -> bool:
    """Whether a hub has run on this home and none does now, and no other hub is asked for."""
    if invocation.hub or os.environ.get("AGENTCOM_HUB"):
        return False
    home = invocation.home
    return (home.store / "hub.lock").exists() and hub_pid(home.check()) is None


def backups_here(home: config.Home) -> JsonObject:
    """What a hub would answer to `backup list`; what only a running one knows is null, and so are its settings: some
    may be stored in its store."""
    from agentcom.store.backup import backup_view, list_backups

    folder = backups_folder(home)
    found, unreadable = [], None
    try:
        found = list_backups(folder)
    except StoreError as error:
        unreadable = error.message
    newest = next((one for one in found if one.verified), None)
    age_s = int(max(0.0, time.time() - datetime.fromisoformat(newest.time).timestamp())) if newest else None
    return {
        "backups": [backup_view(one) for one in found],
        "count": len(found),
        "verified": sum(one.verified for one in found),
        "unreadable": unreadable,
        "newest": backup_view(newest) if newest else None,
        "age_s": age_s,
        "needed": None,
        "error": None,
        "running": None,
        "next": None,
        "every_s": None,
        "keep": None,
        "folder": str(folder),
        "chores": [],
    }


def verified_here(home: config.Home, name: str) -> JsonObject:
    """Check a backup and wait for it: the chore as a hub would show it in the end."""
    from agentcom.chores import Chore
    from agentcom.store.backup import CheckRun, check_view

    begun = time.time()
    run = CheckRun.of_backup(backup_named(backups_folder(home), name))
    run.wait()
    result = check_view(run.outcome())
    ends = int(time.time() * 1000)
    return Chore(0, "verify", int(begun * 1000), False, state="done", ended_ms=ends, result=result).view()


def backups_folder(home: config.Home) -> Path:
    from agentcom.store.start import StorePaths

    return StorePaths.of_home(home.path, config.load(home.path).backups.folder).backups


def backup_named(folder: Path, name: str) -> Path:
    from agentcom.store.backup import list_backups

    for one in list_backups(folder):
        if name in (one.path, Path(one.path).name):
            return Path(one.path)
    raise NotFound(f"there is no backup {name} in {folder}; see `agentcom backup list`", field="name")


def require_one(paths: StorePaths) -> None:
    """NotFound, with what to do, where there is no backup to go back to."""
    from agentcom.store.backup import list_backups
    from agentcom.store.segments import has_first_batch

    if list_backups(paths.backups):
        return
    remedy = "if there are some elsewhere, set backups.folder to their place"
    if has_first_batch(paths.journal):
        remedy = "leave out --without-journal to build the store from the journal alone"
    raise NotFound(f"there is no backup in {paths.backups} to go back to; {remedy}")
