"""What the core takes over from the store at start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from agentcom.core.depends import Edge
from agentcom.core.rows import RowPage
from agentcom.model import (
    AgentRecord,
    ClockNote,
    EndpointRecord,
    FallbackWait,
    Group,
    HostRecord,
    InviteRecord,
    PrincipalRecord,
    QuestionRecord,
    QueueRule,
    Route,
    SecondRecord,
    SettingRecord,
    State,
)
from agentcom.money import BudgetRecord, LedgerRecord, SpentRecord
from agentcom.repos import RepoRecord


class Loaded(NamedTuple):
    """Everything that the core needs from the store at start. `pages` are the live tasks in order, read once; only then
    are `routes`, `stalled` and `finals` complete. `stalled` has the progress at which live attempts were marked so, by
    task."""

    groups: list[tuple[int, Group]]
    principals: list[PrincipalRecord]
    invites: list[InviteRecord]
    hosts: list[HostRecord]
    agents: list[AgentRecord]
    endpoints: list[EndpointRecord]
    rules: list[QueueRule]
    pages: Iterable[RowPage]
    routes: dict[int, Route]
    numbers: dict[str, int]
    finals: dict[State, int]
    config: dict[str, SettingRecord]
    depends: Iterable[Edge] = ()
    clock: ClockNote | None = None
    fallbacks: Sequence[tuple[int, FallbackWait]] = ()
    budgets: Iterable[BudgetRecord] = ()
    ledger: Iterable[LedgerRecord] = ()
    repositories: Sequence[RepoRecord] = ()
    questions: Sequence[QuestionRecord] = ()
    seconds: Sequence[SecondRecord] = ()
    spent: Iterable[SpentRecord] = ()
    moved: Iterable[SpentRecord] = ()
    stalled: Mapping[int, int] = {}
    live: int = 0  # how many tasks `pages` has
