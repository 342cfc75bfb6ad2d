"""Who may call, and what: keys, tokens, one-time keys, roles.

Identity is a CURVE public key, or the SHA-256 of a bearer token that the web process forwards. Names are
unique. A revoked principal stays as a record, so that its key can never be enrolled again.
"""

from __future__ import annotations

import re

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.effects import KeysChanged, key_u64
from agentcom.core.outlet import Outlet
from agentcom.errors import NEW_LINK, NEW_TOKEN, NotFound, Refused
from agentcom.model import InviteRecord, PrincipalRecord, Role
from agentcom.signed_report import fingerprint

READERS = frozenset({Role.view, Role.operate, Role.admin})
OPERATORS = frozenset({Role.operate, Role.admin})
ADMINS = frozenset({Role.admin})
SUBMITTERS = frozenset({Role.submit, Role.operate, Role.admin})
ANY_PERSON = frozenset({Role.view, Role.submit, Role.operate, Role.admin})
OWN_READERS = READERS | {Role.submit}

RIGHTS: dict[type, frozenset[Role]] = {
    m.Submit: SUBMITTERS,
    m.TaskGet: OWN_READERS,
    m.TaskWait: OWN_READERS,
    m.TaskList: OWN_READERS,
    m.TaskWhy: OWN_READERS,
    m.TaskLog: OWN_READERS,
    m.TaskReports: OWN_READERS,
    m.TaskStory: OWN_READERS,
    m.TaskCancel: SUBMITTERS,
    m.TaskRetry: SUBMITTERS,
    m.TaskHold: OPERATORS,
    m.TaskRelease: OPERATORS,
    m.TaskAnswer: SUBMITTERS,
    m.DeadList: READERS,
    m.DeadRetry: OPERATORS,
    m.DeadPurge: OPERATORS,
    m.AgentList: READERS,
    m.AgentCordon: OPERATORS,
    m.AgentRemove: OPERATORS,
    m.HostList: READERS,
    m.HostShow: READERS,
    m.HostInvite: ADMINS,
    m.HostRemove: ADMINS,
    m.HostDrain: ADMINS,
    m.HostAcceptKey: ADMINS,
    m.WorktreeList: READERS,
    m.EndpointList: READERS,
    m.EndpointShow: READERS,
    m.EndpointAdd: OPERATORS,
    m.EndpointUpdate: OPERATORS,
    m.EndpointRemove: OPERATORS,
    m.EndpointProbeNow: OPERATORS,
    m.EventList: READERS,
    m.QueueStats: READERS,
    m.QueuePause: OPERATORS,
    m.BackupList: READERS,
    m.BackupNow: OPERATORS,
    m.BackupVerify: OPERATORS,
    m.Compact: ADMINS,
    m.StoreAcknowledge: OPERATORS,
    m.ConfigGet: READERS,
    m.ConfigChange: ADMINS,
    m.QueueLimit: OPERATORS,
    m.QueueWeight: OPERATORS,
    m.QueueRules: READERS,
    m.BudgetList: READERS,
    m.BudgetSet: OPERATORS,
    m.RepoList: OWN_READERS,
    m.RepoShow: OWN_READERS,
    m.RepoAdd: OPERATORS,
    m.RepoUpdate: OPERATORS,
    m.RepoRemove: OPERATORS,
    m.TokenAdd: ADMINS,
    m.TokenList: ADMINS,
    m.TokenRevoke: ADMINS,
    m.TokenLink: ANY_PERSON,
    m.LinkTrade: frozenset({Role.web}),
    m.Whoami: ANY_PERSON | {Role.web},
    m.Snapshot: READERS | {Role.web},
    m.HubStatus: READERS,
}
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9 ._'-]*\Z"
)  # as model.Name, which an empty name of an invite is not
FEED_ROLES = frozenset({Role.web, Role.view, Role.operate, Role.admin})


