"""What must hold between any two events: every index of the core fits every other.

`check` raises AssertionError with what does not fit. It walks everything, so it runs in tests and the simulator,
after each event; the hub itself does not call it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from agentcom import limits
from agentcom._pysched import TOPS_MAX
from agentcom.core.capabilities import NOT_HOST
from agentcom.core.lanes import ReadyQueue, key_of, task_of
from agentcom.core.ledger import WAITING_CODES
from agentcom.core.rows import LANES, TIERS
from agentcom.core.score import Candidate
from agentcom.core.wanted import Wanted
from agentcom.figures import plausible
from agentcom.model import FINAL, OPEN_ATTEMPT, RuleKind, RuleScope, State, Tier

if TYPE_CHECKING:
    from agentcom.core.hub import Hub


def check(hub: Hub) -> None:
    """All of the checks below."""
    _check_rows(hub)
    _check_ledger(hub)
    _check_depends(hub)
    _check_ready(hub)
    _check_interned(hub)
    _check_gates(hub)
    _check_agents(hub)
    _check_calls(hub)
    _check_circuits(hub)
    _check_preloads(hub)
    _check_removals(hub)
    _check_board(hub)
    _check_fleet(hub)
    _check_reports(hub)
    _check_sessions(hub)
    _check_principals(hub)
    _check_repositories(hub)
    _check_questions(hub)
    _check_seconds(hub)


def _check_seconds(hub: Hub) -> None:
    """Of live tasks; one that waits is for any host but the one that did the work, and costs nothing."""
    tasks, table = hub.tasks, hub.tasks.table
    for task, record in tasks.seconds.items():
        assert task in table, f"a second host is kept for task {task}, which is not live"
        slot = table.slot_of[task]
        if not record.attempt:
            continue
        group = tasks.groups[table.group[slot]]
        assert f"{NOT_HOST}{record.host_name}" in group.needs, f"task {task} may be verified by the host that did it"
        assert group.tier is TIERS[table.tier[slot]] is Tier.trivial, f"task {task} waits as {group.tier}"
        assert table.state_of(slot) is not State.waiting, f"task {task} waits for tasks and for a second host"
        assert record.tries <= limits.SECOND_HOST_TRIES_MAX, f"task {task} was tried by {record.tries} second hosts"
        if table.state_of(slot) in OPEN_ATTEMPT:
            assert table.attempt[slot] > record.attempt, f"attempt {record.attempt} of task {task} is open and over"
            assert table.host[slot] != record.host, f"{record.host_name} verifies its own work of task {task}"


def _check_questions(hub: Hub) -> None:
    """Questions are of live tasks; a task that is pinned for one has the need in its group."""
    tasks = hub.tasks
    for task, record in tasks.asked.items():
        assert task in tasks.table, f"a question of task {task} is kept, and the task is not live"
        needs = tasks.groups[tasks.table.group[tasks.table.slot_of[task]]].needs
        assert not record.pin or record.pin in needs, f"task {task} is not pinned to {record.pin}"
        assert record.attempt or not record.pin, f"task {task} is pinned, and nothing is kept for it"

def _check_ledger(hub: Hub) -> None:
    """Each open entry is an open attempt and each open paid attempt has one, every held task that waits for a budget is
    known to the ledger, and sums hold at least what is reserved."""
    ledger, table = hub.ledger, hub.tasks.table
    for task, slot in table.slot_of.items():
        tier = table.stepped.get(task) or TIERS[table.tier[slot]]
        if table.state_of(slot) in OPEN_ATTEMPT and tier is Tier.complex:
            attempt = table.attempt[slot]
            assert (task, attempt) in ledger.open, f"attempt {attempt} of task {task} is paid and not in the book"
    for task, attempt in ledger.open:
        assert hub.attempts.is_open(task, attempt), f"attempt {attempt} of task {task} is over and not settled"
    for task, error in table.errors.items():
        if error.code in WAITING_CODES and table.state_of(table.slot_of[task]) is State.held:
            assert task in ledger.waiting, f"task {task} waits for a budget, and nobody would let it go"
    sums = ledger.sums.by_place
    for place, reserved in ledger.recounted().items():
        assert sums[place] >= reserved, f"{place} counts {sums[place]}, {reserved} are reserved"
    assert all(amount >= 0 for amount in sums.values()), "a sum fell below zero"
    of_people: Counter[str] = Counter()
    for (scope, period), amount in sums.items():
        if scope[0] == "submitter":
            of_people[period] += amount
    in_all = {period: amount for (scope, period), amount in sums.items() if scope[0] == "all"}
    assert +of_people == +Counter(in_all), f"{in_all} counted in all, {of_people} by submitters"
    assert in_all.get("", 0) == ledger.sums.booked, f"{in_all} counted, {ledger.sums.booked} booked"
    for names in (table.budgets, table.paid):
        assert set(names) <= set(table.slot_of), "money is kept for a task that is not live"


def _check_rows(hub: Hub) -> None:
    """Counts by state and lane, the deadline of each task that no agent holds, the reason of each that waits."""
    tasks, table = hub.tasks, hub.tasks.table
    for task, slot in table.slot_of.items():
        state = table.state_of(slot)
        assert table.id[slot] == task, f"slot {slot} of task {task} belongs to {table.id[slot]}"
        assert state not in FINAL, f"task {task} is {state} and still in the table"
        assert table.group[slot] in tasks.groups, f"task {task} has group {table.group[slot]}"
        if state not in OPEN_ATTEMPT:
            assert table.agent[slot] == 0, f"task {task} is {state} and has agent {table.agent[slot]}"
        if state is State.held:
            assert task in table.errors, f"task {task} is held for no reason"
        if state is State.delayed:
            assert table.not_before_ms[slot] or hub.attempts.has_timer(task), (
                f"task {task} is delayed for ever"
            )
    unwatched = tasks.deadlines.unwatched()
    assert not unwatched, f"tasks {unwatched} are in states that no timer ends"
    states = Counter(table.state_of(slot) for slot in table.slot_of.values())
    counted = {state: n for state, n in tasks.counts.items() if state not in FINAL and n}
    assert counted == dict(states), f"counted {counted}, there are {dict(states)}"
    assert all(n >= 0 for n in tasks.counts.values()), f"counts fell below zero: {tasks.counts}"
    lanes = Counter(LANES[table.lane[slot]] for slot in table.slot_of.values())
    assert {lane: n for lane, n in tasks.by_lane.items() if n} == dict(lanes), f"lanes {tasks.by_lane}"
    assert set(table.errors) <= set(table.slot_of), "an error belongs to no live task"
    assert set(table.stepped) <= set(table.slot_of), "a step between tiers belongs to no live task"
    for group, wait in hub.router.fallbacks.waits.items():
        same = tasks.groups.number_of(group)
        assert same in (None, wait.number), f"the wait of group {same} is kept under {wait.number}"


def _check_depends(hub: Hub) -> None:
    """A task waits if and only if something that it needs is live; edges are the same from both ends."""
    tasks, waiting = hub.tasks, hub.tasks.waiting
    for task, slot in tasks.table.slot_of.items():
        state, unmet = tasks.table.state_of(slot), waiting.unmet(task)
        if state is State.waiting:
            assert unmet, f"task {task} waits for nothing"
            assert not waiting.failed(task), f"task {task} waits for {waiting.failed(task)}, which are final"
        elif state is not State.held:
            assert not unmet, f"task {task} is {state} and waits for {unmet}"
    ends = sorted((one, other) for one, others in waiting.depends.unmet.items() for other in others)
    assert ends == waiting.depends.edges(), f"edges {ends}, from the other end {waiting.depends.edges()}"


def _check_ready(hub: Hub) -> None:
    """The queue gives out every ready task once, and nothing else."""
    tasks = hub.tasks
    ready: ReadyQueue = tasks.ready
    table = tasks.table
    expected = sorted(t for t, slot in table.slot_of.items() if table.state_of(slot) is State.ready)
    queued = [task_of(entry) for entry in ready.entries()]
    assert sorted(queued) == expected, f"queued {sorted(queued)}, ready {expected}"
    given = ready.next(len(table) + 1)
    may_start = [task for task in expected if not hub.gates.is_closed(table.slot_of[task])]
    assert sorted(task_of(entry) for entry, _ in given) == may_start, f"given {given}, may start {may_start}"
    assert ready.count == len(expected), f"the queue counts {ready.count} of {len(expected)}"
    for entry, group in given:
        slot = table.slot_of[task_of(entry)]
        assert table.group[slot] == group, f"task {table.id[slot]} is given out for group {group}"
        assert table.order_key[slot] == key_of(entry), f"task {table.id[slot]} has another place in the queue"


def _check_interned(hub: Hub) -> None:
    """Requirement groups and label sets: each is counted as often as it is used, and few lie unused."""
    table, groups = hub.tasks.table, hub.tasks.groups
    slots = table.slot_of.values()
    counted = Counter(table.group[slot] for slot in slots)
    assert {n: groups.uses(n) for n in groups.used()} == dict(counted), "uses of requirement groups"
    labels = Counter(table.labels[slot] for slot in slots)
    assert {n: table.label_sets.uses(n) for n in table.label_sets.used()} == dict(labels), "uses of labels"
    by_repo = {n for number in groups for n in groups.of_repo(groups[number].repo)}
    assert by_repo == set(groups), "groups by repository"


def _check_gates(hub: Hub) -> None:
    """Limits count what agents run, and the rules are those that work."""
    gates = hub.gates
    assert gates.running == gates.recounted(), f"running {gates.running}, held {gates.recounted()}"
    working = {agent.record.id for agent in hub.fleet.agents.values() if agent.task}
    assert gates.counted_agents <= working, "an agent that runs nothing counts for a limit"
    paused = {
        int(key) for kind, scope, key in gates.rules if (kind, scope) == (RuleKind.pause, RuleScope.host)
    }
    assert paused == {n for n, host in hub.fleet.hosts.items() if host.paused}, "paused hosts"
    endpoints = {
        int(key): rule.number for (_, scope, key), rule in gates.rules.items() if scope == "endpoint"
    }
    assert endpoints == hub.registry.limits, "limits of endpoints"
    table = hub.tasks.table
    for agent in hub.fleet.agents.values():
        slot = table.slot_of.get(agent.task)
        # An agent that still ends a cancelled attempt may hold the same task as another, which runs a later one.
        is_current = slot is not None and table.attempt[slot] == agent.attempt
        if slot is not None and is_current and table.state_of(slot) in OPEN_ATTEMPT:
            assert gates.counts_for(agent.record.id) == set(gates.limits_of(slot)), (
                f"{agent.record.name} counts for other limits than its task has"
            )


def _check_agents(hub: Hub) -> None:
    """Each open attempt has its agent, each taken agent an attempt that is open or whose kill is awaited."""
    table = hub.tasks.table
    held = {}
    for task, slot in table.slot_of.items():
        if table.state_of(slot) in OPEN_ATTEMPT:
            agent = hub.fleet.agents.get(table.agent[slot])
            assert agent is not None, f"task {task} is held by no agent"
            assert (agent.task, agent.attempt) == (task, table.attempt[slot]), (
                f"{agent.record.name} has another"
            )
            assert agent.host.record.id == table.host[slot], f"task {task} is leased to another host"
            assert agent.working == (table.state_of(slot) is State.working), (
                f"{agent.record.name} and its task differ"
            )
            assert hub.attempts.has_timer(task), f"the lease of task {task} never ends"
            held[agent.record.id] = task
    closing = hub.attempts.closing
    for place, agent in closing.items():
        assert (agent.task, agent.attempt) == place, f"{agent.record.name} is closing {place} and has another"
        assert agent.free_by_ms, f"{agent.record.name} is never freed"
    for number, agent in hub.fleet.agents.items():
        is_taken = number in held or (agent.task, agent.attempt) in closing
        assert bool(agent.task) == is_taken, (
            f"{agent.record.name} holds task {agent.task}, which is not its own"
        )
    _check_alone(hub)
    _check_blocks(hub)
    for host in hub.fleet.hosts.values():
        busy = sum(1 for agent in host.agents.values() if agent.task)
        assert host.busy_count == busy, f"{host.record.name} counts {host.busy_count} busy agents of {busy}"


def _check_blocks(hub: Hub) -> None:
    blocked = {number for number, host in hub.fleet.hosts.items() if host.blocks}
    assert blocked == set(hub.fleet._blocked), (
        f"blocked hosts {sorted(hub.fleet._blocked)} of {sorted(blocked)}"
    )


def _check_alone(hub: Hub) -> None:
    """Tasks that have to run alone are known, and so are the hosts on which one does."""
    table, tasks = hub.tasks.table, hub.tasks
    alone = [task for task, slot in table.slot_of.items() if tasks.groups[table.group[slot]].alone]
    assert sorted(tasks.alone) == sorted(alone), f"alone {sorted(tasks.alone)}, by their groups {alone}"
    for host in hub.fleet.hosts.values():
        running = sum(agent.alone for agent in host.agents.values())
        assert host.alone == running, f"{host.record.name} counts {host.alone} alone of {running}"
        assert all(agent.task for agent in host.agents.values() if agent.alone), "an idle agent is alone"


def _check_calls(hub: Hub) -> None:
    """In flight is what open or closing attempts call, on endpoints that are still registered."""
    taken = {(agent.task, agent.attempt) for agent in hub.fleet.agents.values() if agent.task}
    calls = hub.attempts.calls
    assert set(calls) <= taken, f"calls of closed attempts: {sorted(set(calls) - taken)}"
    counted = Counter(call[:2] for call in calls.values() if call[0] in hub.registry.endpoints)
    assert hub.registry.in_flight == dict(counted), (
        f"in flight {hub.registry.in_flight}, calls {dict(counted)}"
    )
    by_endpoint = {(e, model): n for e, calls in hub.registry.calls.items() for model, n in calls.items()}
    assert by_endpoint == hub.registry.in_flight, f"by endpoint {by_endpoint}"


def _check_circuits(hub: Hub) -> None:
    """Circuits are of endpoints and hosts that exist; what is shut is counted, and what hangs is in records."""
    circuits, endpoints = hub.registry.circuits, hub.registry.endpoints
    for breakers in (circuits.endpoints, circuits.ways, circuits.models):
        shut = sum(one.state != "closed" for one in breakers.circuits.values())
        assert shut == breakers.count_shut, f"{breakers.count_shut} shut circuits counted, {shut} are"
    assert set(circuits.endpoints.circuits) <= set(endpoints), "a circuit of no endpoint"
    places = set(circuits.ways.circuits)
    assert all(e in endpoints and h in hub.fleet.hosts for e, h in places), f"ways to nowhere: {sorted(places)}"
    hung = {(number, model) for number, one in endpoints.items() for model in one.hung}
    assert hung == set(circuits.models.circuits), f"hung by records {hung}, by circuits {set(circuits.models.circuits)}"


def _check_preloads(hub: Hub) -> None:
    """What is loaded ahead is one model of an endpoint that is there, and somebody was asked who can answer."""
    preloads, endpoints = hub.preloads, hub.registry.endpoints
    assert len(preloads.open) <= limits.PRELOADS_MAX, f"{len(preloads.open)} models are loaded ahead"
    for number, one in preloads.open.items():
        assert number == one.endpoint in endpoints, f"{one} is of no endpoint"
        assert one.host == endpoints[number].seen_from, f"{one} was asked of another host"
        assert not one.host or hub.fleet.hosts[one.host].session is not None, f"nobody is there to answer {one}"
    places = {(one.endpoint, one.model) for one in preloads.open.values()}
    assert hub.registry.loads.preloads() <= places, f"loads ahead {hub.registry.loads.preloads()}, asked {places}"
    shut = sum(one.state != "closed" for one in preloads.failed.circuits.values())
    assert shut == preloads.failed.count_shut, f"{preloads.failed.count_shut} failed loads counted, {shut} are"
    assert all(number in endpoints for number, _ in preloads.failed.circuits), "a failed load of no endpoint"


def _check_removals(hub: Hub) -> None:
    """What is marked in its record is waited for, and still has something to do."""
    removals, registry, fleet = hub.removals, hub.registry, hub.fleet
    draining = {n for n, one in registry.endpoints.items() if one.draining}
    assert draining == set(removals.endpoints), f"draining endpoints {draining}, {sorted(removals.endpoints)}"
    agents = {n for n, one in fleet.agents.items() if one.record.removing}
    assert agents == set(removals.agents), f"agents to be removed {agents}, {sorted(removals.agents)}"
    hosts = {n for n, one in fleet.hosts.items() if one.record.removing}
    assert hosts == set(removals.hosts), f"hosts to be removed {hosts}, {sorted(removals.hosts)}"


def _check_board(hub: Hub) -> None:
    """The scheduler's rows offer the same ways at the same costs as are found anew from fleet and registry."""
    board, router, now = hub.board, hub.router, hub.board.now
    board.refresh(now)
    agents = [agent for agent in hub.fleet.agents.values() if agent.takes_work]
    assert board.free_count == len(agents), f"{board.free_count} agents counted free of {len(agents)}"
    for wanted in list(board.pools):
        anew = [way for way in router.ways(*wanted, now) if way.has_slot]
        _check_pool(board.tops(wanted, TOPS_MAX), anew, wanted)
        refused, refused_anew = board.refused(wanted, now), router.refusals.counts(*wanted)
        assert refused == refused_anew, f"{wanted}: refused by {refused}, anew by {refused_anew}"


