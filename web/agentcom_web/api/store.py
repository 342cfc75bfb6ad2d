"""/backups and /store: copies of the hub's store, and what is done to its file."""

from __future__ import annotations

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom_web.forwarding import answer, body, described, query

store = Blueprint("store", __name__)


@store.get("/backups")
@described("view, operate, admin")
def listed() -> Response:
    """The backups, the newest first, the schedule, and the last chores on the store with what came of them."""
    return answer(query(m.BackupList))


@store.post("/backups")
@described("operate, admin", status=202)
def make() -> Response:
    """Begin a backup, or join the one that runs; GET /backups tells its end."""
    return answer(body(m.BackupNow), 202)


@store.post("/backups/<backup>/verify")
@described("operate, admin", status=202)
def verify(backup: str) -> Response:
    """Begin the check of a backup, by its file's name; GET /backups tells its end."""
    return answer(body(m.BackupVerify, backup=backup), 202)


@store.post("/store/compact")
@described("admin", status=202)
def compact() -> Response:
    """Begin to put a compact copy in the place of the store's file. /stats says what that would free."""
    return answer(body(m.Compact), 202)


@store.post("/store/acknowledge")
@described("operate, admin")
def acknowledge() -> Response:
    """Say that what a start or a restore could not save has been seen, and what it did: neither is news."""
    return answer(body(m.StoreAcknowledge))
