"""The benchmark of health checks runs whole, with a real hub and real servers. Its figures are not judged."""

from __future__ import annotations

from pathlib import Path

from bench import probes


def test_a_hub_with_endpoints_has_a_row_of_its_ticks_and_cycles(tmp_path: Path) -> None:
    with probes.servers(10) as url:
        row = probes.run(tmp_path, url, 10, 1.0)
    assert (row["checks"], row["endpoints"]) == (True, 10)
    assert row["ticks"] > 0
    assert 0 < row["tick_p50_us"] <= row["tick_p99_us"] <= row["tick_max_us"]
    assert 0 < row["request_p50_us"] <= row["request_p99_us"]
