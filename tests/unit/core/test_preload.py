"""Loading a model ahead of its task: when it is cold everywhere and a host is about to be idle, within every bound."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.config import EndpointSettings, ModelSettings, PreloadSettings, QueueSettings, Settings
from agentcom.core.agents import Host
from agentcom.core.effects import Answered, LoadModel
from agentcom.core.hub import Hub
from agentcom.core.load import Load
from agentcom.core.preloader import fits
from agentcom.figures import Gpu
from agentcom.loading import load
from agentcom.model import (
    EndpointKind,
    EndpointModel,
    EndpointRecord,
    HostRecord,
    JsonObject,
    Lane,
    ModelAnswer,
    Resources,
    TaskSpec,
)
from tests.core_rig import HostEnd, Rig
from tests.factories import endpoint_model, endpoint_probe, resources, shell_task, sighting, task

WANTED, OTHER = "wanted:7b", "other:1b"
URL = "http://127.0.0.1:11434"
GIB = 1 << 30
CONTEXT = 8192
LONG_MS = 40_000  # after which a task on OTHER, which is expected to take 8 s, is about to end for long


def rig_with(**preload: Any) -> Rig:
    return Rig(
        Settings(
            queue=QueueSettings(lease_s=3600, heartbeat_s=5, offline_s=3600),
            models=ModelSettings(standard=WANTED, num_ctx=CONTEXT),
            endpoints=EndpointSettings(probe_every_s=3600),  # what was seen once stays seen
            preload=PreloadSettings(**preload),
        )
    )


@pytest.fixture
def rig() -> Rig:
    return rig_with()


def models(*, warm: tuple[str, ...] = (OTHER,), names: tuple[str, ...] = (WANTED, OTHER), **sizes: int) -> Any:
    found = [
        endpoint_model(
            name,
            digest=f"sha256:{name}",
            size_bytes=sizes.get(name.split(":", maxsplit=1)[0], GIB),
            warm=name in warm,
            context_length=CONTEXT if name in warm else 0,
        )
        for name in names
    ]
    return endpoint_probe(*found)


def vram(total: int, used: int | None = None) -> Resources:
    gpu = Gpu(name="gpu", vram_total_bytes=total * GIB, vram_used_bytes=(used if used is not None else 1) * GIB)
    return resources(gpus=(gpu,), ram_available_bytes=16 * GIB)


def box(rig: Rig, name: str = "box", probe: Any = None, *, preloads: bool = True, **offer: Any) -> HostEnd:
    """A host with one agent and a server with two models, one of them loaded."""
    offer = {"resources": vram(24), **offer}
    end = rig.host(name, preloads=preloads, **offer)
    end.see(sighting(probe=probe or models()))
    return end


def busy(rig: Rig, end: HostEnd, for_ms: int = LONG_MS, spec: TaskSpec | None = None) -> m.Assign:
    """The host's agent works, and has for so long."""
    rig.admin.submit(spec or task(model=OTHER))
    assign = end.take()
    rig.clock.advance(for_ms)
    return assign


def asked(rig: Rig, spec: TaskSpec | None = None) -> list[m.Preload]:
    """What hosts are asked to load once the task is ready and a second has passed."""
    rig.admin.submit(spec or task())
    rig.advance(1_000)
    return rig.sent(m.Preload)


def loaded(end: HostEnd, reason: str = "", model: str = WANTED) -> Any:
    answer = ModelAnswer(url=URL, model=model, reason=reason, duration_ms=4_000, is_load=True)
    return end.send(m.Endpoints(session=end.token, sightings=(), answers=(answer,)))


def why(rig: Rig, number: int) -> JsonObject:
    return dict(rig.admin.ask(m.TaskWhy(task=number)))


# --- when -----------------------------------------------------------------------------------------------


