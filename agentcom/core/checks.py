"""What each kind of check needs, said when a task is submitted rather than when its checks run."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from agentcom.errors import Refused
from agentcom.model import CheckKind, CheckSpec

PATHS: Final = frozenset({CheckKind.file_exists, CheckKind.file_contains, CheckKind.json_valid})
BARE: Final = frozenset({CheckKind.git_clean, CheckKind.no_secrets})  # need nothing
EXPECTING: Final = frozenset({CheckKind.file_contains, CheckKind.http_responds, CheckKind.diff_within})
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def check_check(check: CheckSpec, at: str) -> None:
    """Refuse a check that could never pass, with the field's path under `at`."""
    for field in ("target", "expect", "command"):
        if "\0" in getattr(check, field):
            raise _refused(f"{at}.{field}", "it contains a zero byte")
    if check.expect and check.kind not in EXPECTING:
        raise _refused(f"{at}.expect", f"{check.kind} expects nothing")
    if check.command and check.kind is not CheckKind.http_responds:
        raise _refused(f"{at}.command", f"{check.kind} has its command, if any, as target")
    if check.kind in PATHS:
        check_path(check.target, f"{at}.target")
    elif check.kind is CheckKind.command_succeeds and not check.target.strip():
        raise _refused(f"{at}.target", "command_succeeds needs a command")
    if check.kind is CheckKind.file_contains and not check.expect:
        raise _refused(f"{at}.expect", "file_contains needs the text that the file shall contain")
    if check.kind is CheckKind.diff_within:
        _check_diff(check, at)
    if check.kind is CheckKind.http_responds:
        _check_http(check, at)


def check_path(path: str, where: str) -> None:
    """Refuse a path that does not stay in the worktree."""
    parts = path.replace("\\", "/").split("/")
    if not path.strip() or "\0" in path:
        raise _refused(where, "it is empty or contains a zero byte")
    if path.startswith(("/", "~")) or ".." in parts:
        said = f"{where}: {path!r} leaves the worktree; give a path inside it"
        raise Refused("path_outside", said, field=where)


def _check_diff(check: CheckSpec, at: str) -> None:
    if check.expect and not (check.expect.isascii() and check.expect.isdigit() and len(check.expect) <= 9):
        raise _refused(f"{at}.expect", f"{check.expect[:40]!r} is no number of lines")
    if not check.target.strip() and not check.expect:
        raise _refused(f"{at}.target", "diff_within needs patterns of paths as target, or lines as expect")


def _check_http(check: CheckSpec, at: str) -> None:
    try:
        parts = urlsplit(check.target)
        is_loopback = parts.scheme == "http" and parts.hostname in LOOPBACK and parts.port != 0
    except ValueError:
        is_loopback = False
    if not is_loopback:
        said = f"{check.target[:200]!r} is no http address on 127.0.0.1, ::1 or localhost"
        raise _refused(f"{at}.target", said)
    if not check.command.strip():
        raise _refused(f"{at}.command", "http_responds needs the command that starts the server")
    if check.expect and not (check.expect.isascii() and check.expect.isdigit() and len(check.expect) == 3):
        raise _refused(
            f"{at}.expect", f"{check.expect[:40]!r} is no HTTP status; leave it out for 200 to 399"
        )


def _refused(where: str, why: str) -> Refused:
    return Refused("invalid", f"{where}: {why}", field=where)
