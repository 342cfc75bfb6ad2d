"""The ready queue: which task is next, by lane, then by turns.

Tasks that ask the same of a place to run (tier, model, capabilities) form a pool. The next task is found in four
steps. *Lane*: the one whose oldest task has the least order key, which is the time at which it became ready plus a
delay by lane: a lower lane goes first once it has waited longer by the difference, so lanes age and nothing
starves. *Pool*: those with tasks in that lane take turns, so that a long queue for one model does not stand before
all others. *Submitter*: in turns, by weight. *Repository*: in turns among those of that submitter, by weight.
Within one flow (pool, lane, submitter, repository) the first comes first.

Turns are start-time fair queueing: a member's key rises by SHARE_UNIT / weight whenever a task of it starts, the
least key is next, equal keys go by who began to wait first. One that was away, or that no agent could take for a
while, comes back at the turn that is on now: it has lost nothing and saved nothing up. Integers only. A start
costs O(log members) per step; a task that waits costs one integer, and nothing per tick.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

ID_BITS: Final = 40
_ORDER: Final = (1 << ID_BITS) - 1
SHARE_UNIT: Final = 720_720  # divisible by 1 to 16, so usual weights share without a remainder
WEIGHT_MAX: Final = 1000
LEFT_MAX: Final = 64  # members that left whose turn is remembered, beyond as many as there are
LANES: Final = 4
STALE_MAX: Final = 1024  # entries that left from the middle, beyond as many as stand, before they are dropped


class Member(Protocol):
    """Who takes turns: `key` is (virtual start << ID_BITS | order of joining), `step` what one start costs."""

    number: int
    key: int
    step: int


M = TypeVar("M", bound=Member)


class Turns(Generic[M]):
    """Members in the order of their turns. `virtual` is the turn that is on: the latest start that was charged.
    With one member, the ordinary case, there is no heap at all."""

    __slots__ = ("_heap", "_left", "by_number", "members", "virtual")

    def __init__(self) -> None:
        self.virtual = 0
        self.by_number: dict[int, M] = {}
        self.members: dict[int, M] = {}  # by order of joining
        self._heap: list[int] = []
        self._left: dict[int, int] = {}

    def join(self, member: M, order: int) -> None:
        start = max(self.virtual, self._left.pop(member.number, 0))
        member.key = start << ID_BITS | order
        self.by_number[member.number] = self.members[order] = member
        if len(self.members) > 1:
            if not self._heap:
                self._heap = sorted(one.key for one in self.members.values())
            else:
                heapq.heappush(self._heap, member.key)

    def leave(self, member: M) -> None:
        """What it has used up is remembered for as long as it matters: until that turn has come."""
        del self.by_number[member.number], self.members[member.key & _ORDER]
        if len(self.members) == 1:
            self._heap = []
        if member.key >> ID_BITS > self.virtual:
            self._left[member.number] = member.key >> ID_BITS
            if len(self._left) > len(self.members) + LEFT_MAX:
                self._left = {number: turn for number, turn in self._left.items() if turn > self.virtual}

    def charge(self, member: M) -> None:
        """A task of it has started."""
        start = member.key >> ID_BITS
        if start > self.virtual:
            self.virtual = start
        member.key = max(start + member.step, self.virtual) << ID_BITS | member.key & _ORDER
        if len(self.members) > 1:
            heapq.heappush(self._heap, member.key)
            if len(self._heap) > 2 * len(self.members) + LEFT_MAX:
                self._heap = sorted(one.key for one in self.members.values())

    def first(self) -> M:
        """The member whose turn it is."""
        if len(self.members) == 1:
            [member] = self.members.values()
            return member
        heap = self._heap
        while True:
            found = self.members.get(heap[0] & _ORDER)
            if found is not None and found.key == heap[0]:
                return found
            heapq.heappop(heap)

    def best(self, count: int) -> list[M]:
        """The members whose turns come first. O(count log members)."""
        if len(self.members) <= count:
            return list(self.members.values())
        heap = self._heap
        found: list[M] = []
        while len(found) < count:
            key = heapq.heappop(heap)
            member = self.members.get(key & _ORDER)
            if member is not None and member.key == key:
                found.append(member)
        for member in found:
            heapq.heappush(heap, member.key)
        return found


class Flow:
    """Tasks of one submitter for one requirement group in one lane, by order key. What comes in order, nearly all,
    lies in `entries`; what comes back with an older key in the heap `early`."""

    __slots__ = ("early", "entries", "head", "key", "number", "share", "step")

    def __init__(self, group: int, share: Share, step: int, entry: int) -> None:
        self.number = group
        self.key = 0
        self.step = step
        self.share = share
        self.head = entry
        self.entries: deque[int] = deque((entry,))
        self.early: list[int] = []

    def after_head(self) -> int:
        """Drop the head; the least entry that is left, 0 when there is none."""
        early, entries = self.early, self.entries
        if not early:
            entries.popleft()
            return entries[0] if entries else 0
        if early[0] == self.head:
            heapq.heappop(early)
        else:
            entries.popleft()
        if early and not (entries and entries[0] < early[0]):
            return early[0]
        return entries[0] if entries else 0

    def walk(self) -> Iterator[int]:
        """All entries in order; O(1) each, O(early log early) at the start."""
        return heapq.merge(self.entries, sorted(self.early)) if self.early else iter(self.entries)


class Share:
    """A submitter in one pool and lane, with its flows."""

    __slots__ = ("flows", "key", "number", "pool", "step")

    def __init__(self, submitter: int, pool: Pool, step: int) -> None:
        self.number = submitter
        self.key = 0
        self.step = step
        self.pool = pool
        self.flows: Turns[Flow] = Turns()


class Pool:
    """The tasks of one lane that ask the same of a place to run. `heads` has the first entry of each flow; `ages`
    is a heap of them, kept while there are several flows."""

    __slots__ = ("ages", "heads", "key", "number", "shares", "step")

    def __init__(self, number: int) -> None:
        self.number = number
        self.key = 0
        self.step = SHARE_UNIT
        self.shares: Turns[Share] = Turns()
        self.heads: dict[int, Flow] = {}
        self.ages: list[int] = []

    def add_head(self, flow: Flow) -> None:
        self.heads[flow.head] = flow
        if len(self.heads) == 1:
            self.ages = []
        elif not self.ages or len(self.ages) > 2 * len(self.heads) + LEFT_MAX:
            self.ages = sorted(self.heads)
        else:
            heapq.heappush(self.ages, flow.head)

    def claim(self) -> int:
        """The oldest task."""
        if len(self.heads) == 1:
            [head] = self.heads
            return head
        while self.ages[0] not in self.heads:
            heapq.heappop(self.ages)
        return self.ages[0]

    def first(self) -> tuple[int, int]:
        """The task whose turn it is, and its group."""
        flow = self.shares.first().flows.first()
        return flow.head, flow.number

    def oldest(self, count: int) -> list[int]:
        """The least heads of flows, in order. O(count log flows)."""
        if len(self.heads) <= count:
            return sorted(self.heads)
        found: list[int] = []
        while len(found) < count:
            head = heapq.heappop(self.ages)
            if head in self.heads and (not found or found[-1] != head):
                found.append(head)
        for head in found:
            heapq.heappush(self.ages, head)
        return found


class ReadyQueue:
    """Every ready task once, as a packed entry (order key, id). `pool_of(group)` is the pool of a requirement
    group; the weights are asked when a submitter or a repository begins to wait, and by `reweigh`."""

    def __init__(
        self,
        pool_of: Callable[[int], int] = lambda _group: 0,
        submitter_weight: Callable[[int], int] = lambda _submitter: 1,
        group_weight: Callable[[int], int] = lambda _group: 1,
    ) -> None:
        self._pool_of = pool_of
        self.submitter_weight = submitter_weight
        self.group_weight = group_weight
        self._lanes: tuple[Turns[Pool], ...] = tuple(Turns() for _ in range(LANES))
        self._flows: dict[int, Flow] = {}
        self._gone: set[int] = set()
        self._joined = 0
        self.count = 0

    def push(self, group: int, order_key: int, task: int, submitter: int = 0, lane: int = 0) -> None:
        """A task is ready. `order_key` in ms. Amortised O(1) in a flow that is there, else O(log members)."""
        entry = order_key << ID_BITS | task
        self.count += 1
        if self._gone and entry in self._gone:
            self._gone.remove(entry)  # it has come back before its old entry was dropped
            return
        flow = self._flows.get(group << 34 | submitter << 2 | lane)
        if flow is None:
            self._open(group, submitter, lane, entry)
        elif flow.entries and entry > flow.entries[-1]:
            flow.entries.append(entry)
        else:
            heapq.heappush(flow.early, entry)
            if entry < flow.head:
                self._set_head(flow, entry)

    def started(self, group: int, order_key: int, task: int, submitter: int = 0, lane: int = 0) -> None:
        """The task was given to an agent: its repository, its submitter and its pool have had a turn."""
        flow = self._flows[group << 34 | submitter << 2 | lane]
        share = flow.share
        pool = share.pool
        # Who is alone has no turns: nobody waits, and who joins later starts level with it.
        if len(share.flows.members) > 1:
            share.flows.charge(flow)
        if len(pool.shares.members) > 1:
            pool.shares.charge(share)
        if len(self._lanes[lane].members) > 1:
            self._lanes[lane].charge(pool)
        self._drop(flow, lane, order_key << ID_BITS | task)

    def remove(self, group: int, order_key: int, task: int, submitter: int = 0, lane: int = 0) -> None:
        """The task is ready no longer, and did not start."""
        flow = self._flows[place_of(group, submitter, lane)]
        self._drop(flow, lane, order_key << ID_BITS | task)

    def next(self, count: int) -> list[tuple[int, int]]:
        """(entry, group) in the order in which tasks are to start, `count` at most of each pool; they stay queued.
        Had the first k started, the next call would go on with what follows them. O(pools + found x log)."""
        if len(self._flows) == 1 and not self._gone:
            [flow] = self._flows.values()
            group = flow.number
            return [(entry, group) for entry in islice(flow.walk(), count)]
        pools = [pool for turns in self._lanes for pool in turns.members.values()]
        if count == 1 and len({pool.number for pool in pools}) == 1:
            return [min(pools, key=Pool.claim).first()]
        previews = [
            (lane, pool.key, Preview(pool, count, self._gone))
            for lane, turns in enumerate(self._lanes)
            for pool in turns.members.values()
        ]
        return previews[0][2].all() if len(previews) == 1 else _in_order(previews, count)

    def reweigh(self) -> None:
        """Weights have changed: they count from the next start on. O(flows)."""
        for flow in self._flows.values():
            flow.step = step_of(self.group_weight(flow.number))
            flow.share.step = step_of(self.submitter_weight(flow.share.number))

    def entries(self) -> list[int]:
        """All entries, sorted; for checks."""
        every = (entry for flow in self._flows.values() for entry in flow.walk())
        return sorted(entry for entry in every if entry not in self._gone)

    def _open(self, group: int, submitter: int, lane: int, entry: int) -> None:
        number = self._pool_of(group)
        lane_turns = self._lanes[lane]
        pool = lane_turns.by_number.get(number)
        if pool is None:
            pool = Pool(number)
            lane_turns.join(pool, self._order())
        share = pool.shares.by_number.get(submitter)
        if share is None:
            share = Share(submitter, pool, step_of(self.submitter_weight(submitter)))
            pool.shares.join(share, self._order())
        flow = Flow(group, share, step_of(self.group_weight(group)), entry)
        share.flows.join(flow, self._order())
        self._flows[place_of(group, submitter, lane)] = flow
        pool.add_head(flow)

    def _order(self) -> int:
        self._joined += 1
        return self._joined

    def _drop(self, flow: Flow, lane: int, entry: int) -> None:
        self.count -= 1
        if entry != flow.head:
            self._gone.add(entry)
            if len(self._gone) > self.count + STALE_MAX:
                self._compact()
            return
        head = flow.after_head()
        while self._gone and head in self._gone:
            self._gone.remove(head)
            flow.head = head
            head = flow.after_head()
        pool = flow.share.pool
        del pool.heads[entry]
        if head:
            flow.head = head
            pool.add_head(flow)
        else:
            self._close(flow, lane)

    def _set_head(self, flow: Flow, head: int) -> None:
        del flow.share.pool.heads[flow.head]
        flow.head = head
        flow.share.pool.add_head(flow)

    def _close(self, flow: Flow, lane: int) -> None:
        share, pool = flow.share, flow.share.pool
        del self._flows[place_of(flow.number, share.number, lane)]
        share.flows.leave(flow)
        if not share.flows.members:
            pool.shares.leave(share)
        if not pool.heads:
            self._lanes[lane].leave(pool)

    def _compact(self) -> None:
        """Drop what has left from the middle of flows. The head of a flow always stands. O(entries)."""
        for flow in self._flows.values():
            flow.entries = deque(entry for entry in flow.walk() if entry not in self._gone)
            flow.early = []
        self._gone.clear()


class TurnsPreview(Generic[M]):
    """The order of members as it would be if each that is advanced had started. Changes nothing."""

    __slots__ = ("_heap", "_virtual")

    def __init__(self, turns: Turns[M], count: int) -> None:
        self._virtual = turns.virtual
        self._heap = [(member.key, member) for member in turns.best(count)]
        heapq.heapify(self._heap)

    def first(self) -> M:
        return self._heap[0][1]

    def advance(self, has_more: bool) -> bool:
        """The first has started; whether any has more."""
        key, member = self._heap[0]
        if not has_more:
            heapq.heappop(self._heap)
            return bool(self._heap)
        start = key >> ID_BITS
        self._virtual = max(self._virtual, start)
        start = max(start + member.step, self._virtual)
        heapq.heapreplace(self._heap, (start << ID_BITS | key & _ORDER, member))
        return True


class Preview:
    """The order of one pool's tasks in one lane as it would be if each that is taken from here started. Changes
    nothing in the queue. `claim` is its oldest task not taken, 0 when there is none."""

    __slots__ = ("_ages", "_count", "_current", "_flows", "_gone", "_shares", "_walks", "claim", "pool")

    def __init__(self, pool: Pool, count: int, gone: set[int]) -> None:
        self.pool = pool
        self._count = count
        self._gone = gone
        self._shares: TurnsPreview[Share] | None = None
        self._flows: dict[int, TurnsPreview[Flow]] = {}  # by submitter
        self._walks: dict[
            int, tuple[int, Iterator[int]]
        ] = {}  # by order of joining: next entry, those after it
        self._current: set[int] = set()  # the next entries of flows in `_walks`
        self._ages = pool.oldest(count + 1)
        self.claim = self._ages[0]

    def all(self) -> list[tuple[int, int]]:
        """Its first `count`, with their group."""
        found: list[tuple[int, int]] = []
        while self.claim and len(found) < self._count:
            found.append(self.take())
        return found

    def take(self) -> tuple[int, int]:
        """The next entry and its group."""
        shares = self._shares
        if shares is None:
            shares = self._shares = TurnsPreview(self.pool.shares, self._count)
        share = shares.first()
        flows = self._flows.get(share.number)
        if flows is None:
            flows = self._flows[share.number] = TurnsPreview(share.flows, self._count)
        flow = flows.first()
        entry, after = self._step(flow)
        shares.advance(flows.advance(after != 0))
        ages = self._ages
        while ages and not self._stands(ages[0]):
            heapq.heappop(ages)
        self.claim = ages[0] if ages else 0
        return entry, flow.number

    def _step(self, flow: Flow) -> tuple[int, int]:
        """Take the flow's next entry; it and the one after it, 0 when there is none."""
        order = flow.key & _ORDER
        known = self._walks.get(order)
        if known is None:
            walk = (entry for entry in flow.walk() if entry not in self._gone)
            known = next(walk), walk
        entry, walk_on = known
        after = next(walk_on, 0)
        self._walks[order] = after, walk_on
        self._current.discard(entry)
        if after:
            self._current.add(after)
            heapq.heappush(self._ages, after)
        return entry, after

    def _stands(self, entry: int) -> bool:
        """Whether the entry is the next of a flow."""
        if entry in self._current:
            return True
        flow = self.pool.heads.get(entry)
        return flow is not None and flow.key & _ORDER not in self._walks


