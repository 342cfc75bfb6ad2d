"""The ready queue: which task is next, by lane, then by turns.

Tasks that ask the same of a place to run (tier, model, capabilities) form a pool. The next task is found in four
steps. *Lane*: the one whose oldest task has the least order key, which is the time at which it became ready plus a
delay by lane: a lower lane goes first once it has waited longer by the difference, so lanes age and nothing
starves. *Pool*: those with tasks in that lane take turns, so that a long queue for one model does not stand before
all others. *Submitter*: in turns, by weight. *Repository*: in turns among those of that submitter, by weight.
Within one flow (pool, lane, submitter, repository) the first comes first.

A group or a line can be closed, by a pause or a limit: its tasks then wait where they are, at no cost, and the
others go on. A start costs O(log members) per step; a task that waits costs one integer, and nothing per tick.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from itertools import islice
from operator import le
from typing import Final

from agentcom.core.flows import Flow, Line, Pool, Preview, Share
from agentcom.core.turns import ID_BITS, ORDER, SHARE_UNIT, Turns, step_of

LANES: Final = 4
LINE_BITS: Final = 20
STALE_MAX: Final = 1024  # entries that left from the middle, beyond as many as stand, before they are dropped


class ReadyQueue:
    """Every ready task once, as a packed entry (order key, id). `pool_of(group)` is the pool of a requirement group;
    the weights are asked when a submitter or a repository begins to wait, and by `reweigh`; `line_open(line)` when
    the first task comes into a line, and by `look_at_lines`. Line 0 is always open. What is pushed must be taken out
    under the same place: group, order key, task, submitter, lane, line."""

    def __init__(
        self,
        pool_of: Callable[[int], int] = lambda _group: 0,
        submitter_weight: Callable[[int], int] = lambda _submitter: 1,
        group_weight: Callable[[int], int] = lambda _group: 1,
        line_open: Callable[[int], bool] = lambda _line: True,
    ) -> None:
        self._pool_of = pool_of
        self.submitter_weight = submitter_weight
        self.group_weight = group_weight
        self.line_open = line_open
        self.count = 0
        self._lanes: tuple[Turns[Pool], ...] = tuple(Turns() for _ in range(LANES))
        self._flows: dict[int, Flow] = {}
        self._of_group: dict[int, dict[int, Flow]] = {}
        self._of_line: dict[int, dict[int, Flow]] = {}  # flows with tasks in it; not for line 0
        self._closed_groups: set[int] = set()
        self._closed_lines: set[int] = set()
        self._gone: dict[int, int] = {}  # entries that left from the middle, with their line
        self._joined = 0

    # --- tasks come and go ------------------------------------------------------------------------------

    def push(
        self, group: int, order_key: int, task: int, submitter: int = 0, lane: int = 0, line: int = 0
    ) -> None:
        """A task is ready. `order_key` in ms. Amortised O(1) in a flow that is there, else O(log members)."""
        entry = order_key << ID_BITS | task
        self.count += 1
        place = group << 34 | submitter << 2 | lane
        flow = self._flows.get(place)
        if flow is None:
            flow = self._flows[place] = Flow(group, submitter, lane)
            self._of_group.setdefault(group, {})[place] = flow
        elif self._gone and entry in self._gone:
            old = self._gone.pop(entry)  # it has come back before its old entry was dropped
            if old == line:
                return
            flow.lines[old].remove(entry)
        one = flow.lines.get(line)
        if one is None:
            one = flow.lines[line] = Line(line)
            if line:
                self._join_line(line, place, flow)
        elif one.entries and entry > one.last:
            one.append(entry)
            return
        one.add(entry)
        if not flow.head or entry < flow.head:
            self._settle(flow)

    def push_run(
        self, group: int, submitter: int, lane: int, line: int, keys: array[int], tasks: array[int]
    ) -> None:
        """Tasks of one line by rising number, at least one, with their order keys: what `push` does with each. O(1) for
        each that follows in order."""
        first = pack(keys[0], tasks[0])
        if all(map(le, keys, keys[1:])):
            self.push(group, keys[0], tasks[0], submitter, lane, line)
            one = self._flows[group << 34 | submitter << 2 | lane].lines[line]
            if one.entries and one.last == first and not self._gone:
                # The first was the newest of its line, so the rest is too.
                if len(keys) > 1:
                    one.extend(keys[1:], tasks[1:])
                self.count += len(keys) - 1
                return
            keys, tasks = keys[1:], tasks[1:]
        for entry in sorted(map(pack, keys, tasks)):
            self.push(group, key_of(entry), task_of(entry), submitter, lane, line)

    def started(
        self, group: int, order_key: int, task: int, submitter: int = 0, lane: int = 0, line: int = 0
    ) -> None:
        """The task was given to an agent: its repository, its submitter and its pool have had a turn."""
        flow = self._flows[group << 34 | submitter << 2 | lane]
        share = flow.share
        if share is not None:
            # Who is alone has no turns: nobody waits, and who joins later starts level with it.
            pool = share.pool
            if len(share.flows.members) > 1:
                share.flows.charge(flow)
            if len(pool.shares.members) > 1:
                pool.shares.charge(share)
            if len(self._lanes[lane].members) > 1:
                self._lanes[lane].charge(pool)
        self._drop(flow, line, order_key << ID_BITS | task)

    def remove(
        self, group: int, order_key: int, task: int, submitter: int = 0, lane: int = 0, line: int = 0
    ) -> None:
        """The task is ready no longer, and did not start."""
        self._drop(self._flows[group << 34 | submitter << 2 | lane], line, order_key << ID_BITS | task)

    # --- what is next -----------------------------------------------------------------------------------

    def next(self, count: int) -> list[tuple[int, int]]:
        """(entry, group) in the order in which tasks are to start, `count` at most of each pool; they stay queued.
        Had the first k started, the next call would go on with what follows them. O(pools + found x log)."""
        pools = [pool for turns in self._lanes for pool in turns.members.values()]
        if not pools:
            return []
        if len(pools) == 1 and len(pools[0].heads) == 1:
            [flow] = pools[0].heads.values()
            group, gone = flow.number, self._gone
            entries = flow.walk(self._closed_lines)
            if gone:
                entries = (entry for entry in entries if entry not in gone)
            return [(entry, group) for entry in islice(entries, count)]
        if count == 1 and len({pool.number for pool in pools}) == 1:
            return [min(pools, key=Pool.claim).first()]
        previews = [
            (lane, pool.key, Preview(pool, count, self._gone, self._closed_lines))
            for lane, turns in enumerate(self._lanes)
            for pool in turns.members.values()
        ]
        return previews[0][2].all() if len(previews) == 1 else _in_order(previews, count)

    def entries(self) -> list[int]:
        """All entries, those of closed lines too, sorted; for checks."""
        every = (entry for flow in self._flows.values() for entry in flow.walk(set()))
        return sorted(entry for entry in every if entry not in self._gone)

    # --- pauses, limits, weights ------------------------------------------------------------------------

    def set_group(self, group: int, is_open: bool) -> None:
        """Let the tasks of a group go, or stop them. O(flows of the group)."""
        if is_open == (group not in self._closed_groups):
            return
        (self._closed_groups.discard if is_open else self._closed_groups.add)(group)
        for flow in list(self._of_group.get(group, {}).values()):
            self._settle(flow)

    def look_at_lines(self) -> None:
        """Ask of each line with tasks whether it is open. O(lines), and O(flows) of those that changed."""
        for line, flows in list(self._of_line.items()):
            is_open = self.line_open(line)
            if is_open == (line not in self._closed_lines):
                continue
            (self._closed_lines.discard if is_open else self._closed_lines.add)(line)
            for flow in list(flows.values()):
                self._settle(flow)

    def is_line_closed(self, line: int) -> bool:
        return line in self._closed_lines

    def relabel(self, line_of: Callable[[int], int]) -> None:
        """Put each task into the line that `line_of(task)` names. O(entries)."""
        self._of_line = {}
        self._closed_lines.clear()
        for place, flow in self._flows.items():
            entries = [entry for entry in flow.walk(set()) if entry not in self._gone]
            flow.lines = {}
            for entry in entries:
                number = line_of(entry & ORDER)
                line = flow.lines.get(number)
                if line is None:
                    line = flow.lines[number] = Line(number)
                    if number:
                        self._join_line(number, place, flow)
                line.append(entry)
        self._gone.clear()
        for flow in self._flows.values():
            self._settle(flow)

    def reweigh(self) -> None:
        """Weights have changed: they count from the next start on. O(flows)."""
        for flow in self._flows.values():
            flow.step = step_of(self.group_weight(flow.number))
            if flow.share is not None:
                flow.share.step = step_of(self.submitter_weight(flow.submitter))

    # --- inside -----------------------------------------------------------------------------------------

    def _drop(self, flow: Flow, number: int, entry: int) -> None:
        self.count -= 1
        line = flow.lines[number]
        if entry != line.least():
            self._gone[entry] = number
            if len(self._gone) > self.count + STALE_MAX:
                self._compact()
            return
        least = line.drop_least(self._gone)
        if not least:
            self._close_line(flow, number)
        if entry != flow.head:
            return
        if least and len(flow.lines) == 1:
            assert flow.share is not None, "a flow with a head takes part in turns"
            pool = flow.share.pool
            del pool.heads[entry]
            flow.head = least
            pool.add_head(flow)
        else:
            self._settle(flow)

    def _close_line(self, flow: Flow, number: int) -> None:
        del flow.lines[number]
        place = flow.number << 34 | flow.submitter << 2 | flow.lane
        if number:
            del self._of_line[number][place]
            if not self._of_line[number]:
                del self._of_line[number]
                self._closed_lines.discard(number)
        if not flow.lines:
            del self._flows[place], self._of_group[flow.number][place]
            if not self._of_group[flow.number]:
                del self._of_group[flow.number]

    def _join_line(self, line: int, place: int, flow: Flow) -> None:
        flows = self._of_line.get(line)
        if flows is None:
            flows = self._of_line[line] = {}
            if not self.line_open(line):
                self._closed_lines.add(line)
        flows[place] = flow

    def _settle(self, flow: Flow) -> None:
        """Give the flow the head that it should have, and with it its place in the turns."""
        closed = self._closed_groups and flow.number in self._closed_groups
        head = 0 if closed else flow.least(self._closed_lines)
        old = flow.head
        if head == old:
            return
        flow.head = head
        if not old:
            self._enter(flow)
            return
        share = flow.share
        assert share is not None, "a flow with a head takes part in turns"
        del share.pool.heads[old]
        if head:
            share.pool.add_head(flow)
        else:
            self._leave(flow, share)

    def _enter(self, flow: Flow) -> None:
        number = self._pool_of(flow.number)
        lane_turns = self._lanes[flow.lane]
        pool = lane_turns.by_number.get(number)
        if pool is None:
            pool = Pool(number)
            lane_turns.join(pool, self._order())
        share = pool.shares.by_number.get(flow.submitter)
        if share is None:
            share = Share(flow.submitter, pool, step_of(self.submitter_weight(flow.submitter)))
            pool.shares.join(share, self._order())
        flow.step = step_of(self.group_weight(flow.number))
        flow.share = share
        share.flows.join(flow, self._order())
        pool.add_head(flow)

    def _leave(self, flow: Flow, share: Share) -> None:
        flow.share = None
        share.flows.leave(flow)
        if not share.flows.members:
            share.pool.shares.leave(share)
        if not share.pool.heads:
            self._lanes[flow.lane].leave(share.pool)

    def _order(self) -> int:
        self._joined += 1
        return self._joined

    def _compact(self) -> None:
        """Drop what has left from the middle of lines. O(entries)."""
        for flow in self._flows.values():
            for line in flow.lines.values():
                kept = [entry for entry in line.walk() if entry not in self._gone]
                line.replace(kept)
        self._gone.clear()


def _in_order(previews: list[tuple[int, int, Preview]], count: int) -> list[tuple[int, int]]:
    """Merge what pools would start: the lane with the oldest task, in it the pool whose turn it is."""
    if len({lane for lane, _, _ in previews}) == 1:
        return _in_turn([(key, preview) for _, key, preview in previews], count)
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


def _in_turn(turns: list[tuple[int, Preview]], count: int) -> list[tuple[int, int]]:
    """The same where all are of one lane: only turns decide."""
    heapq.heapify(turns)
    left = {preview.pool.number: count for _, preview in turns}
    found: list[tuple[int, int]] = []
    while turns:
        key, preview = turns[0]
        found.append(preview.take())
        left[preview.pool.number] -= 1
        if preview.claim and left[preview.pool.number]:
            heapq.heapreplace(turns, (key + (SHARE_UNIT << ID_BITS), preview))
        else:
            heapq.heappop(turns)
    return found


def _oldest_lane(claims: list[list[tuple[int, int, Preview]]], left: dict[int, int]) -> int:
    best, oldest = -1, 0
    for lane, heap in enumerate(claims):
        while heap and (heap[0][0] != heap[0][2].claim or not left[heap[0][2].pool.number]):
            heapq.heappop(heap)
        if heap and (best < 0 or heap[0][0] < oldest):
            best, oldest = lane, heap[0][0]
    return best


def retry_line(line: int, group: int) -> int:
    """The line for tasks of that line and group that have failed before."""
    return (group + 1) << LINE_BITS | line


def plain_line(line: int) -> tuple[int, int]:
    """The line without what `retry_line` added, and that group; -1 where it added nothing."""
    return line & (1 << LINE_BITS) - 1, (line >> LINE_BITS) - 1


def pack(order_key: int, task: int) -> int:
    return order_key << ID_BITS | task


def task_of(entry: int) -> int:
    return entry & ORDER


def key_of(entry: int) -> int:
    return entry >> ID_BITS
