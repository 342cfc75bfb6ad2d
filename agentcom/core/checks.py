"""What each kind of check needs, said when a task is submitted rather than when its checks run.

Kinds beyond those that every host has come with plugins of hosts. What such a check needs only its plugin knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Final
from urllib.parse import urlsplit

from agentcom.core.capabilities import OF_CHECK
from agentcom.errors import Refused
from agentcom.model import CheckKind, CheckSpec

PATHS: Final = frozenset({CheckKind.file_exists, CheckKind.file_contains, CheckKind.json_valid})
BARE: Final = frozenset({CheckKind.git_clean, CheckKind.no_secrets})  # need nothing
EXPECTING: Final = frozenset({CheckKind.file_contains, CheckKind.http_responds, CheckKind.diff_within})
BUILT_IN: Final = frozenset(kind.value for kind in CheckKind)
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def needs_of(checks: Iterable[CheckSpec]) -> tuple[str, ...]:
    """What a host must have for these checks: a plugin for each kind that not every host has."""
    return tuple(dict.fromkeys(f"{OF_CHECK}{each.kind}" for each in checks if each.kind not in BUILT_IN))


def check_check(check: CheckSpec, at: str, plugged: Callable[[], frozenset[str]] = frozenset) -> None:
    """Refuse a check that could never pass, with the field's path under `at`. `plugged`: the kinds that plugins of
    hosts have."""
    if check.kind not in BUILT_IN and check.kind not in plugged():
        raise _unknown(check.kind, f"{at}.kind", plugged())
    for field in ("target", "expect", "command"):
        if "\0" in getattr(check, field):
            raise _refused(f"{at}.{field}", "it contains a zero byte")
    if check.kind not in BUILT_IN:
        return
    if check.expect and check.kind not in EXPECTING:
        raise _refused(f"{at}.expect", f"{check.kind} expects nothing")
    if check.command and check.kind != CheckKind.http_responds:
        raise _refused(f"{at}.command", f"{check.kind} has its command, if any, as target")
    if check.kind in PATHS:
        check_path(check.target, f"{at}.target")
    elif check.kind == CheckKind.command_succeeds and not check.target.strip():
        raise _refused(f"{at}.target", "command_succeeds needs a command")
    if check.kind == CheckKind.file_contains and not check.expect:
        raise _refused(f"{at}.expect", "file_contains needs the text that the file shall contain")
    if check.kind == CheckKind.diff_within:
        _check_diff(check, at)
    if check.kind == CheckKind.http_responds:
        _check_http(check, at)


def _unknown(kind: str, where: str, plugged: frozenset[str]) -> Refused:
    near = get_close_matches(kind, sorted(BUILT_IN | plugged), n=1)
    known = ", ".join(each.value for each in CheckKind)
    by_plugin = f", and by plugins of hosts {', '.join(sorted(plugged)[:20])}" if plugged else ""
    said = f"{where}: no host has checks of kind {kind!r}; there are {known}{by_plugin}"
    meant = f"; did you mean {near[0]}?" if near else "; install its plugin on a host first (docs/verification.md)"
    return Refused("unknown_check", said + meant, field=where)


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
    for pattern in check.target.split():
        check_path(pattern, f"{at}.target")


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