def _check_pool(tops: list[tuple[int, int, int]], anew: list[Candidate], wanted: Wanted) -> None:
    costs: dict[tuple[int, int], int] = {}
    least: dict[tuple[int, int], int] = {}  # by host: one agent stands for all that are equal
    for way in anew:
        endpoint = way.endpoint.id if way.endpoint else 0
        costs[way.agent.record.id, endpoint] = way.cost_us
        pair = way.agent.host.record.id, endpoint
        least[pair] = min(way.cost_us, least.get(pair, way.cost_us))
    said = f"{wanted}: the rows offer {tops}, anew there are {costs}"
    assert all(costs.get((agent, endpoint)) == cost for cost, agent, endpoint in tops), said
    if not wanted[0].prefers:  # else agents of one host may differ
        assert [cost for cost, _, _ in tops] == sorted(least.values())[:TOPS_MAX], said
    assert bool(tops) == bool(costs), said
    assert not tops or tops[0][0] == min(costs.values()), said


def _check_fleet(hub: Hub) -> None:
    fleet = hub.fleet
    names = {host.record.name: host for host in fleet.hosts.values()}
    assert names == fleet.host_by_name, f"hosts by name: {sorted(fleet.host_by_name)}, hosts: {sorted(names)}"
    agents = {agent.record.name: agent for agent in fleet.agents.values()}
    assert agents == fleet.agent_by_name, f"agents by name: {sorted(fleet.agent_by_name)}, {sorted(agents)}"
    placed = {n: agent for host in fleet.hosts.values() for n, agent in host.agents.items()}
    assert placed == fleet.agents, f"agents of hosts: {sorted(placed)}, agents: {sorted(fleet.agents)}"
    for host in fleet.hosts.values():
        assert host.online <= (host.session is not None), f"{host.record.name} is online without a session"
        if host.session is not None:
            assert hub.sessions.by_token.get(host.session.token) is host.session, (
                f"{host.record.name}: ended session"
            )
            assert host.session.principal.id == host.record.principal, (
                f"{host.record.name}: another's session"
            )


