"""Figures that no machine has cost themselves and nothing else."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.figures import Gpu, Resources, plausible, usable

TOKEN = b"t" * limits.SESSION_TOKEN_BYTES
NAN, INFINITE = math.nan, math.inf


def beat(figures: object, **fields: Any) -> m.Heartbeat:
    """The heartbeat as the hub reads it, from a host that sends these figures."""
    body = {"type": "heartbeat", "session": TOKEN, "beat": 7, "resources": figures, **fields}
    found = m.decode_to_hub(msgspec.msgpack.encode(body))
    assert isinstance(found, m.Heartbeat)
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_percent", -1), ("cpu_percent", NAN), ("cpu_percent", INFINITE), ("cpu_percent", "many"),
        ("cpu_percent", True), ("cpu_percent", [1.0]), ("load_1m", -0.1), ("load_1m", INFINITE), ("load_1m", 1e300),
        ("logical_cpus", -4), ("logical_cpus", 2**40), ("logical_cpus", 1.5), ("ram_total_bytes", 2**63),
        ("ram_total_bytes", -1), ("ram_available_bytes", NAN), ("disk_free_bytes", 2**63), ("swap_used_bytes", "1 GiB"),
        ("cpu_per_logical", [1.0, NAN]), ("cpu_per_logical", [1.0] * 5000), ("cpu_per_logical", 3),
        ("gpus", "none"), ("container", 7), ("every_s", 0), ("every_s", 10**9), ("dropped", [1]),
    ],
)  # fmt: skip
def test_a_figure_out_of_its_bounds_is_unknown_and_the_rest_of_the_heartbeat_counts(
    name: str, value: Any
) -> None:
    found = beat({"load_5m": 0.5, name: value}, attempts=[[3, 1, 9]])
    assert found.resources is not None
    assert getattr(found.resources, name) == getattr(Resources(), name) or name == "dropped"
    assert found.resources.load_5m == 0.5
    assert found.resources.dropped[0].startswith(name)
    assert (found.beat, found.attempts) == (7, (m.AttemptBeat(3, 1, 9),))


@pytest.mark.parametrize(
    "figures", [7, "all is well", [], [1, 2], NAN, {"gpus": {}}, {1: 2}, {"gpus": [7, [], None]}]
)
def test_rubbish_in_the_place_of_figures_is_no_figures(figures: Any) -> None:
    found = beat(figures)
    assert found.beat == 7
    assert found.resources is None or msgspec.structs.replace(found.resources, dropped=()) == Resources()


def test_a_percentage_above_100_is_100() -> None:
    found = beat({"cpu_percent": 100.4, "cpu_per_logical": [5.0, 130.0]}).resources
    assert found is not None
    assert (found.cpu_percent, found.cpu_per_logical) == (100.0, (5.0, 100.0))
    assert found.dropped == ("cpu_percent", "cpu_per_logical[1]")


def test_a_broken_sensor_of_one_gpu_costs_that_figure_only() -> None:
    good = {"name": "A", "vram_total_bytes": 24, "power_w": 70.0}
    found = beat({"gpus": [good, {"name": "B", "power_w": -5.0, "temperature_c": 61.0}, "no gpu"]}).resources
    assert found is not None
    assert found.gpus == (Gpu(name="A", vram_total_bytes=24, power_w=70.0), Gpu(name="B", temperature_c=61.0))
    assert found.dropped == ("gpus[1].power_w", "gpus[2]")


def test_names_that_are_too_long_are_cut_and_gpus_beyond_the_bound_are_left_out() -> None:
    found = usable({"gpus": [{"name": "x" * 999}] * 99})
    assert len(found.gpus) == limits.GPUS_PER_HOST_MAX
    assert found.gpus[0].name == "x" * 200
    assert len(found.dropped) == limits.FIGURES_DROPPED_MAX


def test_a_hello_with_absurd_figures_is_a_hello() -> None:
    host = {"name": "box", "agents": [], "resources": {"cpu_percent": NAN, "load_1m": 1.0}}
    body = {"type": "hello", "protocol": 1, "process": "process-1", "host": host}
    found = m.decode_to_hub(msgspec.msgpack.encode(body))
    assert isinstance(found, m.Hello)
    assert found.host is not None
    assert found.host.resources == Resources(load_1m=1.0, dropped=("cpu_percent",))


def test_absurd_figures_in_a_frame_of_many_cost_the_others_nothing() -> None:
    bad = {"type": "heartbeat", "session": TOKEN, "beat": 1, "resources": {"cpu_percent": -7}}
    bye = {"type": "bye", "session": TOKEN}
    found = m.read_to_hub(msgspec.msgpack.encode({"type": "many", "messages": [bad, bye]}))
    assert [type(one) for one in found] == [m.Heartbeat, m.Bye]


def test_what_else_is_wrong_with_a_heartbeat_is_still_refused_by_name() -> None:
    with pytest.raises(Refused) as error:
        beat({"load_1m": 1.0}, attempts=[[0, 1, 9]])
    assert error.value.field == "attempts[0][0]"


def test_figures_that_contradict_each_other_are_unknown() -> None:
    gpus = (Gpu(vram_total_bytes=8, vram_used_bytes=9), Gpu(vram_total_bytes=8, vram_used_bytes=8))
    found = plausible(
        Resources(ram_total_bytes=4, ram_available_bytes=5, disk_total_bytes=1, disk_free_bytes=1, gpus=gpus)
    )
    assert (found.ram_total_bytes, found.ram_available_bytes, found.disk_free_bytes) == (4, None, 1)
    assert [gpu.vram_used_bytes for gpu in found.gpus] == [None, 8]
    assert found.dropped == ("ram_available_bytes", "gpus[0].vram_used_bytes")


def test_sound_figures_are_taken_as_they_are() -> None:
    sound = Resources(cpu_percent=1.0, ram_total_bytes=4, ram_available_bytes=4, gpus=(Gpu(name="A"),))
    assert plausible(sound) is sound
    assert beat(msgspec.to_builtins(sound)).resources == sound
