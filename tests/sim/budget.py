"""What many seeds covered together, and the points that they must have reached."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.sim.world import HOUR_MS, Report

SOMETIMES = (
    # what people and tasks do
    "became_cancelled", "became_completed", "became_dead", "became_delayed", "became_expired", "became_held",
    "batch_refused", "cancelled_while_running", "dead_purged", "idempotent_repeat",
    "unknown_submit_was_not_taken", "unknown_submit_was_taken",
    # deadlines, turns, settings
    "expired_complete_by", "expired_held_too_long", "expired_start_by", "expired_ttl", "not_before_came",
    "became_waiting", "dead_never_accepted", "dependant_started", "limit_had_room", "limit_met",
    "pace_told", "refused_dependency_failed", "refused_has_dependants", "settings_changed",
    "ran_alone", "retired_by_age", "retired_one_too_many",
    "stalled_taken_back", "submitters_took_turns", "window_opened_again", "worker_got_stuck",
    # money
    "budget_had_room", "budget_set", "budget_set_below_what_was_booked", "held_for_a_budget",
    "held_for_its_own_budget", "settled_as_said", "settled_by_all_it_was_given", "settled_late", "settled_unused",
    # how attempts end
    "attempt_cancelled", "attempt_completed", "attempt_declined", "attempt_failed", "attempt_interrupted",
    "attempt_lost", "attempt_unaccepted", "assignment_ignored", "assignment_unaccepted", "late_accept_refused",
    "lease_ran_out", "poison_killed_its_sidecar", "result_accepted", "result_duplicate", "result_sent_twice",
    "result_stale", "result_unknown", "verdict_keep", "verdict_kill", "verdict_report", "beat_kills",
    # how budgets are spent
    "dead_infrastructure_exhausted", "dead_retries", "dead_worker_lost", "failure_configuration",
    "failure_infrastructure", "failure_task_error", "failure_usage_window", "failure_verification",
    # the hub's process and its disk
    "backup_made", "bit_flipped", "commit_came_through", "commit_full", "commit_io_error",
    "crash_in_commit_power", "crash_in_commit_process", "damaged_backup_passed_over", "journal_applied",
    "journal_has_a_hole", "power_all_kept", "power_random_subset", "power_torn", "power_unsynced_lost",
    "read_damaged", "store_restored", "hub_restarted_with_open_attempts", "hub_was_away", "kill_after_commit",
    "kill_after_drain", "kill_after_send", "kill_before_commit", "kill_mid_send", "refused_storage_full",
    "restart_compared", "slow_sync", "socket_not_drained", "tick_handled_again", "wall_jump_during_a_lease",
    # the network and the hosts
    "garbage_refused", "half_open", "link_broken", "one_way_partition", "refused_busy", "refused_invalid",
    "refused_no_session", "refused_not_found", "refused_wrong_state", "sidecar_crashed", "sidecar_frozen",
    "sidecar_lied", "slow_reader_dropped",
)  # fmt: skip


FULL_HOURS = 17_500  # simulated, per core and day
FULL_LEASES = 1_000_000


@dataclass
class Totals:
    """Sums over runs; `failed` has what each failing seed said."""

    seeds: int = 0
    simulated_ms: int = 0
    steps: int = 0
    tasks: int = 0
    leases: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)
    cpu_s: float = 0.0

    @property
    def hours(self) -> float:
        return self.simulated_ms / HOUR_MS

    @property
    def never(self) -> list[str]:
        """Points that no run reached: faults that did not bite."""
        return [point for point in SOMETIMES if not self.seen[point]]

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.simulated_ms += report.simulated_ms
        self.steps += report.steps
        self.tasks += report.tasks
        self.leases += report.leases
        self.cpu_s += report.cpu_s
        self.seen += report.seen

    def fail(self, seed: int, text: str) -> None:
        self.seeds += 1
        self.failed[seed] = text

    def merge(self, other: Totals) -> None:
        self.seeds += other.seeds
        self.simulated_ms += other.simulated_ms
        self.steps += other.steps
        self.tasks += other.tasks
        self.leases += other.leases
        self.cpu_s += other.cpu_s
        self.seen += other.seen
        self.failed |= other.failed

    def as_json(self) -> dict[str, object]:
        return {
            "seeds": self.seeds,
            "failed": sorted(self.failed),
            "simulated_hours": round(self.hours, 2),
            "steps": self.steps,
            "tasks": self.tasks,
            "leases": self.leases,
            "sometimes": dict(sorted(self.seen.items())),
            "never": self.never,
        }

    def as_text(self) -> str:
        lines = [
            f"{self.seeds} seeds, {len(self.failed)} failed {sorted(self.failed)}, {self.hours:.1f} h simulated",
            f"{self.tasks} tasks, {self.leases} leases, {self.steps} steps",
        ]
        lines += [f"{count:>8} {point}" for point, count in sorted(self.seen.items())]
        return "\n".join([*lines, f"never: {self.never}"])