def _in_order(previews: list[tuple[int, int, Preview]], count: int) -> list[tuple[int, int]]:
    """Merge what pools would start: the lane with the oldest task, in it the pool whose turn it is."""
    turns: list[list[tuple[int, Preview]]] = [[] for _ in range(LANES)]
    claims: list[list[tuple[int, int, Preview]]] = [[] for _ in range(LANES)]
    for lane, key, preview in previews:
        turns[lane].append((key, preview))
        claims[lane].append((preview.claim, key, preview))
    for lane in range(LANES):
        heapq.heapify(turns[lane])
        heapq.heapify(claims[lane])
    left = {preview.pool.number: count for _, _, preview in previews}
    found: list[tuple[int, int]] = []
    while True:
        lane = _oldest_lane(claims, left)
        if lane < 0:
            return found
        key, preview = heapq.heappop(turns[lane])
        number = preview.pool.number
        if not left[number]:
            continue
        found.append(preview.take())
        left[number] -= 1
        if preview.claim and left[number]:
            heapq.heappush(turns[lane], (key + (SHARE_UNIT << ID_BITS), preview))
            heapq.heappush(claims[lane], (preview.claim, key, preview))


def _oldest_lane(claims: list[list[tuple[int, int, Preview]]], left: dict[int, int]) -> int:
    best, oldest = -1, 0
    for lane, heap in enumerate(claims):
        while heap and (heap[0][0] != heap[0][2].claim or not left[heap[0][2].pool.number]):
            heapq.heappop(heap)
        if heap and (best < 0 or heap[0][0] < oldest):
            best, oldest = lane, heap[0][0]
    return best


def place_of(group: int, submitter: int, lane: int) -> int:
    """A flow's key in one integer: submitters have 32 bits, lanes 2."""
    return group << 34 | submitter << 2 | lane


def step_of(weight: int) -> int:
    """What one start costs a member of that weight."""
    return SHARE_UNIT // min(max(weight, 1), WEIGHT_MAX)


def pack(order_key: int, task: int) -> int:
    return order_key << ID_BITS | task


def task_of(entry: int) -> int:
    return entry & _ORDER


def key_of(entry: int) -> int:
    return entry >> ID_BITS
