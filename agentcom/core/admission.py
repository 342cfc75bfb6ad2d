"""Whether a task may enter the queue, and as what: tier, group, times. Pure; refuses with the field's path."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import datetime
from typing import Final

from msgspec import Struct

from agentcom import limits
from agentcom.agent_programs import program_of
from agentcom.clock import Now, rfc3339
from agentcom.config import Settings
from agentcom.core.capabilities import fault_of
from agentcom.core.checks import check_check, check_path, needs_of
from agentcom.core.complexity import classify
from agentcom.core.groups import raised
from agentcom.errors import Refused
from agentcom.model import Allowance, Group, Role, TaskRow, TaskSpec, Tier, TierSource
from agentcom.repos import has_credentials

# git's short form, user@host:path; `helper::address` would run a program of that name.
_SHORT_ADDRESS = re.compile(r"(?:[\w.-]+@)?([\w.-]+):(?!:)")

# The rules of git-check-ref-format that a branch name breaks most often.
_BAD_BRANCH = re.compile(r"\.\.|//|@\{|[\x00-\x20~^:?*\[\\\x7f]|^[-/.]|[/.]$|\.lock$|/\.")


STEP_OF: Final = {Tier.standard: Allowance.up, Tier.complex: Allowance.down}
_TIERS: Final = {tier.value: tier for tier in Tier}  # a call of the enum takes ten times as long


class Admitted(Struct, frozen=True, gc=False):
    """What the hub adds to a task that it takes. Moments are wall ms, 0 for none; `term_ms` is how long it may stay
    from now on."""

    spec: TaskSpec
    tier: Tier
    tier_source: TierSource
    inferred_tier: Tier
    signals: tuple[str, ...]
    not_before_ms: int
    start_by_ms: int
    complete_by_ms: int
    term_ms: int

    @property
    def group(self) -> Group:
        return group_of(self.spec, self.tier)


def admit(
    spec: TaskSpec,
    role: Role,
    settings: Settings,
    now: Now,
    at: str,
    check_kinds: Callable[[], frozenset[str]] = frozenset,
) -> Admitted:
    """The task as the queue takes it; `at` is its path in the request (`tasks[0]`), `check_kinds` those of plugins."""
    if not spec.description.strip():
        raise Refused(
            "invalid", f"{at}.description: it is empty; say what is to be done", field=f"{at}.description"
        )
    _check_paths(spec, at, check_kinds)
    if spec.judge:
        _check_judge(spec, f"{at}.judge")
    if spec.needs or spec.prefers:
        _check_needs(spec.needs, f"{at}.needs")
        _check_needs(spec.prefers, f"{at}.prefers")
    _check_repo(spec, role, at)
    if spec.second_host and spec.repo is None:
        said = f"{at}.second_host: another host can verify a pushed commit only; name the repository"
        raise Refused("invalid", said, field=f"{at}.second_host")
    found = classify(
        spec.description,
        files=len(spec.files),
        checks=len(spec.checks),
        success_criteria=len(spec.success_criteria),
        has_command=spec.command is not None,
    )
    inferred = _TIERS[found.tier]
    tier, source = _tier(spec, inferred, at)
    moments = _moments(spec, now, at)
    not_before_ms = moments["not_before"]
    return Admitted(
        spec=spec,
        tier=tier,
        tier_source=source,
        inferred_tier=inferred,
        signals=found.signals,
        not_before_ms=not_before_ms if not_before_ms > now.wall_ms else 0,
        start_by_ms=moments["start_by"],
        complete_by_ms=moments["complete_by"],
        term_ms=max(0, not_before_ms - now.wall_ms) + ttl_ms(spec.ttl_s, tier, settings),
    )


def group_of(spec: TaskSpec, tier: Tier) -> Group:
    """What the task asks of a place to run."""
    plugins = needs_of(spec.checks) if spec.checks and spec.verify else ()
    needs = tuple(sorted({*spec.needs, *plugins})) if spec.needs or plugins else ()
    if not spec.prefers and not spec.allow:
        return Group(tier, spec.model or "", needs, spec.repo or "")
    of_tier = (STEP_OF[tier], Allowance.cloud) if tier in STEP_OF else ()
    return Group(
        tier,
        spec.model or "",
        needs,
        spec.repo or "",
        prefers=tuple(sorted(set(spec.prefers))),
        allow=tuple(one.value for one in of_tier if one in spec.allow),
    )


def group_of_row(spec: TaskSpec, row: TaskRow) -> Group:
    """The same for a task that is kept; one that was raised has no model of its own any more."""
    group = group_of(spec, row.tier)
    return raised(group) if row.tier_source is TierSource.raised else group


def ttl_ms(own_s: int | None, tier: Tier, settings: Settings) -> int:
    """A task's time to live: its own, its tier's, or that of all."""
    if own_s:
        return own_s * 1000
    queue = settings.queue
    of_tier = {
        Tier.trivial: queue.ttl_trivial_s,
        Tier.standard: queue.ttl_standard_s,
        Tier.complex: queue.ttl_complex_s,
    }
    return (of_tier[tier] or queue.ttl_s) * 1000


def _tier(spec: TaskSpec, inferred: Tier, at: str) -> tuple[Tier, TierSource]:
    """The explicit tier wins; a command makes a task trivial; nothing else leads to the shell."""
    if spec.tier is None:
        if spec.command is not None:
            return Tier.trivial, TierSource.command
        return (Tier.standard if inferred is Tier.trivial else inferred), TierSource.inferred
    if spec.tier is Tier.trivial and spec.command is None:
        raise Refused(
            "command_required",
            f"{at}.command: a trivial task needs the command to run",
            field=f"{at}.command",
        )
    if spec.tier is not Tier.trivial and spec.command is not None:
        raise Refused(
            "command_not_allowed",
            f"{at}.command: only a trivial task runs a command; leave out the tier or the command",
            field=f"{at}.command",
        )
    return spec.tier, TierSource.explicit


def _check_paths(spec: TaskSpec, at: str, check_kinds: Callable[[], frozenset[str]]) -> None:
    for n, file in enumerate(spec.files):
        check_path(file.path, f"{at}.files[{n}].path")
    for n, check in enumerate(spec.checks):
        check_check(check, f"{at}.checks[{n}]", check_kinds)
    if spec.command is not None and ("\0" in spec.command or not spec.command.strip()):
        raise Refused("invalid", f"{at}.command: it is empty or contains a zero byte", field=f"{at}.command")


def _check_judge(spec: TaskSpec, where: str) -> None:
    """The judge is the model that does the work, so there must be one, and checks come first."""
    if spec.command is not None:
        why = "a task with a command has no model that could judge it"
    elif program_of(spec.needs):
        why = f"{program_of(spec.needs)} is an agent program, and those judge no work; leave out one of the two"
    elif not spec.verify:
        why = "it comes after the checks, and verify is false (--no-verify)"
    else:
        return
    raise Refused("invalid", f"{where}: {why}", field=where)


def _check_needs(needs: tuple[str, ...], at: str) -> None:
    for n, need in enumerate(needs):
        fault = fault_of(need)
        if fault:
            where = f"{at}[{n}]"
            raise Refused("invalid", f"{where}: {need!r}: {fault}", field=where)


def _check_repo(spec: TaskSpec, role: Role, at: str) -> None:
    if spec.branch is not None:
        check_branch(spec.branch, f"{at}.branch")
        if spec.repo is None:
            raise Refused("invalid", f"{at}.branch: a branch needs a repo", field=f"{at}.branch")
    if spec.repo is not None:
        check_repo(spec.repo, role, f"{at}.repo")
    if spec.base is not None:
        _check_base(spec, f"{at}.base")


def _check_base(spec: TaskSpec, where: str) -> None:
    """It is the work of a task that this one waits for, in the same repository."""
    if spec.repo is None or spec.branch is not None:
        why = "it needs a repo" if spec.repo is None else "it takes the place of branch; give one of the two"
    elif spec.base == "predecessor" and len(spec.depends_on) != 1:
        why = f"the task depends on {len(spec.depends_on)} others; name the one to start from by its number"
    elif spec.base != "predecessor" and spec.base not in spec.depends_on:
        why = f"{spec.base} is not in depends_on, so its work may not be there yet; add it there"
    else:
        return
    raise Refused("invalid", f"{where}: {why}", field=where)


def check_branch(name: str, where: str) -> None:
    """Refuse what git takes for no branch, or for an option."""
    if _BAD_BRANCH.search(name):
        said = f"{where}: {name!r} is not a name that git takes for a branch"
        raise Refused("invalid", said, field=where)


def check_repo(url: str, role: Role, where: str) -> None:
    """Refuse an address that `role` may not name; one with credentials nobody may: they would be stored and shown."""
    if url.startswith("-") or "\0" in url or "\n" in url:
        raise Refused("invalid", f"{where}: {url!r} is not a repository address", field=where)
    if has_credentials(url):
        said = f"{where}: credentials in an address would be stored and shown; leave them out, git has them on the host"
        raise Refused("credentials_in_url", said, field=where)
    scheme, separator, rest = url.partition("://")
    if separator and scheme not in ("https", "ssh", "file"):
        raise Refused(
            "invalid", f"{where}: only https, ssh and local paths are taken, not {scheme}", field=where
        )
    short = _SHORT_ADDRESS.match(url) if not separator else None
    local = scheme == "file" or (not separator and short is None)
    if not local:
        _check_repo_host(short[1] if short else _host_of(rest), role, where)
    if local and role not in (Role.operate, Role.admin):
        raise Refused(
            "forbidden",
            f"{where}: a local path is only taken from `operate` and `admin`; give a URL",
            field=where,
        )
    if local and not url.removeprefix("file://").startswith("/"):
        raise Refused("invalid", f"{where}: a local repository needs its absolute path", field=where)


def _host_of(rest: str) -> str:
    """The host in what follows `https://`, without user and port."""
    place = rest.partition("/")[0].rpartition("@")[2]
    return place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]


def _check_repo_host(host: str, role: Role, where: str) -> None:
    """Literal addresses; names are looked up, and checked again, where the repository is fetched."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        raise Refused("address_refused", f"{where}: {host} is no address of a repository", field=where)
    if not address.is_global and role not in (Role.operate, Role.admin):
        raise Refused(
            "forbidden",
            f"{where}: the private address {host} is only taken from `operate` and `admin`",
            field=where,
        )


