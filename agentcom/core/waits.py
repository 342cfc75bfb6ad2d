"""Parked `task_wait` requests: each is answered once, when its task is final or its time is over.

A wait belongs to a session, not to an address: a caller that came back under another address is answered there,
and one whose session has ended is forgotten.
"""

from __future__ import annotations

import heapq
from collections.abc import Container

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.effects import Read
from agentcom.core.outlet import Outlet
from agentcom.core.sessions import Session, Sessions

Place = tuple[int, int]  # session number, request id


class Waits:
    """Waits by task and by session. `principal` is what the answer is limited to, as in `Read`."""

    def __init__(self, out: Outlet) -> None:
        self._out = out
        self._parked: dict[int, dict[Place, tuple[Session, int]]] = {}
        self._due: list[tuple[int, int, int, int]] = []  # monotonic ms, task, session number, request
        self.count = 0

    def park(self, session: Session, request: int, task: int, principal: int, due_ms: int) -> bool:
        """False when there is no room: the caller is then answered at once."""
        if self.count >= limits.WAITERS_MAX:
            return False
        parked = self._parked.setdefault(task, {})
        place = (session.number, request)
        self.count += place not in parked
        parked[place] = (session, principal)
        session.waits[task, request] = None
        heapq.heappush(self._due, (due_ms, task, *place))
        if len(self._due) > 2 * self.count + limits.WAITERS_MAX:
            self._drop_answered()
        return True

    def finish(self, task: int) -> None:
        """The task is final: answer all who wait for it."""
        for (_, request), (session, principal) in self._parked.pop(task, {}).items():
            self._answer(session, request, task, principal)

    def expire(self, now: Now) -> None:
        """Answer those whose time is over with the task as it is."""
        while self._due and self._due[0][0] <= now.mono_ms:
            _, task, number, request = heapq.heappop(self._due)
            found = self._take(task, (number, request))
            if found is not None:
                self._answer(found[0], request, task, found[1])

    def forget(self, session: Session) -> None:
        """The session has ended: nobody is there to be answered."""
        for task, request in session.waits:
            if self._take(task, (session.number, request)) is not None:
                self.count -= 1
        session.waits.clear()

    def adopt(self, old: Waits, live: Container[int], sessions: Sessions) -> None:
        """Park anew what another core had parked, for the tasks and the sessions that this one has."""
        for due_ms, task, number, request in old._due:
            session, principal = old._parked.get(task, {}).get((number, request), (None, 0))
            if session is not None and task in live and sessions.by_token.get(session.token) is session:
                self.park(session, request, task, principal, due_ms)

    def next_due_ms(self) -> int | None:
        return self._due[0][0] if self._due else None

    def places(self) -> dict[tuple[int, int, int], Session]:
        """Every parked wait as (task, session number, request), for checks."""
        return {
            (task, *place): session
            for task, parked in self._parked.items()
            for place, (session, _) in parked.items()
        }

    def _take(self, task: int, place: Place) -> tuple[Session, int] | None:
        parked = self._parked.get(task)
        if parked is None:
            return None
        found = parked.pop(place, None)
        if not parked:
            del self._parked[task]
        return found

    def _answer(self, session: Session, request: int, task: int, principal: int) -> None:
        self.count -= 1
        session.waits.pop((task, request), None)
        self._out.add(Read(session.peer, request, m.TaskGet(task=task), principal))

    def _drop_answered(self) -> None:
        kept = [due for due in self._due if due[2:] in self._parked.get(due[1], {})]
        heapq.heapify(kept)
        self._due = kept
