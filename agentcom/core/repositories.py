"""Registered repositories: what every task in one has to pass, where it starts, and which hosts may work on it.

A task names one by its name or by any spelling of its address and keeps the address as it is registered. The checks,
the branch and the hosts are those of the moment in which an attempt is given out, so a change reaches tasks that wait.
The hosts are a condition of routing: groups of a repository with hosts of its own are a pool of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now, rfc3339
from agentcom.core.admission import check_branch, check_repo
from agentcom.core.checks import check_check, needs_of
from agentcom.core.effects import key_u64
from agentcom.core.waiting import named
from agentcom.errors import NotFound, Refused
from agentcom.model import CheckSpec, JsonObject, PrincipalRecord, Role, TaskSpec
from agentcom.repos import RepoRecord, same_place

if TYPE_CHECKING:
    from agentcom.core.hub import Hub

PREFIX: Final = b"repo"  # of the records, in `meta`
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")  # no address: those have a slash or a colon


class Repositories:
    """All records by name and by place."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._out = hub.out
        self.by_name: dict[str, RepoRecord] = {}
        self._by_place: dict[str, RepoRecord] = {}
        self._found: dict[str, RepoRecord | None] = {}  # by address as tasks have it
        self._hosts: dict[str, frozenset[str]] = {}  # of repositories that have some, by name
        self._next = 1

    def load(self, records: Sequence[RepoRecord]) -> None:
        """Before the groups are loaded."""
        for record in records:
            self._keep(record)

    # --- what tasks get ---------------------------------------------------------------------------------

    def resolved(self, spec: TaskSpec, at: str) -> TaskSpec:
        """The task with the address under which its repository is registered, if it is, and with the need of every
        plugin for that one's checks."""
        assert spec.repo is not None
        record = self.by_name.get(spec.repo) or self.of(spec.repo)
        if record is not None:
            plugins = [each for each in needs_of(record.checks) if each not in spec.needs] if record.checks else ()
            needs = _within((*spec.needs, *plugins), f"{at}.needs") if plugins else spec.needs
            is_same = spec.repo == record.url and not plugins
            return spec if is_same else msgspec.structs.replace(spec, repo=record.url, needs=needs)
        _refuse_word(spec.repo, f"{at}.repo")
        return spec

    def of(self, url: str) -> RepoRecord | None:
        """The record of the repository at that address. O(1) but for the first time."""
        if not self.by_name:
            return None
        if url not in self._found:
            if len(self._found) >= limits.SCHEDULED_REPOS_MAX:
                self._found.clear()
            self._found[url] = self._by_place.get(same_place(url))
        return self._found[url]

    def hosts_of(self, url: str) -> frozenset[str] | None:
        """The hosts that may work on it; None for all."""
        if not self._hosts:
            return None
        record = self.of(url)
        return self._hosts.get(record.name) if record is not None else None

    # --- from people ------------------------------------------------------------------------------------

    def add(self, op: m.RepoAdd, caller: PrincipalRecord, now: Now) -> JsonObject:
        if len(self.by_name) >= limits.REPOSITORIES_MAX:
            raise Refused("limit", f"this hub already has {limits.REPOSITORIES_MAX} repositories; remove some")
        record = RepoRecord(
            id=self._next,
            name=self._free_name(op.name, "name"),
            url=self._free_url(op.url, caller, None),
            default_branch=_branch(op.default_branch),
            checks=self._checks(op.checks),
            hosts=self._known_hosts(op.hosts),
            added_by=caller.name,
            added_ms=now.wall_ms,
        )
        self._refuse_other_spelling(record.url)
        self._keep(record)
        self._changed("repo_added", record, caller)
        return self.view(record) | self._gathered(record, now)

    def update(self, op: m.RepoUpdate, caller: PrincipalRecord, now: Now) -> JsonObject:
        """The view; where its address is another now, with what of pauses, limits, weights and budgets went with it."""
        old = self.named(op.repo)
        changed: dict[str, Any] = {}
        if op.name is not None and op.name != old.name:
            changed["name"] = self._free_name(op.name, "name")
        if op.url is not None and op.url != old.url:
            changed["url"] = self._free_url(op.url, caller, old)
            self._refuse_in_use(old, "its address cannot change; register the other one beside it")
            self._refuse_other_spelling(op.url)
        if op.default_branch is not None:
            changed["default_branch"] = _branch(op.default_branch)
        if op.checks is not None:
            changed["checks"] = self._checks(op.checks)
        if op.hosts is not None:
            changed["hosts"] = self._known_hosts(op.hosts)
        record = msgspec.structs.replace(old, **changed)
        if record == old:
            return self.view(old)
        self._forget(old)
        self._keep(record)
        self._changed("repo_changed", record, caller)
        return self.view(record) | (self._gathered(record, now, old.url) if "url" in changed else {})

    def _gathered(self, record: RepoRecord, now: Now, before: str | None = None) -> JsonObject:
        """What was set and spent for other spellings of its address, and for the one that it had `before`, goes to the
        address that tasks get from now on. Nothing of one that is new where nothing was set."""
        place = same_place(record.url)
        known = self._hub.gates.repos() | self._hub.ledger.repos()
        urls = sorted(url for url in known - {record.url, before} if same_place(url) == place)
        if before is not None:  # a spelling of the same place: what binds its tasks comes before what binds none
            urls.insert(0 if same_place(before) == place else len(urls), before)
        found: JsonObject = {}
        for url in urls:
            rules = self._hub.gates.move_repo(url, record.url)
            budgets = self._hub.ledger.move_repo(url, record.url, now)
            for what, some in (("moved", rules.moved + budgets.moved), ("stayed", rules.stayed + budgets.stayed)):
                found[what] = found.get(what, []) + some
        return found if before is not None or any(found.values()) else {}

    def remove(self, op: m.RepoRemove, caller: PrincipalRecord) -> JsonObject:
        """Its tasks keep its address; with `force` also those that are not over, which then do without its checks."""
        record = self.named(op.repo)
        if not op.force:
            self._refuse_in_use(record, "cancel them, wait, or remove it with --force: they then do without its checks")
        left = self._live_count(record)
        self._forget(record)
        self._out.delete("meta", PREFIX + key_u64(record.id))
        self._apply()
        self._out.publish("hub", "repo_removed", name=record.name, url=record.url, by=caller.name)
        return {"repo": record.name, "removed": True, "live_tasks": left}

    def named(self, name: str) -> RepoRecord:
        record = self.by_name.get(name) or self.of(name)
        if record is None:
            raise NotFound(f"no repository is registered as {name}; see `agentcom repo list`", field="repo")
        return record

    def address(self, name: str) -> str:
        """The address that tasks have, for a name or any spelling; the text itself where none is registered."""
        record = self.by_name.get(name) or self.of(name)
        return record.url if record is not None else name

    def check(self, name: str, where: str) -> None:
        """Refuse what no task may name: neither a registered repository nor an address, in the words of a submit."""
        if name not in self.by_name and self.of(name) is None:
            _refuse_word(name, where)
            check_repo(name, Role.admin, where)

    def view(self, record: RepoRecord) -> JsonObject:
        return {
            "id": record.id,
            "name": record.name,
            "url": record.url,
            "default_branch": record.default_branch or None,
            "checks": [msgspec.to_builtins(check) for check in record.checks],
            "hosts": list(record.hosts),
            "live_tasks": self._live_count(record),
            "added_by": record.added_by,
            "added_at": rfc3339(record.added_ms),
        }

    def views(self) -> list[JsonObject]:
        return [self.view(self.by_name[name]) for name in sorted(self.by_name)]

    # --- inside -----------------------------------------------------------------------------------------

    def _free_name(self, name: str, field: str) -> str:
        if not _WORD.match(name):
            said = f"{field}: {name!r} is no name for a repository: letters, digits, '.', '_' and '-', no address"
            raise Refused("invalid", said, field=field)
        if name in self.by_name:
            said = f"{field}: a repository is called {name} already; choose another, or `agentcom repo update {name}`"
            raise Refused("name_taken", said, field=field)
        return name

    def _free_url(self, url: str, caller: PrincipalRecord, old: RepoRecord | None) -> str:
        check_repo(url, Role.admin if caller.role is Role.admin else Role.operate, "url")
        if _WORD.match(url):
            raise Refused("invalid", f"url: {url!r} is no address of a repository", field="url")
        known = self._by_place.get(same_place(url))
        if known is not None and known is not old:
            raise Refused("repo_known", f"url: this repository is registered as {known.name}", field="url")
        return url

    def _checks(self, checks: tuple[CheckSpec, ...]) -> tuple[CheckSpec, ...]:
        for n, check in enumerate(checks):
            check_check(check, f"checks[{n}]", self._hub.fleet.check_kinds)
        return checks

    def _known_hosts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            self._hub.fleet.host_named(name)
        return tuple(sorted(set(names)))

    def _refuse_other_spelling(self, url: str) -> None:
        """Live tasks keep the address that they were given: what is set for this spelling would not bind them.
        O(repositories of live tasks), for what is done once in the life of a repository."""
        groups, place = self._hub.tasks.groups, same_place(url)
        others = {
            number: other
            for other in groups.repos()
            if other != url and same_place(other) == place
            for number in groups.of_repo(other)
            if groups.uses(number)
        }
        if not others:
            return
        spelled = sorted(set(others.values()))
        is_one = len(spelled) == 1
        these = spelled[0] if is_one else f"this repository in {len(spelled)} other spellings, as {spelled[0]},"
        said = f"url: {these} is {'this repository too, and ' * is_one}named by {named(self._tasks_of(set(others)))}"
        remedy = "cancel them or wait" + f", or give the address as {spelled[0]}" * is_one
        raise Refused("repo_in_use", f"{said}; {remedy}: else what is set for it would not bind them", field="url")

    def _tasks_of(self, groups: set[int]) -> list[int]:
        table = self._hub.tasks.table
        return sorted(task for task, slot in table.slot_of.items() if table.group[slot] in groups)

    def _refuse_in_use(self, record: RepoRecord, remedy: str) -> None:
        count = self._live_count(record)
        if not count:
            return
        tasks = named(self._tasks_of(self._groups(record)))
        raise Refused("repo_in_use", f"{record.name} is named by {tasks}; {remedy}", field="repo")

    def _live_count(self, record: RepoRecord) -> int:
        return sum(self._hub.tasks.groups.uses(number) for number in self._groups(record))

    def _groups(self, record: RepoRecord) -> set[int]:
        """The groups of its tasks, by whatever spelling they have it. O(repositories of live tasks)."""
        groups = self._hub.tasks.groups
        return {number for url in groups.repos() if self.of(url) is record for number in groups.of_repo(url)}

    def _keep(self, record: RepoRecord) -> None:
        self._next = max(self._next, record.id + 1)
        self.by_name[record.name] = record
        self._by_place[same_place(record.url)] = record
        if record.hosts:
            self._hosts[record.name] = frozenset(record.hosts)
        self._found.clear()

    def _forget(self, record: RepoRecord) -> None:
        del self.by_name[record.name], self._by_place[same_place(record.url)]
        self._hosts.pop(record.name, None)
        self._found.clear()

    def _changed(self, event: str, record: RepoRecord, caller: PrincipalRecord) -> None:
        self._out.put("meta", PREFIX + key_u64(record.id), record)
        self._apply()
        self._out.publish("hub", event, name=record.name, url=record.url, by=caller.name)

    def _apply(self) -> None:
        """Let the hosts count from now on. O(groups); the scheduler's rows are made anew."""
        hub = self._hub
        for number in hub.tasks.groups.misplaced():
            hub.tasks.ready.set_group(number, False)
            hub.tasks.groups.replace(number)
            hub.gates.gate_group(number)
        hub.board.reset()
        hub.tasks.changed = True


def _refuse_word(name: str, where: str) -> None:
    if _WORD.match(name):
        said = f"{where}: no repository is registered as {name!r}; see `agentcom repo list`, or give its URL"
        raise NotFound(said, field=where)


def _branch(name: str) -> str:
    if name:
        check_branch(name, "default_branch")
    return name


def _within(needs: tuple[str, ...], where: str) -> tuple[str, ...]:
    if len(needs) > limits.NEEDS_MAX:
        said = f"{where}: with those of its repository's checks a task may have {limits.NEEDS_MAX} needs at most"
        raise Refused("limit", said, field=where)
    return needs