def _check_reports(hub: Hub) -> None:
    """What a host reports is bounded, in order, and free of figures that contradict each other."""
    for host in hub.fleet.hosts.values():
        name, record, times = host.record.name, host.record, host.trend.times_s()
        assert len(times) <= limits.TREND_POINTS_MAX, f"{name} has {len(times)} points"
        assert list(times) == sorted(times), f"{name} has points out of order"
        if host.reported_ms:
            assert record.resources is not None, f"{name} reported nothing"
            assert plausible(record.resources) is record.resources, f"{name} has figures that cannot be"


def _check_sessions(hub: Hub) -> None:
    """Sessions by address and by token, and the waits of each."""
    sessions = hub.sessions
    for peer, session in sessions.by_peer.items():
        assert session.peer == peer, f"session {session.number} is at {session.peer}, listed at {peer}"
        assert sessions.by_token.get(session.token) is session, f"session {session.number} has ended"
    assert len(sessions.by_peer) == len(sessions.by_token), "two sessions at one address"
    for session in sessions.by_token.values():
        assert not session.principal.revoked, (
            f"session {session.number} is of {session.principal.name}, revoked"
        )
    places = hub.tasks.waits.places()
    assert hub.tasks.waits.count == len(places), (
        f"{hub.tasks.waits.count} waits counted, {len(places)} parked"
    )
    assert all(task in hub.tasks.table for task, _, _ in places), "somebody waits for a task that is final"
    owned = {(t, s.number, request) for s in sessions.by_token.values() for t, request in s.waits}
    assert owned == set(places), f"waits of sessions {sorted(owned)}, parked {sorted(places)}"