class Principals:
    """All principals and live invites, by every key that they are looked up with."""

    def __init__(self, out: Outlet) -> None:
        self._out = out
        self.by_id: dict[int, PrincipalRecord] = {}
        self.by_key: dict[str, PrincipalRecord] = {}
        self.by_token: dict[str, PrincipalRecord] = {}
        self.by_name: dict[str, PrincipalRecord] = {}
        self._first_of: dict[str, int] = {}  # by name, of people who have or had it: the id of the first
        self.follows: dict[int, int] = {}  # by id, of those whose name others had before: the id of the first
        self.invites: dict[str, InviteRecord] = {}
        self._links: dict[str, PrincipalRecord] = {}
        self._refused_keys: dict[int, str] = {}  # by principal: the signing key whose refusal was told
        self._next = 1

    def load(self, record: PrincipalRecord) -> None:
        """By rising id, as they lie in the store."""
        self.by_id[record.id] = record
        self._next = max(self._next, record.id + 1)
        if record.key:
            self.by_key[record.key] = record
        if record.token_sha256:
            self.by_token[record.token_sha256] = record
        if not record.revoked:
            self.by_name[record.name] = record
        if not record.parent:
            first = self._first_of.setdefault(record.name, record.id)
            if first != record.id:
                self.follows[record.id] = first

    def load_invite(self, record: InviteRecord) -> None:
        self.invites[record.key] = record
        self._next = max(self._next, record.id + 1)

    def adopt(self, old: Principals) -> None:
        """Take over the one-time links, which no record holds."""
        self._links = {s: link for s, link in old._links.items() if link.parent in self.by_id}

    def add(self, record: PrincipalRecord) -> PrincipalRecord:
        """Store a new principal under the next id."""
        if len(self.by_id) >= limits.PRINCIPALS_MAX:
            raise Refused("limit", f"there are already {limits.PRINCIPALS_MAX} keys and tokens; revoke some")
        record.id = self._next
        self.load(record)
        self._save(record)
        return record

    def of_token(self, token_sha256: str, now: Now, web_process: str) -> PrincipalRecord:
        """The principal of a bearer token; refused if unknown, revoked, expired, or of another web process."""
        record = self.by_token.get(token_sha256)
        if record is None or record.revoked:
            raise Refused("unauthorised", f"this token is not known here or was revoked; {NEW_TOKEN}")
        parent = self.by_id.get(record.parent) if record.parent else None
        expired = record.expires_ms and record.expires_ms <= now.wall_ms
        if expired or (record.parent and (parent is None or parent.revoked)):
            raise Refused("unauthorised", f"this session has ended; {NEW_LINK}")
        if record.web_process and record.web_process != web_process:
            raise Refused("unauthorised", f"the page's session ended with the web process; {NEW_LINK}")
        return record

    def number_named(self, name: str) -> int | None:
        """The number that stands for whoever has the name: the id of the first who had it, which stays when a key or a
        token is revoked and another gets its name. None where nobody ever had it."""
        return self._first_of.get(name)

    def number_of(self, principal: int) -> int:
        """The number of the principal's name. It never changes."""
        return self.follows.get(principal, principal)

    def admitted(self, now: Now) -> tuple[frozenset[str], frozenset[str]]:
        """The keys that may connect: (to the hub, to the feed)."""
        keys = {r.key for r in self.by_key.values() if r.key and not r.revoked}
        invites = {i.key for i in self.invites.values() if i.expires_ms > now.wall_ms}
        feed = {r.key for r in self.by_key.values() if r.key and not r.revoked and r.role in FEED_ROLES}
        return frozenset(keys | invites), frozenset(feed)

    def invite(self, op: m.HostInvite, now: Now) -> InviteRecord:
        if op.role is Role.web:
            raise Refused("invalid", "role: only the hub makes keys for the web process", field="role")
        if op.name and not _NAME.match(op.name):
            raise Refused(
                "invalid",
                f"name: {op.name!r} begins with no letter or digit, or has odd characters",
                field="name",
            )
        for invite in [i for i in self.invites.values() if i.expires_ms <= now.wall_ms]:
            self._drop_invite(invite)
        if len(self.invites) >= limits.INVITES_MAX:
            # Kept so that a joining whose answer was lost can be said again: the oldest has least need of that.
            used = next((i for i in self.invites.values() if i.bound_key), None)
            if used is not None:
                self._drop_invite(used)
        if len(self.invites) >= limits.INVITES_MAX:
            raise Refused(
                "limit", f"there are already {limits.INVITES_MAX} open invitations; they end after an hour"
            )
        if op.key in self.by_key or op.key in self.invites:
            raise Refused("key_known", "key: this key is already known", field="key")
        record = InviteRecord(
            id=self._next,
            key=op.key,
            role=op.role,
            name=op.name,
            created_ms=now.wall_ms,
            expires_ms=now.wall_ms + limits.INVITE_TTL_S * 1000,
        )
        self.load_invite(record)
        self._out.put("principals", b"i" + key_u64(record.id), record)
        self._out.add(KeysChanged(revoked=False))
        return record

    def enrol(self, one_time_key: str, message: m.Enrol, now: Now) -> PrincipalRecord:
        """Enrol `message.key` with a one-time key; the same key again gets the same answer."""
        invite = self.invites.get(one_time_key)
        if invite is None or invite.expires_ms <= now.wall_ms:
            raise Refused(
                "invite_unknown", "this join code has expired or is not one of this hub; ask for a new one"
            )
        if invite.bound_key:
            known = self.by_id[invite.principal]
            if invite.bound_key == message.key and not known.revoked:
                return known
            if invite.bound_key == message.key:
                raise Refused("revoked", "this key was revoked; make another and ask for a new join code")
            raise Refused("invite_used", "this join code was already used by another key; ask for a new one")
        if message.key in self.by_key or message.key in self.invites:
            raise Refused(
                "key_known", "this key is already enrolled or was revoked; remove it and join again"
            )
        record = self.add(
            PrincipalRecord(
                id=0,
                name=self.free_name(invite.name or message.name),
                role=invite.role,
                key=message.key,
                signing_key=message.signing_key,
                created_ms=now.wall_ms,
            )
        )
        invite.bound_key, invite.principal = message.key, record.id
        self._out.publish("hub", "key_enrolled", name=record.name, role=record.role.value)
        self._out.put("principals", b"i" + key_u64(invite.id), invite)
        self._out.add(KeysChanged(revoked=False))
        return record

    def check_signing_key(self, record: PrincipalRecord, offered: str | None) -> None:
        """Refuse a host that signs with another key than the one that is known, before it is given work whose report
        nobody could believe."""
        known = record.signing_key
        if known is None or offered == known:
            return
        if offered is None:
            raise Refused(
                "signing_key_missing",
                f"host.signing_key: {record.name} has a key for its reports, {fingerprint(known)}, and does not offer "
                "it; start its sidecar with the version of the hub",
                field="host.signing_key",
            )
        if self._refused_keys.get(record.id) != offered:
            self._refused_keys[record.id] = offered
            fields = {"known": fingerprint(known), "offered": fingerprint(offered)}
            self._out.publish("host", "signing_key_refused", host=record.name, **fields)
        raise Refused(
            "signing_key_changed",
            f"host.signing_key: {record.name} offers {fingerprint(offered)}, known is {fingerprint(known)}; if its key "
            f"was replaced on purpose: agentcom host accept-key {record.name} {offered}",
            field="host.signing_key",
        )

    def know_signing_key(self, record: PrincipalRecord, offered: str | None) -> None:
        """The first key that a host offers is held to from then on."""
        if record.signing_key is None and offered is not None:
            record.signing_key = offered
            self._save(record)
            self._out.publish("host", "signing_key_known", host=record.name, key=fingerprint(offered), by="")

    def accept_signing_key(self, record: PrincipalRecord, key: str, by: str) -> None:
        """A person says that the host has another key now."""
        record.signing_key = key
        self._refused_keys.pop(record.id, None)
        self._save(record)
        self._out.publish("host", "signing_key_known", host=record.name, key=fingerprint(key), by=by)

    def add_token(self, op: m.TokenAdd, now: Now) -> PrincipalRecord:
        if op.role not in ANY_PERSON:
            raise Refused("invalid", "role: a token is for view, submit, operate or admin", field="role")
        if op.name in self.by_name:
            raise Refused(
                "name_taken", f"name: {op.name} is taken; revoke it first or choose another", field="name"
            )
        if op.token_sha256 in self.by_token:
            raise Refused("token_known", "this token is already registered", field="token_sha256")
        return self.add(
            PrincipalRecord(
                id=0, name=op.name, role=op.role, token_sha256=op.token_sha256, created_ms=now.wall_ms
            )
        )

    def revoke(self, name: str) -> PrincipalRecord:
        record = self.by_name.get(name)
        if record is None:
            raise NotFound(f"no key or token is named {name}; see `agentcom token list`", field="name")
        if record.role is Role.admin and record.key and self._admin_keys() == 1:
            raise Refused("last_admin", "this is the last admin key; make another before you revoke it")
        if record.role is Role.web:
            raise Refused(
                "forbidden", "the web process's own key cannot be revoked; stop `agentcom web` instead"
            )
        record.revoked = True
        del self.by_name[record.name]
        self._save(record)
        for child in [p for p in self.by_token.values() if p.parent == record.id]:
            self._forget(child)
        for secret in [s for s, link in self._links.items() if link.parent == record.id]:
            del self._links[secret]
        self._out.add(KeysChanged(revoked=True))
        return record

    def link(self, op: m.TokenLink, caller: PrincipalRecord, now: Now) -> PrincipalRecord:
        """Register a one-time secret for the page; the session it is traded for ends with `caller`."""
        role = op.role or caller.role
        allowed = {caller.role} | (ANY_PERSON if caller.role is Role.admin else frozenset())
        if caller.role is Role.operate:
            allowed = {Role.view, Role.submit, Role.operate}
        if role not in allowed:
            raise Refused("forbidden", f"role: {caller.role} cannot give {role}", field="role")
        for secret in [s for s, r in self._links.items() if r.expires_ms <= now.wall_ms]:
            del self._links[secret]
        if len(self._links) >= limits.INVITES_MAX:
            raise Refused(
                "limit", f"there are already {limits.INVITES_MAX} open links; they end after ten minutes"
            )
        owner = caller.parent or caller.id
        record = PrincipalRecord(
            id=0, name="", role=role, parent=owner, expires_ms=now.wall_ms + limits.LINK_TTL_S * 1000
        )
        self._links[op.secret_sha256] = record
        return record

    def trade(self, op: m.LinkTrade, web_process: str, now: Now) -> PrincipalRecord:
        """A page session for a one-time secret, bound to the web process that asked."""
        link = self._links.get(op.secret_sha256)
        if link is None or link.expires_ms <= now.wall_ms or op.token_sha256 in self.by_token:
            raise Refused(
                "unauthorised", "this link was used before or has expired; get one by `agentcom token link`"
            )
        for old in [p for p in self.by_token.values() if p.parent and p.expires_ms <= now.wall_ms]:
            self._forget(old)
        record = self.add(
            PrincipalRecord(
                id=0,
                name=self.free_name(f"page-{self._next}"),
                role=link.role,
                token_sha256=op.token_sha256,
                created_ms=now.wall_ms,
                expires_ms=now.wall_ms + limits.PAGE_SESSION_TTL_S * 1000,
                parent=link.parent,
                web_process=web_process,
            )
        )
        del self._links[op.secret_sha256]
        return record

    def free_name(self, wanted: str) -> str:
        """`wanted`, with a number behind it when it is taken."""
        if wanted not in self.by_name:
            return wanted
        return next(
            name
            for n in range(2, limits.PRINCIPALS_MAX + 2)
            if (name := f"{wanted[: limits.NAME_CHARS_MAX - 6]}-{n}") not in self.by_name
        )

    def _admin_keys(self) -> int:
        return sum(1 for p in self.by_name.values() if p.role is Role.admin and p.key)

    def _forget(self, record: PrincipalRecord) -> None:
        self.by_id.pop(record.id, None)
        self.by_token.pop(record.token_sha256 or "", None)
        self.by_name.pop(record.name, None)
        self._out.delete("principals", b"p" + key_u64(record.id))

    def _drop_invite(self, invite: InviteRecord) -> None:
        del self.invites[invite.key]
        self._out.delete("principals", b"i" + key_u64(invite.id))

    def _save(self, record: PrincipalRecord) -> None:
        self._out.put("principals", b"p" + key_u64(record.id), record)


def may_touch(caller: PrincipalRecord | None, submitter: int) -> bool:
    """A `submit` role sees its own tasks only; `caller` None stands for the hub itself."""
    return caller is None or caller.role is not Role.submit or submitter == owner_of(caller)


def owner_of(caller: PrincipalRecord) -> int:
    """Whose tasks the caller's are: a page session acts for the key or token that made its link."""
    return caller.parent or caller.id
