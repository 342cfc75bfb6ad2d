"""A task that kills its workers is dead after `queue.max_losses` of them, and its neighbours are unharmed."""

from __future__ import annotations

from pathlib import Path

from tests.faults.poison import LOSSES_MAX, beside_on_one_host, poison_real, poison_wire


def test_a_command_that_kills_its_sidecar_costs_three_workers_and_no_neighbour(tmp_path: Path) -> None:
    report = poison_real(tmp_path, poisons=1, neighbours=8).require()
    assert report.counts["deaths"] == LOSSES_MAX


def test_a_task_on_the_same_host_as_a_poison_survives_it(tmp_path: Path) -> None:
    report = beside_on_one_host(tmp_path, run_s=1).require()
    assert report.counts["deaths"] == LOSSES_MAX


def test_twenty_poisons_among_short_tasks_die_after_three_workers_each(tmp_path: Path) -> None:
    report = poison_wire(tmp_path, poisons=20, neighbours=200).require()
    assert report.counts["deaths"] == 20 * LOSSES_MAX
