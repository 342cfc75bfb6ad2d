"""Settings at run time: they apply from the next event on, all or none, and are in the store with who and when."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import messages as m
from agentcom.config import SECTIONS, Settings
from agentcom.core.effects import ProbeEndpoint, SettingsChanged
from agentcom.errors import Refused
from agentcom.model import FailureClass, JsonObject, Role
from agentcom.settings import value_of
from tests.core_rig import Rig
from tests.factories import error, settings, shell_task, task


@pytest.fixture
def rig() -> Rig:
    return Rig()


def change(rig: Rig, *unset: str, **values: Any) -> JsonObject:
    """Set `queue_lease_s=60` as queue.lease_s."""
    named = {name.replace("_", ".", 1): value for name, value in values.items()}
    found: JsonObject = rig.admin.ask(m.ConfigChange(set=named, unset=unset))["settings"]
    return found


def shown(rig: Rig, name: str) -> JsonObject:
    found: JsonObject = rig.admin.ask(m.ConfigGet(name=name))["settings"][name]
    return found


# --- what changes ---------------------------------------------------------------------------------------


def test_a_longer_lease_holds_for_attempts_that_run_already(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.take()
    rig.advance(30_000)
    change(rig, queue_lease_s=100)
    rig.advance(99_000)
    assert rig.admin.state(number) == "working"
    rig.advance(1_000)
    assert rig.admin.state(number) == "delayed"


def test_a_setting_that_is_set_to_what_it_is_keeps_what_was_before_and_who_set_it_when(rig: Rig) -> None:
    ann = rig.member(Role.admin, "ann")
    for name, value, was in (("queue.lease_s", 50, 45), ("models.cloud_tiers", ["standard"], [])):
        rig.admin.ask(m.ConfigChange(set={name: value}))
        before = shown(rig, name)
        assert (before["was"], before["by"]) == (was, "admin")
        rig.advance(1_000)
        assert ann.ask(m.ConfigChange(set={name: value}))["settings"] == {name: before}
        assert rig.published("hub") == []
        rig.start()
        rig.admin.hello()
        ann.hello()
        assert ann.ask(m.ConfigChange(set={name: value}))["settings"] == {name: before} == {name: shown(rig, name)}


def test_settings_that_do_not_change_the_pace_renew_no_lease(rig: Rig) -> None:
    """Whoever set anything more often than a lease lasts kept the attempts of hosts that are gone for ever."""
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.take()
    rig.advance(30_000)
    change(rig, queue_park_s=90)
    rig.admin.ask(m.ConfigChange(unset=("queue.lease_s",)))
    rig.advance(14_000)
    assert rig.admin.state(number) == "working"
    rig.advance(1_000)
    assert rig.admin.state(number) == "delayed"


def test_a_shorter_lease_is_not_found_too_late(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.take()
    change(rig, queue_lease_s=20)
    rig.advance(19_000)
    assert rig.admin.state(number) == "working"
    rig.advance(1_000)
    assert rig.admin.state(number) == "delayed"


def test_a_host_is_told_the_new_pace_once_with_its_next_beat(rig: Rig) -> None:
    box = rig.host()
    assert box.beat().pace is None
    change(rig, queue_heartbeat_s=1, queue_lease_s=4)
    pace = m.Pace(heartbeat_s=1, lease_s=4, probe_every_s=10)
    assert box.beat().pace == pace
    assert box.beat().pace is None


def test_a_lease_outlasts_three_beats_of_a_host_that_does_not_know_the_faster_pace_yet(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assign = box.take()
    change(rig, queue_heartbeat_s=1, queue_lease_s=4)
    rig.advance(14_000)
    assert rig.admin.state(number) == "working"
    box.beat(assign)  # renewed at the old pace, and told the new one
    rig.advance(14_000)
    assert rig.admin.state(number) == "working"
    box.beat(assign)
    rig.advance(4_000)
    assert rig.admin.task(number)["losses"] == 1


def test_a_host_that_says_hello_knows_the_pace(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assign = box.take()
    change(rig, queue_heartbeat_s=1, queue_lease_s=4)
    box.hello(attempts=(box.held(assign),))
    rig.advance(3_999)
    assert rig.admin.task(number)["losses"] == 0
    rig.advance(1)
    assert rig.admin.task(number)["losses"] == 1


def test_the_backoff_of_the_next_failure_is_the_new_one(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    change(rig, queue_backoff_s=60)
    box.fail(box.take())
    rig.advance(29_000)
    assert rig.admin.state(number) == "delayed"
    rig.advance(31_000)
    assert rig.admin.state(number) == "ready"


def test_retries_are_those_of_the_settings_when_the_task_came(rig: Rig) -> None:
    box = rig.host()
    before = rig.admin.submit(shell_task())
    change(rig, queue_max_retries=0)
    after = rig.admin.submit(shell_task())
    box.fail(box.take())
    box.fail(box.take())
    assert (rig.admin.state(before), rig.admin.state(after)) == ("delayed", "dead")


def test_a_closed_usage_window_parks_for_the_new_time(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    change(rig, queue_park_s=600)
    box.fail(box.take(), error(FailureClass.usage_window, "limit"))
    rig.advance(599_000)
    assert rig.admin.state(number) == "delayed"


def test_lanes_age_as_the_new_delays_say(rig: Rig) -> None:
    change(rig, queue_low_delay_s=0)
    low = rig.admin.submit(shell_task(lane="low"))
    rig.advance(1)
    rig.admin.submit(shell_task(lane="urgent"))
    assert rig.host().assigned().task == low


def test_a_wait_for_acceptance_is_the_new_one(rig: Rig) -> None:
    change(rig, queue_accept_s=2)
    box = rig.host()
    number = rig.admin.submit(shell_task())
    rig.advance(2_000)
    assert box.assigned().task == number
    assert rig.admin.state(number) == "ready"


def test_endpoints_are_probed_at_the_new_pace(rig: Rig) -> None:
    rig = Rig(settings())
    rig.admin.ask(m.EndpointAdd(url="http://10.0.0.7:11434"))
    change(rig, endpoints_probe_every_s=3600)
    rig.advance(3_600_000)
    change(rig, endpoints_probe_every_s=2)
    assert [one for one in rig.advance(2_000) if isinstance(one, ProbeEndpoint)] == [ProbeEndpoint(1)]


def test_a_task_without_a_model_goes_to_the_new_default(rig: Rig) -> None:
    number = rig.admin.submit(task())
    change(rig, models_standard="llama3:8b")
    assert rig.admin.ask(m.TaskWhy(task=number))["needs"]["model"] == "llama3:8b"


def test_the_shell_is_given_the_settings_to_use_after_the_commit(rig: Rig) -> None:
    change(rig, endpoints_probe_timeout_s=1.5)
    (given,) = [one.settings for one in rig.effects if isinstance(one, SettingsChanged)]
    assert given is rig.hub.settings
    assert given.endpoints.probe_timeout_s == 1.5


def test_no_part_of_the_core_keeps_old_settings(rig: Rig) -> None:
    change(rig, queue_lease_s=61, models_standard="other", endpoints_probe_every_s=9)
    kinds = (Settings, *SECTIONS.values())
    current = [rig.hub.settings, *(getattr(rig.hub.settings, name) for name in SECTIONS)]
    base = rig.hub.configuration.base
    held = [found for found in _reached(rig.hub) if isinstance(found, kinds) and found is not base]
    stale = [found for found in held if not any(found is one for one in current)]
    assert stale == []


def _reached(hub: object) -> list[object]:
    """Every attribute of the hub and of its parts, and of theirs."""
    seen: dict[int, object] = {}
    left = [hub]
    while left:
        one = left.pop()
        for value in vars(one).values():
            if id(value) not in seen:
                seen[id(value)] = value
                if type(value).__module__.startswith("agentcom.core") and hasattr(value, "__dict__"):
                    left.append(value)
    return list(seen.values())


# --- who, when, whence ----------------------------------------------------------------------------------


def test_a_setting_says_what_it_was_who_set_it_and_when(rig: Rig) -> None:
    ann = rig.member(Role.admin, "ann")
    assert shown(rig, "queue.lease_s") == {
        "value": 45, "source": "default", "default": 45, "unset_to": 45,
    }  # fmt: skip
    ann.ask(m.ConfigChange(set={"queue.lease_s": 60}))
    assert shown(rig, "queue.lease_s") == {
        "value": 60,
        "source": "stored",
        "default": 45,
        "unset_to": 45,
        "was": 45,
        "by": "ann",
        "at": "2027-01-15T08:00:00.000Z",
    }
    change(rig, queue_lease_s=70)
    (event,) = rig.published("hub")
    number = event.pop("number")
    assert event == {
        "event": "setting_changed", "name": "queue.lease_s", "was": 60, "value": 70, "by": "admin",
    }  # fmt: skip
    assert rig.admin.ask(m.EventList(limit=1))["events"] == [
        {**event, "number": number, "topic": "hub", "at": "2027-01-15T08:00:00.000Z"}
    ]


def test_what_is_set_comes_before_environment_and_file_and_unset_gives_them_back() -> None:
    rig = Rig(settings(lease_s=50, backoff_s=7))
    rig.hub.configuration.sources = {"queue.lease_s": "environment", "queue.backoff_s": "config.toml"}
    change(rig, queue_lease_s=60)
    assert shown(rig, "queue.lease_s")["source"] == "stored"
    assert shown(rig, "queue.backoff_s")["source"] == "config.toml"
    assert change(rig, "queue.lease_s")["queue.lease_s"] == {
        "value": 50, "source": "environment", "default": 45, "unset_to": 50,
    }  # fmt: skip
    assert rig.hub.settings.queue.lease_s == 50
    assert rig.store.count("config") == 0


def test_what_was_never_set_may_be_unset(rig: Rig) -> None:
    assert change(rig, "queue.lease_s")["queue.lease_s"]["source"] == "default"
    assert rig.published("hub") == []


def test_a_hub_that_starts_again_has_what_was_set(rig: Rig) -> None:
    change(rig, queue_lease_s=60, models_standard="other")
    rig.start()
    assert rig.hub.settings.queue.lease_s == 60
    assert rig.hub.settings.models.standard == "other"
    assert rig.hub.attempts._tasks.settings is rig.hub.settings
    rig.admin.hello()
    assert shown(rig, "queue.lease_s")["by"] == "admin"


def test_a_stored_setting_that_no_longer_fits_does_not_keep_the_hub_from_starting(rig: Rig) -> None:
    change(rig, queue_lease_s=20, queue_backoff_s=9)
    rig.settings = settings(heartbeat_s=10)  # somebody has changed config.toml
    rig.start()
    assert (rig.hub.settings.queue.lease_s, rig.hub.settings.queue.backoff_s) == (45, 9)
    rig.admin.hello()
    view = shown(rig, "queue.lease_s")
    assert (view["value"], view["source"]) == (45, "default")
    assert view["ignored"].startswith("queue.lease_s is 20 and queue.heartbeat_s 10")
    told = rig.admin.ask(m.QueueStats())["settings"]
    assert told == {"stored": ["queue.backoff_s", "queue.lease_s"], "ignored": {"queue.lease_s": view["ignored"]}}
    (event,) = rig.admin.ask(m.EventList(event="setting_ignored"))["events"]
    assert (event["name"], event["reason"]) == ("queue.lease_s", view["ignored"])
    change(rig, queue_lease_s=31)
    assert "ignored" not in shown(rig, "queue.lease_s")
    assert rig.hub.settings.queue.lease_s == 31


def test_a_stored_setting_that_this_version_does_not_know_is_left_alone(rig: Rig) -> None:
    change(rig, queue_lease_s=60)
    body = rig.store.get("config", b"queue.lease_s")
    assert body is not None
    loaded = rig.hub.configuration.stored
    rig.hub.configuration.load({**loaded, "queue.colour": loaded["queue.lease_s"]})
    assert set(rig.hub.configuration.ignored) == {"queue.colour"}


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("queue.lease_s", 10**9, "queue.lease_s cannot be 1000000000: Expected `float` <= 604800.0"),
        ("queue.lease_s", "soon", 'queue.lease_s cannot be "soon": Expected `float`, got `str`'),
        ("queue.max_losses", 0, "queue.max_losses cannot be 0: Expected `int` >= 1"),
        ("queue.ttl_s", 10**12, "queue.ttl_s cannot be 1000000000000: Expected `int` <= 3162240000"),
        (
            "queue.lease_s",
            14,
            "queue.lease_s is 14 and queue.heartbeat_s 5: a lease must outlast three heartbeats",
        ),
        (
            "queue.backoff_s",
            301,
            "queue.backoff_s is 301 and queue.backoff_max_s 300: the first wait cannot be longer than the longest",
        ),
    ],
)
def test_a_bad_value_names_key_value_and_bound_and_changes_nothing(
    rig: Rig, name: str, value: Any, message: str
) -> None:
    before = rig.hub.settings
    with pytest.raises(Refused) as refused:
        rig.admin.ask(m.ConfigChange(set={"queue.park_s": 7, name: value}))
    assert (refused.value.code, refused.value.message) == ("invalid", message)
    assert rig.hub.settings is before
    assert rig.store.count("config") == 0
    assert rig.published("hub") == []


def test_two_settings_in_one_change_are_checked_together(rig: Rig) -> None:
    change(rig, queue_lease_s=600, queue_heartbeat_s=60)
    with pytest.raises(Refused, match="a lease must outlast three heartbeats"):
        change(rig, "queue.lease_s")
    change(rig, "queue.lease_s", "queue.heartbeat_s")
    assert rig.hub.settings == rig.settings


def test_a_broken_relation_names_a_field_that_was_sent(rig: Rig) -> None:
    change(rig, queue_max_retries=1, queue_lease_s=60)
    for sent, field in (
        (m.ConfigChange(set={"queue.park_s": 7, "queue.heartbeat_s": 30}), "queue.heartbeat_s"),
        (m.ConfigChange(set={"queue.heartbeat_s": 20}, unset=("queue.lease_s",)), "queue.heartbeat_s"),
    ):
        with pytest.raises(Refused, match="three heartbeats") as refused:
            rig.admin.ask(sent)
        assert refused.value.field == field
    change(rig, queue_heartbeat_s=20)
    with pytest.raises(Refused, match="three heartbeats") as refused:
        change(rig, "queue.lease_s", "queue.max_retries")
    assert refused.value.field == "queue.lease_s"


@pytest.mark.parametrize(
    "name",
    ["sandbox.mode", "anthropic.base_url", "hub.bind", "http.port", "sidecar.agents", "endpoints.discover"],
)
def test_a_local_setting_is_refused_and_not_told(rig: Rig, name: str) -> None:
    for op in (m.ConfigChange(set={name: 1}), m.ConfigChange(unset=(name,))):
        with pytest.raises(Refused, match=f"agentcom config set {name}") as refused:
            rig.admin.ask(op)
        assert (refused.value.code, refused.value.field) == ("local_setting", name)
    assert name not in rig.admin.ask(m.ConfigGet())["settings"]


def test_a_name_that_is_no_setting_is_not_found(rig: Rig) -> None:
    for op in (m.ConfigChange(set={"queue.colour": 1}), m.ConfigChange(unset=("queue.colour",))):
        with pytest.raises(Refused, match=r"there is no setting queue\.colour"):
            rig.admin.ask(op)
    with pytest.raises(Refused, match="there is no setting colour"):
        rig.admin.ask(m.ConfigGet(name="colour"))


def test_a_name_that_is_set_and_unset_is_refused(rig: Rig) -> None:
    with pytest.raises(Refused, match="both set and unset"):
        change(rig, "queue.lease_s", queue_lease_s=60)


def test_only_an_admin_changes_settings(rig: Rig) -> None:
    with pytest.raises(Refused, match="needs the role admin"):
        rig.member(Role.operate).ask(m.ConfigChange(set={"queue.lease_s": 60}))


def test_a_section_is_told_alone(rig: Rig) -> None:
    names = set(rig.admin.ask(m.ConfigGet(name="models"))["settings"])
    assert names == {f"models.{name}" for name in ("standard", "complex", "compare", "num_ctx", "cloud_tiers")}


def test_a_text_is_read_as_the_environment_is(rig: Rig) -> None:
    change(rig, queue_max_retries="7", queue_lease_s="61.5")
    assert rig.hub.settings.queue.max_retries == 7
    assert value_of(rig.hub.settings, "queue.lease_s") == 61.5
