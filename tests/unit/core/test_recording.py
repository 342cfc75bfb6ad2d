"""A recording decided again gives every decision as it was; another policy is compared with it and estimated."""

from __future__ import annotations

import msgspec
import pytest

from agentcom import _pysched, sched
from agentcom import messages as m
from agentcom.config import ScoringSettings
from agentcom.core.recording import GROUP, Start, Turn
from agentcom.replay import compare, decisions, verify
from agentcom.replay_estimate import as_recorded, estimate, items
from agentcom.settings import with_values
from tests import factories
from tests.core_rig import HostEnd, Rig
from tests.factories import endpoint_model, endpoint_probe, shell_task, sighting, task
from tests.recorded import Life, RecordedRig

REPO = "https://example.org/one.git"


def lived(seed: int, fallback: str = "none", steps: int = 150) -> list[tuple[Start, list[Turn]]]:
    strict = {"endpoints.retry_min": 1, "endpoints.retry_percent": 5, "endpoints.breaker_failures": 2}
    rig = RecordedRig(with_values(factories.settings(), {"routing.fallback": fallback, **strict}))
    Life(rig, seed).live(steps)
    return rig.recordings()


def two_servers(rig: RecordedRig) -> None:
    """One with the model warm, one that would have to load it; 4 GiB on a GPU of 8."""
    for name, is_warm in (("warm", True), ("cold", False)):
        model = endpoint_model(warm=is_warm, size_bytes=4 << 30)
        rig.host(name, agents=2).see(sighting(probe=endpoint_probe(model)))


# --- by its own policy ----------------------------------------------------------------------------------


def test_nothing_is_collected_unless_it_is_asked_for() -> None:
    rig = Rig()
    rig.host()
    rig.admin.submit(shell_task())
    assert rig.hub.board.recorder is None
    rig.admin.ask(m.ConfigChange(set={"scheduler.record": True}))
    assert rig.hub.board.recorder is not None
    rig.admin.ask(m.ConfigChange(unset=("scheduler.record",)))
    assert rig.hub.board.recorder is None


