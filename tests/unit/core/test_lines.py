"""A line of the ready queue and the terms of tasks, beside the plain lists that they are in place of."""

from __future__ import annotations

import random
from array import array
from itertools import pairwise

import pytest

from agentcom.core import flows, tail
from agentcom.core.flows import Line
from agentcom.core.lanes import key_of, pack, task_of
from agentcom.core.terms import STRETCH_BITS, Terms

STRETCH_MS = 1 << STRETCH_BITS


@pytest.mark.sources
@pytest.mark.parametrize("seed", range(40))
def test_a_line_with_a_tail_gives_its_entries_in_order_whatever_comes_and_leaves(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(flows, "HEAD_ROWS", rng.choice((1, 2, 5)))
    monkeypatch.setattr(tail, "TAKEN_ROWS", rng.choice((1, 3)))
    line, plain, newest = Line(0), list[int](), 100
    for task in range(300):
        what = rng.random()
        if what < 0.35:
            newest += rng.randrange(3)
            entry = pack(newest, task)
            line.add(entry)
        elif what < 0.45:
            entry = pack(rng.randrange(1, newest), task)  # it comes back with its old key
            line.add(entry)
        elif what < 0.6 and (not plain or plain[-1] < pack(newest, task)):
            keys = [newest + n for n in range(rng.randrange(1, 6))]
            newest = keys[-1]
            tasks = [1000 * (task + 1) + n for n in range(len(keys))]
            line.extend(array("q", keys), array("q", tasks))
            plain += map(pack, keys, tasks)
            entry = 0
        elif what < 0.9 and plain:
            del plain[0]
            gone = {one: 0 for one in plain if rng.random() < 0.2}
            least = line.drop_least(gone.copy())
            while plain and plain[0] in gone:
                del plain[0]
            assert least == (plain[0] if plain else 0)
            entry = 0
        elif plain:
            line.remove(plain.pop(rng.randrange(len(plain))))
            entry = 0
        else:
            entry = 0
        if entry:
            plain.append(entry)
        plain.sort()
        assert list(line.walk()) == plain
        assert line.least() == (plain[0] if plain else 0)
        assert (line.tail is None) or (len(line.tail) and line.entries)


def test_a_long_line_is_handed_out_in_order_to_its_end() -> None:
    line, count = Line(0), 3 * flows.HEAD_ROWS
    for task in range(1, count + 1):
        line.append(pack(task // 10 + 1, task))
    line.extend(array("q", range(count, count + 5000)), array("q", range(count + 1, count + 5001)))
    for task in range(1, count + 5000):
        assert task_of(line.least()) == task
        assert task_of(line.drop_least({})) == task + 1
    assert line.drop_least({}) == 0
    line.add(pack(1, 7))
    assert list(line.walk()) == [pack(1, 7)]


@pytest.mark.parametrize("seed", range(20))
def test_terms_come_up_in_order_and_none_is_late_or_lost(seed: int) -> None:
    rng = random.Random(seed)
    now: dict[int, int | None] = {}
    terms = Terms(lambda task: now[task])
    clock_ms, task = 10 * STRETCH_MS, 0
    for _ in range(60):
        span = rng.choice((1, STRETCH_MS // 2, 20 * STRETCH_MS))
        fresh = {task + n: clock_ms + rng.randrange(-5, span) for n in range(1, rng.randrange(2, 30))}
        task += len(fresh)
        now |= fresh
        if rng.random() < 0.5:
            terms.add_many(array("q", fresh.values()), array("q", fresh))
        else:
            for one, term_ms in fresh.items():
                terms.add(term_ms, one)
        for one in rng.sample(sorted(now), min(3, len(now))):
            if rng.random() < 0.5:
                now[one] = None  # it is over, or an agent has it
            else:
                now[one] = clock_ms + rng.randrange(30 * STRETCH_MS)
                terms.add(now[one] or 0, one)
        clock_ms += rng.choice((0, 3, STRETCH_MS))
        waiting = {one: term_ms for one, term_ms in now.items() if term_ms is not None}
        next_ms, firsts = terms.next_ms(), terms.firsts()
        assert all(firsts[one] <= term_ms for one, term_ms in waiting.items())
        assert not waiting or (next_ms is not None and next_ms <= min(waiting.values()))
        due = [one for one in terms.due(clock_ms) if (now[one] or clock_ms + 1) <= clock_ms]
        assert list(dict.fromkeys(due)) == sorted(
            (one for one, term_ms in waiting.items() if term_ms <= clock_ms), key=lambda one: (waiting[one], one)
        )
        for one in due:
            now[one] = None
        next_ms = terms.next_ms()
        assert next_ms is None or next_ms > clock_ms


def test_terms_of_far_stretches_are_told_to_the_millisecond_and_counted() -> None:
    terms = Terms({1: 5 * STRETCH_MS + 7, 2: 5 * STRETCH_MS + 3, 3: 9 * STRETCH_MS}.get)
    terms.add_many(array("q", [5 * STRETCH_MS + 7, 5 * STRETCH_MS + 3, 9 * STRETCH_MS]), array("q", [1, 2, 3]))
    assert (len(terms), terms.next_ms()) == (3, 5 * STRETCH_MS + 3)
    assert list(terms.due(5 * STRETCH_MS + 2)) == []
    assert list(terms.due(5 * STRETCH_MS + 3)) == [2]
    assert (len(terms), terms.next_ms()) == (2, 5 * STRETCH_MS + 7)
    assert list(terms.due(9 * STRETCH_MS)) == [1, 3]
    assert (len(terms), terms.next_ms()) == (0, None)


def test_entries_are_packed_in_their_order() -> None:
    entries = [pack(key, task) for key in (1, 2, 3) for task in (1, 2)]
    assert all(one < other for one, other in pairwise(entries))
    assert [key_of(one) for one in entries] == [1, 1, 2, 2, 3, 3]
