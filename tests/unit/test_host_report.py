"""A host's figures in words: what is unknown is said to be, or left out."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom.cli.host_report import flags, lines, load, sparkline

GIB = 1 << 30
FIGURES: dict[str, Any] = {
    "cpu_percent": 37.2, "cpu_per_logical": [0.0, 50.0, 100.0, 99.0], "logical_cpus": 4, "load_1m": 1.5, "load_5m": 1.0,
    "load_15m": 0.25, "ram_total_bytes": 64 * GIB, "ram_available_bytes": 48 * GIB, "disk_total_bytes": 100 * GIB,
    "disk_free_bytes": 0, "swap_total_bytes": 0, "dropped": ["gpus[0].power_w"],
    "container": {"cpu_limit": 2.5, "cpu_percent": 80.0, "memory_limit_bytes": 8 * GIB, "memory_used_bytes": 5 * GIB},
    "gpus": [{"name": "RTX 4090", "utilisation_percent": 93.0, "vram_total_bytes": 24 * GIB,
              "vram_used_bytes": 22 * GIB, "temperature_c": 71.0, "power_w": 310.4, "source": "nvml",
              "processes": [{"pid": 7, "name": "ollama", "vram_bytes": 20 * GIB}, {"pid": 8}]}],
}  # fmt: skip


def host(**fields: Any) -> dict[str, Any]:
    return {"name": "box", "state": "online", "resources": FIGURES, "resources_age_s": 2.0, **fields}


def test_what_is_known_is_shown_with_its_units() -> None:
    trend = {"cpu": [0, 50, None, 100], "ram": [25], "gpu": [None], "vram": []}
    vram = {"used_bytes": 22 * GIB, "total_bytes": 24 * GIB, "source": "nvml"}
    shown = [(label, text) for label, text in lines(host(trend=trend, vram=vram)) if text]
    assert shown == [
        ("figures", "2 s old"),
        ("cpu", "37% of 4 processors"),
        ("each", "▁▅██"),
        ("load", "1.50 1.00 0.25"),
        ("ram", "48.0 GiB free of 64.0 GiB"),
        ("disk", "0 free of 100.0 GiB"),
        ("container", "2.5 processors 80% used, 5.0 GiB used of 8.0 GiB"),
        ("gpu 0", "RTX 4090, 93%, 22.0 GiB used of 24.0 GiB, 71 °C, 310 W, from nvml"),
        ("gpu 0 process", "7 ollama 20.0 GiB"),
        ("gpu 0 process", "8  ?"),
        ("not usable", "gpus[0].power_w"),
        ("vram", "22.0 GiB used of 24.0 GiB from nvml"),
        ("cpu, 15 min", "▁▅·█"),
        ("ram, 15 min", "▃"),
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"resources": None, "resources_age_s": 40.0}, "unknown now; the last ones are 40 s old"),
        ({"resources": None, "resources_age_s": None}, "none were ever reported"),
        (
            {"resources": None, "resources_age_s": None, "last_resources": FIGURES},
            "unknown now; how old the last ones are cannot be told",
        ),
    ],
)
def test_figures_that_are_old_or_missing_are_said_to_be(fields: dict[str, Any], said: str) -> None:
    assert dict(lines(host(**fields)))["figures"] == said


def test_vram_without_a_source_names_none() -> None:
    vram = {"used_bytes": 0, "total_bytes": 24 * GIB, "source": None}
    assert dict(lines(host(vram=vram)))["vram"] == "0 used of 24.0 GiB"


def test_the_last_figures_are_shown_with_their_age_when_there_are_no_current_ones() -> None:
    shown = dict(lines(host(resources=None, resources_age_s=40.0, last_resources=FIGURES)))
    assert shown["cpu"] == "37% of 4 processors"


def test_a_list_shows_load_or_the_age_of_what_is_too_old() -> None:
    assert load(host()) == ("37%", "48.0 GiB", "RTX 4090 93%")
    assert load(host(resources={})) == ("? 2 s old", "", "")
    assert load(host(resources=None, resources_age_s=None)) == ("", "", "")


def test_vram_by_loaded_models_names_its_source() -> None:
    vram = {"used_bytes": 5 * GIB, "total_bytes": None, "source": "api_ps"}
    assert dict(lines(host(vram=vram)))["vram"] == "5.0 GiB used from api_ps"


def test_a_line_of_bars_has_a_dot_where_nothing_is_known() -> None:
    assert sparkline([None, 0, 12.6, 100, 250, -3]) == "·▁▂██▁"
    assert sparkline([None, None]) == sparkline([]) == ""


def test_flags_say_what_keeps_work_from_a_host_or_brings_it_there() -> None:
    assert flags(host()) == ""
    assert (
        flags(host(draining=True, preferred=True, quiet_until="2027-01-01T07:00:00.000Z"))
        == "draining preferred quiet"
    )
