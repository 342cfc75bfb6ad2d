"""What a way is said to cost is a policy: the settings of [scoring], which hold from the next tick on."""

from __future__ import annotations

import msgspec
import pytest

from agentcom import messages as m
from agentcom.config import ScoringSettings
from agentcom.core.estimates import MS_US
from agentcom.errors import Refused
from agentcom.settings import NAMES, with_values
from tests import factories
from tests.core_rig import Rig
from tests.factories import endpoint_model, endpoint_probe, shell_task, sighting, task

COSTS = [each.name for each in msgspec.structs.fields(ScoringSettings)]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_change_of_the_policy_holds_for_the_next_decision(rig: Rig) -> None:
    rig.host()
    rig.admin.ask(m.ConfigChange(set={"scoring.shell_ms": 7_000}))
    rig.admin.submit(shell_task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.score is not None
    assert assign.route.score.parts["run"] == 7_000 * MS_US


@pytest.mark.parametrize(("percent", "goes_to"), [(100, "warm"), (0, "idle")])
def test_a_part_that_weighs_nothing_decides_nothing(percent: int, goes_to: str) -> None:
    rig = Rig(with_values(factories.settings(), {"scoring.load_percent": percent}))
    for name, is_warm in (("warm", True), ("idle", False)):
        rig.host(name, agents=2).see(sighting(probe=endpoint_probe(endpoint_model(warm=is_warm))))
    rig.admin.ask(m.EndpointUpdate(endpoint="1", cap=2))
    warm = rig.hub.fleet.host_named("warm")
    warm.busy_count += 1
    rig.hub.fleet.touched.add(warm.record.id)
    rig.validates = False  # the host runs nothing that the hub knows of
    rig.admin.submit(task())
    assert [one.route.host for one in rig.sent(m.Assign)] == [goes_to]


@pytest.mark.parametrize("name", COSTS)
def test_every_figure_of_the_policy_is_bounded(rig: Rig, name: str) -> None:
    assert NAMES[f"scoring.{name}"].value == getattr(ScoringSettings(), name)
    for value in (-1, 10**9, "much"):
        with pytest.raises(Refused, match=f"scoring.{name} cannot be"):
            rig.admin.ask(m.ConfigChange(set={f"scoring.{name}": value}))
