"""A host's figures: trusted while they are fresh, kept with a short history, written rarely, never believed blindly."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.core.resources import age_ms, fresh, vram_view
from agentcom.core.trend import Trend
from agentcom.figures import Gpu, Resources
from agentcom.loading import load
from agentcom.model import HostRecord, TrendRecord
from agentcom.store.base import Batch
from tests.core_rig import Rig
from tests.factories import endpoint_model, endpoint_probe, resources, sighting

GIB = 1 << 30


@pytest.fixture
def rig() -> Rig:
    return Rig()


def known(rig: Rig, name: str = "box") -> Resources | None:
    return fresh(rig.hub.fleet.host_named(name), rig.clock.now())


def shown(rig: Rig) -> dict[str, Any]:
    (host,) = rig.admin.ask(m.HostList())["hosts"]
    assert isinstance(host, dict)
    return host


# --- fresh ------------------------------------------------------------------------------------------------


def test_figures_are_known_for_three_reports_and_then_unknown_with_their_age(rig: Rig) -> None:
    box = rig.host("box")
    box.beat(resources=resources(cpu_percent=7.0))
    rig.advance(15_000)
    box.beat()
    assert known(rig) == resources(cpu_percent=7.0)
    rig.advance(1)
    assert known(rig) is None
    assert (shown(rig)["resources"], shown(rig)["resources_age_s"]) == (None, 15.001)


def test_a_host_that_reports_more_rarely_is_trusted_for_longer(rig: Rig) -> None:
    box = rig.host("box")
    box.beat(resources=resources(every_s=60))
    rig.advance(180_000)
    assert known(rig) is not None
    rig.advance(1)
    assert known(rig) is None


@pytest.mark.parametrize("jump_ms", [10**9, -(10**9)])
def test_a_wall_clock_that_jumps_makes_no_figure_older_or_newer(rig: Rig, jump_ms: int) -> None:
    box = rig.host("box")
    box.beat(resources=resources())
    rig.clock.jump(jump_ms)
    rig.advance(14_000)
    assert known(rig) is not None
    rig.advance(1_001)
    assert known(rig) is None
    box.beat(resources=resources())
    assert known(rig) is not None


def test_a_host_that_never_reported_is_unknown(rig: Rig) -> None:
    rig.host("box")
    assert known(rig) is None
    assert age_ms(rig.hub.fleet.host_named("box"), rig.clock.now()) is None


# --- history and store ------------------------------------------------------------------------------------


def test_reports_are_written_once_a_minute_and_not_each(rig: Rig) -> None:
    box = rig.host("box")
    written = 0
    for _ in range(24):
        rig.advance(5_000)
        before = rig.store.sequence
        box.beat(resources=resources())
        written += rig.store.sequence > before
    assert written == 2


def test_figures_and_their_history_survive_a_restart_of_the_hub(rig: Rig) -> None:
    box = rig.host("box")
    for percent in range(20):
        rig.advance(5_000)
        box.beat(resources=resources(cpu_percent=float(percent)))
    box.leave()
    rig.start()
    host = rig.hub.fleet.host_named("box")
    assert host.trend.view()["cpu"] == list(range(20))
    assert host.record.resources == resources(cpu_percent=19.0)
    assert known(rig) == resources(cpu_percent=19.0)
    rig.advance(16_000)
    assert known(rig) is None


def test_figures_are_unknown_where_the_clock_was_set_back_while_the_hub_did_not_run(rig: Rig) -> None:
    box = rig.host("box")
    box.beat(resources=resources(cpu_percent=7.0))
    box.leave()
    rig.clock.jump(-3_600_000)
    rig.start()
    assert age_ms(rig.hub.fleet.host_named("box"), rig.clock.now()) is None
    assert known(rig) is None
    rig.advance(600_000)
    assert known(rig) is None, "nor are they new for an hour"


def test_a_hub_that_dies_keeps_what_was_written_last(rig: Rig) -> None:
    box = rig.host("box")
    for percent in range(30):
        rig.advance(5_000)
        box.beat(resources=resources(cpu_percent=float(percent)))
    rig.start()
    cpu = rig.hub.fleet.host_named("box").trend.view()["cpu"]
    assert cpu == list(range(len(cpu)))
    assert 30 - len(cpu) <= limits.REPORT_SAVE_MS // 5_000


def test_a_host_record_of_before_with_absurd_figures_keeps_no_hub_from_starting(rig: Rig) -> None:
    rig.host("box").leave()
    ((key, body),) = rig.store.scan("hosts")
    old = {**msgspec.msgpack.decode(body), "resources": {"cpu_percent": 40_000.0, "load_1m": 1.0}}
    old.pop("trend")
    batch = Batch()
    batch.put("hosts", key, msgspec.msgpack.encode(old))
    rig.store.commit(batch, rig.store.sequence + 1)
    (record,) = load(rig.store).hosts
    assert isinstance(record, HostRecord)
    assert record.resources == Resources(cpu_percent=100.0, load_1m=1.0, dropped=("cpu_percent",))


def test_a_history_is_bounded_in_points_and_in_time() -> None:
    trend = Trend()
    for n in range(3 * limits.TREND_POINTS_MAX):
        trend.add(resources(cpu_percent=float(n % 100)), n * 5_000)
    assert len(trend) == limits.TREND_POINTS_MAX
    record = trend.record()
    assert record is not None
    assert len(msgspec.msgpack.encode(record)) < 1500
    assert Trend(record).view() == trend.view()


def test_reports_within_a_few_seconds_are_one_point_and_a_silence_begins_anew() -> None:
    trend = Trend()
    for ms in (0, 1_000, 4_000, 5_000, 5_500):
        trend.add(resources(), 1_000_000 + ms)
    assert len(trend) == 2
    trend.add(resources(), 1_000_000 + limits.TREND_S_MAX * 1000 + 6_000)
    assert len(trend) == 1
    trend.add(resources(), 1_000)
    assert trend.view()["at"] == ["1970-01-01T00:00:01.000Z"]


def test_a_point_has_what_is_known_and_no_more() -> None:
    trend = Trend()
    gpus = (
        Gpu(name="A", vram_total_bytes=8, vram_used_bytes=2, utilisation_percent=10.0),
        Gpu(name="B", vram_total_bytes=8, vram_used_bytes=6, utilisation_percent=90.0),
    )
    trend.add(Resources(), 0)
    trend.add(Resources(cpu_percent=41.6, ram_total_bytes=100, ram_available_bytes=25, gpus=gpus), 5_000)
    view = trend.view()
    assert (view["cpu"], view["ram"], view["gpu"], view["vram"]) == (
        [None, 42],
        [None, 75],
        [None, 90],
        [None, 50],
    )
    assert trend.short("gpu", 1) == [90]


@pytest.mark.parametrize("gaps", [(), (0,), (0, 5, 5), (0,) * 9_999])
def test_a_stored_history_that_does_not_fit_itself_is_cut(gaps: tuple[int, ...]) -> None:
    trend = Trend(TrendRecord(start_s=1, gaps_s=gaps, percents=(1, 2, 3, 4) * 2))
    assert len(trend) == min(2, len(gaps))


# --- figures that cannot be true --------------------------------------------------------------------------


def test_figures_that_cannot_be_used_are_told_once_and_the_heartbeat_counts(rig: Rig) -> None:
    rig.listen(rig.web)
    box = rig.host("box")
    absurd = Resources(ram_total_bytes=4, ram_available_bytes=9, load_1m=1.0, dropped=("cpu_percent",))
    told = []
    for _ in range(3):
        rig.advance(5_000)
        box.beat(resources=absurd)
        told += [e for e in rig.published("host") if e["event"] == "figures_dropped"]
    assert [event["figures"] for event in told] == [["cpu_percent", "ram_available_bytes"]]
    found = known(rig)
    assert found is not None
    assert (found.load_1m, found.ram_available_bytes) == (1.0, None)
    assert shown(rig)["resources"]["dropped"] == ["cpu_percent", "ram_available_bytes"]
    box.beat(resources=msgspec.structs.replace(absurd, dropped=("load_5m",)))
    (told_again,) = [e for e in rig.published("host") if e["event"] == "figures_dropped"]
    assert told_again["figures"] == ["load_5m"]


# --- VRAM -------------------------------------------------------------------------------------------------


def test_vram_comes_from_the_gpus_where_they_tell_it() -> None:
    gpus = (
        Gpu(vram_total_bytes=8, vram_used_bytes=2, source="nvml"),
        Gpu(vram_total_bytes=4, vram_used_bytes=4),
    )
    warm = [endpoint_model(warm=True, vram_bytes=5 * GIB)]
    assert vram_view(Resources(gpus=gpus), warm) == {"used_bytes": 6, "total_bytes": 12, "source": "nvml"}


def test_vram_is_what_loaded_models_hold_where_no_gpu_tells_it(rig: Rig) -> None:
    box = rig.host("box")
    box.beat(resources=resources(gpus=(Gpu(name="dark"),)))
    assert shown(rig)["vram"] is None
    warm = endpoint_model("one", warm=True, vram_bytes=5 * GIB)
    box.see(sighting(probe=endpoint_probe(warm, endpoint_model("two", vram_bytes=GIB))))
    assert shown(rig)["vram"] == {"used_bytes": 5 * GIB, "total_bytes": None, "source": "api_ps"}


# --- one host -------------------------------------------------------------------------------------------------


def test_one_host_is_shown_with_its_last_figures_however_old_and_its_history(rig: Rig) -> None:
    box = rig.host("box")
    box.beat(resources=resources(cpu_percent=7.0))
    rig.advance(16_000)
    shown = rig.admin.ask(m.HostShow(host="box"))
    assert (shown["resources"], shown["resources_age_s"]) == (None, 16.0)
    assert shown["last_resources"]["cpu_percent"] == 7.0
    assert shown["trend"]["cpu"] == [7]
    assert len(shown["trend"]["at"]) == 1
    assert rig.admin.refusal(rig.admin.request(m.HostShow(host="nowhere"))).code == "not_found"


def test_the_page_is_told_when_figures_have_become_too_old(rig: Rig) -> None:
    rig.listen(rig.web)
    box = rig.host("box")
    box.beat(resources=resources())
    told = []
    for _ in range(4):
        rig.advance(5_000)
        told += [e["host"] for e in rig.published("host") if e["event"] == "host_changed"]
        box.beat()
    assert [(host["resources"], host["resources_age_s"]) for host in told] == [(None, 20.0)]