def test_a_model_that_is_cold_everywhere_is_loaded_where_a_host_is_about_to_be_idle(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    assert asked(rig) == [m.Preload(url=URL, model=WANTED, num_ctx=CONTEXT, keep_s=300, load_s=300)]
    assert [one["event"] for one in rig.published("endpoint")][-1] == "model_preloading"
    rig.advance(1_000)
    assert rig.sent(m.Preload) == [], "it is asked for once"


def test_the_task_then_starts_warm(rig: Rig) -> None:
    end = box(rig)
    first = busy(rig, end)
    asked(rig)
    rig.clock.advance(4_000)
    loaded(end)
    assert rig.published("endpoint")[-1]["load_s"] == 4.0
    end.complete(first)
    score = end.take().route.score
    assert score is not None
    assert score.parts["load"] == 0
    measure = rig.hub.registry.endpoints[1].measures[WANTED]
    assert (measure.load_ms, measure.load_samples) == (4_000, 1)


def test_a_task_that_comes_while_the_model_loads_waits_for_half_of_it_and_measures_no_load(rig: Rig) -> None:
    end = box(rig, probe=models(wanted=4 * GIB))
    first = busy(rig, end)
    asked(rig)
    end.complete(first)
    second = end.take()
    assert second.route.score is not None
    assert 0 < second.route.score.parts["load"] <= 5_000_000
    end.complete(second, durations_ms={"load": 1_000})
    assert rig.hub.registry.endpoints[1].measures[WANTED].load_samples == 0
    loaded(end)
    assert rig.hub.registry.endpoints[1].measures[WANTED].load_samples == 1


def test_nothing_is_loaded_where_the_work_is_not_about_to_end() -> None:
    rig = rig_with(ahead_s=1)
    end = box(rig)
    rig.hub.registry.endpoints[1].measures.clear()
    busy(rig, end, for_ms=1_000, spec=task(model=OTHER))
    assert asked(rig) == []
    rig.advance(20_000)
    assert [one.model for one in rig.sent(m.Preload)] == [WANTED]


def test_nothing_is_loaded_while_the_model_is_warm_somewhere_of_use(rig: Rig) -> None:
    end, other = box(rig, "cold"), box(rig, "warm", probe=models(warm=(WANTED, OTHER)))
    for one in (end, other):
        busy(rig, one)
    assert asked(rig) == []
    other.see(sighting(probe=endpoint_probe(healthy=False)))
    rig.advance(1_000)
    assert [one.url for one in rig.sent(m.Preload)] == [URL], "a server that is down is of no use"


def test_nothing_is_loaded_while_a_call_loads_it_elsewhere(rig: Rig) -> None:
    end = box(rig, "one")
    busy(rig, end)
    box(rig, "two")
    rig.admin.submit(task())
    assert asked(rig) == []


def test_a_host_that_others_take_first_is_not_about_to_be_idle(rig: Rig) -> None:
    """The next task is for the model that is warm on the first host, so the second one is prepared."""
    first = box(rig, "first")
    second = box(rig, "second", probe=models(names=(WANTED, "third:1b"), warm=("third:1b",)))
    busy(rig, second, spec=task(model="third:1b"), for_ms=1_000)
    busy(rig, first)
    rig.admin.submit(task(model=OTHER, lane=Lane.urgent))
    asked(rig)
    assert list(rig.hub.preloads.open) == [2]


def test_a_host_whose_next_task_is_another_is_not_prepared(rig: Rig) -> None:
    end = box(rig)
    first = busy(rig, end)
    rig.admin.submit(task(model=OTHER, lane=Lane.urgent))
    assert asked(rig) == []
    end.complete(first)
    end.take()
    rig.clock.advance(LONG_MS)
    rig.advance(1_000)
    assert [one.model for one in rig.sent(m.Preload)] == [WANTED], "its turn has come"


def test_of_two_hosts_the_one_is_prepared_that_will_be_done_with_the_task_first(rig: Rig) -> None:
    late = box(rig, "late")
    early = box(rig, "early")
    for one in (late, early):
        rig.admin.submit(task(model=OTHER))
        rig.clock.advance(0 if one is late else 2_000)
    early.take()
    rig.clock.advance(3_000)
    late.take()  # its work has just begun
    asked(rig)
    assert [rig.hub.registry.endpoints[n].name for n in rig.hub.preloads.open] == ["ollama-early"]


def test_a_paused_queue_and_a_task_under_a_limit_have_nothing_loaded(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    rig.admin.ask(m.QueuePause(paused=True))
    assert asked(rig) == []
    rig.admin.ask(m.QueuePause(paused=False))
    rig.admin.ask(m.QueuePause(paused=True, tier="standard"))
    rig.advance(1_000)
    assert rig.sent(m.Preload) == []
    rig.admin.ask(m.QueuePause(paused=False, tier="standard"))
    rig.advance(1_000)
    assert len(rig.sent(m.Preload)) == 1


def test_an_agent_that_cannot_run_the_task_is_not_waited_for(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    assert asked(rig, task(needs=("gpu",))) == []
    assert asked(rig, task(needs=("host:box",))) != []


def test_work_that_calls_no_model_ends_soon_too(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end, spec=shell_task())
    assert len(asked(rig)) == 1


def test_without_news_and_without_a_cold_model_nothing_is_looked_at(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    end = box(rig, probe=models(warm=(WANTED, OTHER)))
    busy(rig, end)
    asked(rig)
    rig.advance(1_000)
    assert not rig.hub.preloader.is_news
    monkeypatch.setattr(rig.hub.preloader, "_cold_pools", lambda: pytest.fail("looked at"))
    rig.hub.preloader.turn(rig.clock.now())
    rig.clock.advance(5_000)
    rig.hub.preloader.turn(rig.clock.now())


# --- who allows it --------------------------------------------------------------------------------------


def test_nothing_is_loaded_where_it_is_turned_off_and_all_is_as_it_was_at_run_time(rig: Rig) -> None:
    rig = rig_with(enabled=False)
    end = box(rig)
    busy(rig, end)
    assert asked(rig) == []
    rig.admin.ask(m.ConfigChange(set={"preload.enabled": True}))
    rig.advance(1_000)
    assert len(rig.sent(m.Preload)) == 1


def test_a_host_that_shares_its_gpu_with_people_loads_nothing_ahead(rig: Rig) -> None:
    shared, own = box(rig, "shared", preloads=False), box(rig, "own")
    busy(rig, shared)
    busy(rig, own, for_ms=1_000)
    asked(rig)
    assert [one.host for one in rig.hub.preloads.open.values()] == [2], "though the other is idle sooner"
    assert rig.admin.ask(m.HostList())["hosts"][0]["preloads"] is False


def test_an_endpoint_of_which_an_operator_says_so_loads_nothing_ahead(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    shown = rig.admin.ask(m.EndpointUpdate(endpoint="ollama-box", preload=False))
    assert shown["preload"] is False
    assert asked(rig) == []
    rig.admin.ask(m.EndpointUpdate(endpoint="ollama-box", preload=True))
    rig.advance(1_000)
    assert len(rig.sent(m.Preload)) == 1


def test_other_servers_than_ollama_are_not_asked(rig: Rig) -> None:
    end = rig.host("box", preloads=True)
    end.see(sighting(probe=models(), kind=EndpointKind.openai))
    busy(rig, end)
    assert asked(rig) == []


def test_what_the_hub_sees_it_has_loaded_itself(rig: Rig) -> None:
    end = rig.host("box")
    rig.admin.ask(m.EndpointAdd(url="http://gpu.example:11434", name="gpu"))
    rig.probed(1, models(warm=()))
    busy(rig, end, spec=shell_task())
    rig.admin.submit(task())
    assert LoadModel(1, WANTED, CONTEXT, 300, 300) in rig.advance(1_000)
    rig.tick(Answered(1, ModelAnswer(url="http://gpu.example:11434", model=WANTED, duration_ms=9, is_load=True)))
    assert [one.warm for one in rig.hub.registry.endpoints[1].models] == [True, False]
    assert rig.hub.preloads.open == {}


# --- bounds ---------------------------------------------------------------------------------------------


def test_one_model_is_loaded_on_an_endpoint_at_a_time(rig: Rig) -> None:
    end = box(rig, agents=2, probe=models(names=(WANTED, OTHER, "third:1b")))
    busy(rig, end)
    busy(rig, end, spec=shell_task())
    assert [one.model for one in asked(rig)] == [WANTED]
    assert asked(rig, task(model="third:1b")) == []
    loaded(end)
    rig.advance(1_000)
    assert [one.model for one in rig.sent(m.Preload)] == ["third:1b"]


def test_so_many_are_loaded_in_all(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRELOADS_MAX", 1)
    for name in ("one", "two"):
        end = box(rig, name, probe=models(names=(f"{name}:7b", OTHER)))
        busy(rig, end)
    for name in ("one", "two"):
        rig.admin.submit(task(model=f"{name}:7b"))
    rig.advance(1_000)
    assert [one.model for one in rig.sent(m.Preload)] == ["one:7b"]


def test_a_load_that_failed_is_left_alone_for_longer_each_time(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    asked(rig)
    for wait_ms in (limits.PRELOAD_WAIT_MS, 2 * limits.PRELOAD_WAIT_MS, 4 * limits.PRELOAD_WAIT_MS):
        loaded(end, reason="model requires more system memory")
        assert rig.published("endpoint")[-1]["event"] == "model_preload_failed"
        rig.advance(wait_ms - 1_000)
        assert rig.sent(m.Preload) == []
        rig.advance(1_000)
        assert len(rig.sent(m.Preload)) == 1
    loaded(end)
    assert rig.hub.preloads.failed.circuits == {}


def test_a_failure_is_forgotten_when_the_task_is_gone(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    number = rig.admin.submit(task())
    rig.advance(1_000)
    loaded(end, reason="no room")
    rig.admin.ask(m.TaskCancel(task=number))
    rig.advance(1_000)
    assert rig.hub.preloads.failed.circuits == {}
    assert len(asked(rig)) == 1, "another task has a fresh try"


def test_a_load_of_which_nothing_is_heard_is_given_up() -> None:
    rig = rig_with(load_s=60)
    end = box(rig)
    busy(rig, end)
    asked(rig)
    rig.advance(60_000 + limits.PRELOAD_GRACE_MS - 1_000)
    assert len(rig.hub.preloads.open) == 1
    rig.advance(1_000)
    assert rig.hub.preloads.open == {}
    assert "within 60 s" in rig.published("endpoint")[-1]["reason"]
    loaded(end)
    assert not rig.hub.registry.endpoints[1].models[0].warm, "an answer that nobody waits for changes nothing"


def test_a_host_that_goes_takes_its_load_along_without_blame(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    asked(rig)
    end.leave()
    assert (rig.hub.preloads.open, rig.hub.preloads.failed.circuits) == ({}, {})
    assert rig.hub.registry.loads.view(1) == []


def test_an_endpoint_that_goes_takes_its_load_along(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    asked(rig)
    rig.admin.ask(m.EndpointRemove(endpoint="ollama-box", now=True))
    assert rig.hub.preloads.open == {}


def test_what_loads_when_its_task_goes_ends_as_any_other(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    number = rig.admin.submit(task())
    rig.advance(1_000)
    rig.admin.ask(m.TaskCancel(task=number))
    assert len(rig.hub.preloads.open) == 1, "the server loads on, and gets no second one meanwhile"
    loaded(end)
    assert rig.hub.preloads.open == {}


def test_a_core_that_takes_over_knows_what_is_being_loaded(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    asked(rig)
    old, now = rig.hub, rig.clock.now()
    made = Hub(rig.settings, random.Random(7), old.epoch)
    made.load(load(rig.store), now, old)
    assert made.preloads.open == old.preloads.open != {}
    made.validate()
    rig.hub = made
    loaded(end)
    assert rig.hub.preloads.open == {}


# --- room -----------------------------------------------------------------------------------------------


def record(*held: EndpointModel) -> EndpointRecord:
    return EndpointRecord(id=1, name="one", kind=EndpointKind.ollama, url=URL, models=held)


def home(**load: int) -> Host:
    return Host(HostRecord(id=1, name="box", principal=1), load=Load(**load))


def of(gib: float, *, warm: bool = False, name: str = WANTED) -> EndpointModel:
    return endpoint_model(name, size_bytes=int(gib * GIB), warm=warm)


@pytest.mark.parametrize(
    ("wants", "warm", "load", "has_work", "is_fit"),
    [
        pytest.param(8, [10], {"vram_bytes": 24 * GIB}, True, True, id="beside what works"),
        pytest.param(8, [16], {"vram_bytes": 24 * GIB}, True, False, id="no room beside what works"),
        pytest.param(8, [16], {"vram_bytes": 24 * GIB}, False, True, id="in the place of what nobody wants"),
        pytest.param(25, [], {"vram_bytes": 24 * GIB}, False, False, id="larger than the GPUs"),
        pytest.param(
            8, [], {"vram_bytes": 24 * GIB, "vram_free_bytes": 9 * GIB}, False, False, id="people hold the GPU"
        ),
        pytest.param(
            8, [10], {"vram_bytes": 24 * GIB, "vram_free_bytes": 5 * GIB}, True, False, id="people, and work"
        ),
        pytest.param(8, [10], {"vram_bytes": 24 * GIB, "vram_free_bytes": 5 * GIB}, False, True, id="people, no work"),
        pytest.param(1, [1, 1, 1], {"vram_bytes": 24 * GIB}, True, False, id="as the fourth of three"),
        pytest.param(1, [1, 1, 1], {"vram_bytes": 24 * GIB}, False, True, id="the fourth, none has work"),
        pytest.param(4, [1], {"free_bytes": 6 * GIB}, True, True, id="in memory, without a GPU"),
        pytest.param(4, [1], {"free_bytes": 2 * GIB}, False, False, id="no memory"),
        pytest.param(4, [1], {}, True, False, id="room unknown, beside work"),
        pytest.param(4, [1], {}, False, True, id="room unknown, no work"),
        pytest.param(4, [], {}, True, True, id="room unknown, nothing loaded"),
        pytest.param(0, [1], {"vram_bytes": 24 * GIB}, False, False, id="size unknown"),
    ],
)
def test_a_model_is_loaded_only_where_it_fits_and_no_model_with_work_has_to_leave(
    wants: int, warm: list[int], load: dict[str, int], has_work: bool, is_fit: bool
) -> None:
    held = [of(gib, warm=True, name=f"warm{n}:1b") for n, gib in enumerate(warm)]
    wanted = of(wants)
    assert fits(record(wanted, *held), wanted, home(**load), lambda: has_work) is is_fit


def test_a_model_with_calls_in_flight_never_leaves_for_one_that_is_to_come(rig: Rig) -> None:
    end = box(rig, probe=models(wanted=16 * GIB, other=10 * GIB), resources=vram(24, 11))
    first = busy(rig, end)
    assert asked(rig) == []
    assert first.route.model == OTHER


def test_a_model_that_a_waiting_task_wants_does_not_leave_either(rig: Rig) -> None:
    end = box(rig, probe=models(wanted=16 * GIB, other=10 * GIB), resources=vram(24, 11))
    busy(rig, end, spec=shell_task())
    waiting = rig.admin.submit(task(model=OTHER, lane=Lane.low))
    assert asked(rig) == []
    rig.admin.ask(m.TaskCancel(task=waiting))
    rig.advance(1_000)
    assert len(rig.sent(m.Preload)) == 1


# --- how it is seen --------------------------------------------------------------------------------------


def test_task_why_and_the_list_of_endpoints_say_what_is_being_loaded_and_since_when(rig: Rig) -> None:
    end = box(rig)
    busy(rig, end)
    number = rig.admin.submit(task())
    rig.advance(1_000)
    [shown] = rig.admin.ask(m.EndpointList())["endpoints"]
    [one] = shown["loading"]
    assert (one["model"], one["ahead"]) == (WANTED, True)
    found = why(rig, number)
    assert found["loading"] == [{**one, "endpoint": "ollama-box", "host": "box"}]
    assert found["reason"].startswith(f"loading {WANTED} on box since {one['since']}")
    kept = rig.admin.ask(m.EventList(event="model_preloading"))["events"]
    assert [(one["model"], one["host"], one["task"]) for one in kept] == [(WANTED, "box", number)]
    loaded(end)
    assert why(rig, number)["loading"] == []


def test_r11_a_model_is_loaded_ahead_with_the_context_that_tasks_ask_for(rig: Rig) -> None:
    """The warm key has num_ctx in it: loaded with another it would be loaded again."""
    end = box(rig)
    rig.admin.ask(m.EndpointUpdate(endpoint="ollama-box", num_ctx=4096))
    end.see(sighting(probe=models(warm=())))
    busy(rig, end, spec=shell_task())
    assert [one.num_ctx for one in asked(rig)] == [4096]
    loaded(end)
    assert rig.hub.registry.endpoints[1].models[0].context_length == 4096
