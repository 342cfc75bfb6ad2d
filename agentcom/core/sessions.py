"""Sessions: (key, random token given in welcome). A message whose key or token does not fit is refused.

The shell's peer number is an address, never an identity. A `host` key has one session; a second process of it
is refused while the first has beaten lately, then replaces it. People may have several, up to a limit.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from agentcom import limits
from agentcom.clock import Now
from agentcom.errors import Refused
from agentcom.messages import Pace
from agentcom.model import PrincipalRecord, Role

IDLE_MS_MAX = 10 * 60 * 1000  # a person's silent session may be dropped after this when room is needed


@dataclass(slots=True)
class Session:
    number: int
    peer: int
    token: bytes
    principal: PrincipalRecord
    process: str
    heard_ms: int
    software: str = ""
    host: int = 0
    pace: Pace | None = None  # what its host was told last
    waits: dict[tuple[int, int], None] = field(default_factory=dict)  # (task, request), in order


class Sessions:
    """Live sessions by token, by peer and by key."""

    def __init__(self) -> None:
        self.by_token: dict[bytes, Session] = {}
        self.by_peer: dict[int, Session] = {}
        self._by_key: dict[str, list[Session]] = {}
        self._next = 1

    def open(
        self, peer: int, principal: PrincipalRecord, process: str, token: bytes, now: Now, fresh_ms: int
    ) -> tuple[Session, list[Session]]:
        """A new session and those that it replaces. `fresh_ms`: a host's first process holds its place while
        it has been heard within that time.

        A hello said again on the same connection by the same process keeps its session: otherwise two of them
        under way would each end the session that the other made.
        """
        known = self.by_peer.get(peer)
        if known is not None and known.principal is principal and known.process == process:
            known.heard_ms = now.mono_ms
            return known, []
        key = principal.key or ""
        live = self._by_key.get(key, [])
        replaced = [s for s in live if s.peer == peer or s.process == process]
        if principal.role is Role.host:
            self._check_host(live, process, now, fresh_ms)
            replaced = list(live)
        elif len(live) - len(replaced) >= limits.SESSIONS_PER_KEY_MAX:
            idle = [s for s in live if now.mono_ms - s.heard_ms > IDLE_MS_MAX]
            if not idle:
                raise Refused("busy", f"this key has {limits.SESSIONS_PER_KEY_MAX} sessions open; close some")
            replaced = [*replaced, *idle]
        other = self.by_peer.get(peer)
        if other is not None and other not in replaced:
            replaced.append(other)
        for old in replaced:
            self.close(old)
        session = Session(self._next, peer, token, principal, process, now.mono_ms)
        self._next += 1
        self.by_token[token] = session
        self.by_peer[peer] = session
        self._by_key.setdefault(key, []).append(session)
        return session, replaced

    def find(self, key: str, token: bytes) -> Session | None:
        """The session that a message belongs to, if its key and its token both fit."""
        session = self.by_token.get(token)
        return session if session is not None and session.principal.key == key else None

    def move(self, session: Session, peer: int) -> Session | None:
        """A caller that came back under another address keeps its session; returns the one that was there."""
        other = self.by_peer.get(peer)
        if self.by_peer.get(session.peer) is session:
            del self.by_peer[session.peer]
        session.peer = peer
        self.by_peer[peer] = session
        return other

    def away(self, gap_ms: int, now: Now) -> None:
        """The loop was away and heard nobody: nobody has been silent for that."""
        for session in self.by_token.values():
            session.heard_ms = min(session.heard_ms + gap_ms, now.mono_ms)

    def close(self, session: Session) -> None:
        self.by_token.pop(session.token, None)
        if self.by_peer.get(session.peer) is session:
            del self.by_peer[session.peer]
        of_key = self._by_key.get(session.principal.key or "", [])
        if session in of_key:
            of_key.remove(session)
        if not of_key:
            self._by_key.pop(session.principal.key or "", None)

    def of_principal(self, principal: int) -> list[Session]:
        return [s for s in self.by_token.values() if s.principal.id == principal]

    def adopt(self, old: Sessions, principals: Mapping[int, PrincipalRecord], hosts: Container[int]) -> None:
        """Take over the sessions of a core that this one replaces, but for those of principals and hosts that
        no record knows; their waits have to be parked anew."""
        self._next = old._next
        for session in old.by_token.values():
            principal = principals.get(session.principal.id)
            is_known = principal is not None and principal.key == session.principal.key
            if principal is None or not is_known or principal.revoked:
                continue
            if session.host and session.host not in hosts:
                continue
            session.principal, session.waits = principal, {}
            self.by_token[session.token] = self.by_peer[session.peer] = session
            self._by_key.setdefault(principal.key or "", []).append(session)

    @staticmethod
    def _check_host(live: list[Session], process: str, now: Now, fresh_ms: int) -> None:
        for session in live:
            silent_ms = now.mono_ms - session.heard_ms
            if session.process != process and silent_ms < fresh_ms:
                raise Refused(
                    "busy",
                    "another sidecar with this host's key is connected; stop it, or give this home a key of its own",
                    retry_after_s=round((fresh_ms - silent_ms) / 1000 + 0.5, 1),
                )
