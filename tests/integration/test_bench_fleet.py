"""The simulated fleet, small: no real time in it, so its answer is the same on every machine."""

from __future__ import annotations

import json

import pytest

from bench import fleet
from bench.fleet_policies import OWN, POLICIES
from bench.fleet_trace import trace
from bench.fleet_world import Fleet


def test_expected_finish_time_beats_the_other_policies_in_makespan_and_in_mean_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fleet.main(["--json", "--quick"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"rows", "goals", "machine", "commit", "seed"}
    rows = {row["policy"]: row for row in document["rows"]}
    assert list(rows) == list(POLICIES)
    for row in rows.values():
        assert list(row) == list(fleet.Row.__annotations__)
    own = rows.pop(OWN)
    assert all(own["makespan_s"] < row["makespan_s"] for row in rows.values()), document
    assert all(own["wait_mean_s"] < row["wait_mean_s"] for row in rows.values()), document
    assert [goal["holds"] for goal in document["goals"]] == [True, True]


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    def ends(seed: int) -> list[int]:
        run = Fleet(trace(seed, hosts=4, models=4, tasks=40), OWN, seed)
        run.run()
        run.hub.validate()
        return [story.ended_ms for story in run.stories]

    assert ends(3) == ends(3)
    assert ends(3) != ends(4)


def test_each_model_lies_on_some_host_and_tasks_come_in_order() -> None:
    work = trace(5, hosts=30, models=20, tasks=500)

    assert {model for host in work.hosts for model in host.models} == set(work.models)
    assert [task.at_ms for task in work.tasks] == sorted(task.at_ms for task in work.tasks)
    assert {task.tier for task in work.tasks} == {"trivial", "standard", "complex"}


def test_a_goal_is_the_best_of_the_other_policies() -> None:
    def row(policy: str, makespan_s: float, wait_mean_s: float) -> fleet.Row:
        return fleet.Row(
            policy=policy,
            seed=1,
            makespan_s=makespan_s,
            wait_mean_s=wait_mean_s,
            wait_p95_s=0,
            turnaround_mean_s=0,
            loads=0,
            ticks=0,
            took_s=0,
        )

    goals = fleet.goals([row(OWN, 10, 5), row("random", 9, 7), row("warm_first", 12, 6)])
    assert [(goal["measured"], goal["bound"], goal["holds"]) for goal in goals] == [
        (10, 9, False),
        (5, 6, True),
    ]