_NO_MOMENTS = {"not_before": 0, "start_by": 0, "complete_by": 0}


def _moments(spec: TaskSpec, now: Now, at: str) -> dict[str, int]:
    """The moments of the task by field, 0 for none: none too far ahead, none that could never be kept."""
    if spec.not_before is None and spec.start_by is None and spec.complete_by is None:
        return _NO_MOMENTS
    given = {"not_before": spec.not_before, "start_by": spec.start_by, "complete_by": spec.complete_by}
    found = {field: _wall_ms(text, f"{at}.{field}") for field, text in given.items()}
    for field, wall_ms in found.items():
        where = f"{at}.{field}"
        if wall_ms > now.wall_ms + limits.TTL_S_MAX * 1000:
            days = limits.TTL_S_MAX // 86400
            raise Refused("invalid", f"{where}: it is more than {days} days ahead", field=where)
        if given[field] is not None and field != "not_before" and wall_ms <= now.wall_ms:
            said = f"{where}: {given[field]} has passed, it is {rfc3339(now.wall_ms)} now"
            raise Refused("deadline_passed", said, field=where)
    for earlier, later in (
        ("not_before", "start_by"),
        ("not_before", "complete_by"),
        ("start_by", "complete_by"),
    ):
        if found[earlier] and found[later] and found[earlier] >= found[later]:
            where = f"{at}.{later}"
            raise Refused("invalid", f"{where}: {given[later]} is not after {earlier}", field=where)
    return found


def _wall_ms(text: str | None, where: str) -> int:
    if text is None:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Refused(
            "invalid", f"{where}: {text!r} is not RFC 3339 with a zone, as 2027-01-31T08:00:00Z", field=where
        )
    return int(moment.timestamp() * 1000)