@pytest.mark.parametrize(("seed", "fallback"), [(1, "none"), (2, "both"), (3, "up")])
def test_every_decision_of_a_recorded_life_is_made_again(
    seed: int, fallback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the scheduler that made them, which is the compiled one where it was built, and by its twin."""
    found = lived(seed, fallback)
    assert sum(decisions(turns) for _, turns in found) > 100
    assert [verify(start, turns) for start, turns in found] == [None] * len(found)
    monkeypatch.setattr(sched, "make_scheduler", _pysched.Scheduler)
    assert [verify(start, turns) for start, turns in found] == [None] * len(found)


def test_what_is_not_as_it_was_recorded_is_named() -> None:
    rig = RecordedRig()
    two_servers(rig)
    number = rig.admin.submit(task())
    [(start, turns)] = rig.recordings()
    other = msgspec.structs.replace(start, scoring=ScoringSettings(load_percent=0, wait_percent=0, busy_step_ms=0))
    assert verify(start, turns) is None
    at = next(n for n, turn in enumerate(turns) if turn.heads)
    [head] = turns[at].heads
    forged = msgspec.structs.replace(head, agent=3)
    turns[at] = msgspec.structs.replace(turns[at], heads=(forged,))
    difference = verify(other, turns)
    assert difference is not None
    assert (difference.turn, difference.task) == (at, number)
    assert (difference.recorded, difference.decided) == ("cold-1 with ollama-warm", "warm-1 with ollama-warm")


def test_a_start_says_which_of_its_tasks_it_was_and_when_that_ended() -> None:
    rig = RecordedRig()
    box = rig.host()
    first = rig.admin.submit(shell_task(), shell_task())
    rig.clock.advance(4_000)
    box.complete(box.take())
    [(_, turns)] = rig.recordings()
    heads = [head for turn in turns for head in turn.heads]
    assert [(head.task, head.is_started) for head in heads if head.is_started] == [(first, True), (first + 1, True)]
    [ended] = [one for turn in turns for one in turn.ended]
    assert (ended.task, ended.mono_ms) == (first, rig.clock.now().mono_ms)


def test_a_change_of_settings_begins_anew_and_each_part_stands_for_itself() -> None:
    rig = RecordedRig()
    rig.host()
    rig.admin.submit(shell_task())
    rig.admin.ask(m.ConfigChange(set={"scoring.shell_ms": 3_000}))
    rig.admin.submit(shell_task())
    first, second = rig.recordings()
    assert (first[0].scoring.shell_ms, second[0].scoring.shell_ms) == (1_000, 3_000)
    assert verify(*second) is None


def test_a_recording_says_nothing_of_what_a_task_is_about() -> None:
    rig = RecordedRig()
    two_servers(rig)
    rig.admin.submit(task("the secret plan", repo=REPO), shell_task("echo hunter2"))
    content = b"".join(frame for frames in rig.frames for frame in frames)
    assert REPO.encode() in content
    for hidden in (b"secret plan", b"hunter2", b"http://127.0.0.1"):
        assert hidden not in content


# --- by another -----------------------------------------------------------------------------------------


def test_another_policy_is_compared_start_by_start_with_the_parts_that_differ() -> None:
    rig = RecordedRig()
    two_servers(rig)
    for name in ("warm", "cold"):
        host = rig.hub.fleet.host_named(name)
        host.repos = {REPO: None} if name == "cold" else {}
        rig.hub.fleet.touched.add(host.record.id)
    number = rig.admin.submit(task(repo=REPO))
    [(start, turns)] = rig.recordings()
    found = compare(start, turns, ScoringSettings(repository_ms=60_000))
    assert (found.starts, found.same, found.elsewhere, found.waiting) == (1, 0, 1, 0)
    assert found.moved == {"warm (ollama-warm) -> cold (ollama-cold)": 1}
    [change] = found.changes
    assert change.task == number
    assert change.parts["repository"] == 60_000_000
    assert change.parts["load"] < 0
    assert change.by_us == sum(change.parts.values()) > 0


def test_a_group_keeps_the_hosts_that_its_repository_allows() -> None:
    rig = RecordedRig()
    rig.host("one")
    rig.host("two")
    rig.admin.ask(m.RepoAdd(name="one", url=REPO, hosts=("two",)))
    rig.admin.submit(shell_task(repo=REPO))
    start, turns = rig.recordings()[-1]
    assert any(piece.kind == GROUP for turn in turns for piece in turn.pieces)
    assert verify(start, turns) is None


def test_the_estimate_of_the_own_policy_is_near_what_happened() -> None:
    rig = RecordedRig()
    box = rig.host(agents=2)
    for _ in range(5):
        rig.admin.submit(shell_task(), shell_task())
    for _ in range(5):
        rig.clock.advance(2_000)
        for assign in (box.take(), box.take()):
            box.complete(assign)
    [(start, turns)] = rig.recordings()
    starts = items(start, turns)
    happened, own = as_recorded(starts), estimate(start, turns, starts, start.scoring)
    assert (happened.tasks, happened.left, happened.makespan_s) == (10, 0, 10.0)
    assert (own.tasks, own.left) == (10, 0)
    assert own.makespan_s == pytest.approx(happened.makespan_s, abs=0.1)
    assert own.wait_mean_s == pytest.approx(happened.wait_mean_s, abs=0.1)


def test_a_policy_that_shuns_loads_has_fewer_and_one_that_ignores_them_more() -> None:
    rig = RecordedRig()
    two_servers(rig)
    boxes = {end.offer.name: end for end in rig._callers.values() if isinstance(end, HostEnd)}
    for _ in range(6):
        rig.admin.submit(task(), task())
        for assign in rig.sent(m.Assign):
            box = boxes[assign.route.host]
            box.accept(assign)
            rig.clock.advance(20_000)
            box.complete(assign, tokens_out=900)
    [(start, turns)] = rig.recordings()
    starts = items(start, turns)
    shuns = estimate(start, turns, starts, ScoringSettings(load_percent=1_000))
    ignores = estimate(start, turns, starts, ScoringSettings(load_percent=0))
    assert shuns.cold_loads < ignores.cold_loads
