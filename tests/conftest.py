"""Fixtures that every kind of test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Tests are of the sources, whatever was built; AGENTCOM_CORE=compiled asks for the build, here and in the tests' hubs.
os.environ.setdefault("AGENTCOM_CORE", "python")

from agentcom import compiled
from tests import isolating
from tests.world import World
from tests.world import world as make_world

# No test judges a time, also not that of one example on a machine that others use.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Homes and real processes of one test; nothing of it is left afterwards."""
    with make_world(tmp_path) as made:
        yield made


# These lower a bound, count what Python does, or look at all that an object has: a compiled module allows none of it.
OF_SOURCES = frozenset(
    {
        "test_agents_that_a_host_renames_for_ever_do_not_pile_up",
        "test_a_host_too_many_is_refused_before_anything_has_changed",
        "test_a_person_has_several_sessions_up_to_a_limit",
        "test_at_the_bound_the_oldest_invitation_that_was_used_makes_room",
        "test_endpoints_are_bounded",
        "test_invitations_are_bounded",
        "test_keys_and_tokens_are_bounded",
        "test_links_are_bounded",
        "test_no_part_of_the_core_keeps_old_settings",
        "test_r19_two_hundred_thousand_queued_tasks_cost_no_more_per_start_than_two_thousand",
        "test_the_number_of_rules_is_bounded",
        "test_the_pool_used_longest_ago_goes_when_there_are_too_many",
        "test_timers_of_waits_that_were_answered_do_not_pile_up",
        "test_unused_groups_of_an_old_store_go_in_slices_after_the_start",
        "test_waits_are_bounded_and_the_next_is_answered_at_once",
        "test_what_left_from_the_middle_is_dropped_at_the_bound",
    }
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of the sources alone are left out where the core is compiled."""
    for item in items:
        if getattr(item, "originalname", "") in OF_SOURCES:
            item.add_marker("sources")
    if compiled.IMPLEMENTATION == "compiled":
        config.hook.pytest_deselected(items=[one for one in items if one.get_closest_marker("sources")])
        items[:] = [one for one in items if not one.get_closest_marker("sources")]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes tells the one that reports which of its tests had commands isolated."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["isolated"] = isolating.ran


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    isolating.ran.extend(getattr(node, "workeroutput", {}).get("isolated", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in isolating.summary():
        terminalreporter.write_line(f"isolation: {line}")