def _check_principals(hub: Hub) -> None:
    principals = hub.principals
    live = {p.name: p for p in principals.by_id.values() if not p.revoked}
    assert live == principals.by_name, (
        f"principals by name: {sorted(principals.by_name)}, live: {sorted(live)}"
    )
    keys = {p.key: p for p in principals.by_id.values() if p.key}
    assert keys == principals.by_key, "a key is listed twice or not at all"
    tokens = {p.token_sha256: p for p in principals.by_id.values() if p.token_sha256}
    assert tokens == principals.by_token, "a token is listed twice or not at all"
    for host in hub.fleet.hosts.values():
        assert host.record.principal in principals.by_id, f"{host.record.name} has no key"


def _check_repositories(hub: Hub) -> None:
    """Names, places and hosts of registered repositories, and a pool of its own for each that has hosts."""
    repositories = hub.repositories
    for name, record in repositories.by_name.items():
        assert record.name == name, f"repository {record.name} is listed as {name}"
        assert repositories.of(record.url) is record, f"{record.url} is not found as {name}"
        hosts = repositories.hosts_of(record.url)
        assert hosts == (frozenset(record.hosts) or None), f"{name} is worked on by {hosts}"
    misplaced = hub.tasks.groups.misplaced()
    assert not misplaced, f"groups {misplaced} are in a pool where other hosts count"
