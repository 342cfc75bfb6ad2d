"""How long a model is expected to take where it was not measured yet."""

from __future__ import annotations

import pytest

from agentcom.core import estimates
from agentcom.figures import Gpu
from agentcom.model import EndpointKind, EndpointModel, EndpointRecord, ModelMeasure
from tests.core_rig import Rig
from tests.factories import MODEL, endpoint_model, endpoint_probe, resources, sighting, task

S_US = 1_000_000
GIB = 1 << 30


@pytest.fixture
def rig() -> Rig:
    return Rig()


def endpoint(*models: EndpointModel, **measures: ModelMeasure) -> EndpointRecord:
    named = {f"{name}:latest": measure for name, measure in measures.items()}
    return EndpointRecord(
        id=1, name="one", kind=EndpointKind.ollama, url="http://127.0.0.1:11434", models=models, measures=named
    )


def test_a_model_twice_as_large_is_expected_to_be_half_as_fast() -> None:
    small, large = endpoint_model("small", size_bytes=4 * GIB), endpoint_model("large", size_bytes=8 * GIB)
    at = endpoint(small, large)
    assert estimates.run_us(at, small, None) == 1000 * S_US // 30
    assert estimates.run_us(at, large, None) == 1000 * S_US // 15


def test_what_one_model_has_shown_of_an_endpoint_tells_of_the_others() -> None:
    known, other = endpoint_model("known", size_bytes=4 * GIB), endpoint_model("other", size_bytes=2 * GIB)
    measure = ModelMeasure(tokens_per_ks=100_000, rate_samples=3, load_ms=8_000, load_samples=1)
    at = endpoint(known, other, known=measure)
    assert estimates.run_us(at, known, None) == 10 * S_US
    assert estimates.run_us(at, other, None) == 5 * S_US
    assert estimates.load_us(at, known) == 8 * S_US
    assert estimates.load_us(at, other) == 4 * S_US


def test_a_model_of_unknown_size_is_expected_to_be_as_fast_as_the_usual_one() -> None:
    unknown = endpoint_model("unknown", size_bytes=0)
    known = endpoint_model("known", size_bytes=4 * GIB)
    at = endpoint(unknown, known, known=ModelMeasure(tokens_per_ks=90_000, rate_samples=1))
    assert estimates.run_us(at, unknown, None) == 1000 * S_US // 30
    assert estimates.load_us(at, unknown) == estimates.USUAL.load_min_ms * 1000


def test_an_estimate_is_bounded_whatever_the_sizes_are() -> None:
    tiny, huge = endpoint_model("tiny", size_bytes=1), endpoint_model("huge", size_bytes=2**60)
    at = endpoint(tiny, huge)
    assert estimates.run_us(at, tiny, None) == 1000 * 1000 * S_US // estimates.RATE_MAX
    assert estimates.run_us(at, huge, None) == 1000 * 1000 * S_US // estimates.RATE_MIN
    assert estimates.load_us(at, huge) == estimates.LOAD_US_MAX


def test_a_model_that_has_answered_is_warm_before_the_next_check_says_so(rig: Rig) -> None:
    box = rig.host("box", agents=2)
    box.see(sighting())
    rig.admin.submit(task())
    first = box.take()
    assert first.route.score is not None
    assert first.route.score.parts["load"] > 0
    box.complete(first, tokens_out=500, durations_ms={"generate": 10_000, "load": 7_000})
    rig.admin.submit(task())
    score = box.take().route.score
    assert score is not None
    assert score.parts["load"] == 0
    box.see(sighting(probe=endpoint_probe(endpoint_model(MODEL))))  # unloaded meanwhile
    assert not rig.hub.registry.named("ollama-box").models[0].warm


def test_loading_over_others_costs_what_the_cheapest_of_them_takes_to_load_again(rig: Rig) -> None:
    gpus = (Gpu(vram_total_bytes=10 * GIB, vram_used_bytes=0, source="nvml"),)
    rig.host("box", resources=resources(gpus=gpus, ram_available_bytes=20 << 30))
    home = rig.hub.fleet.host_named("box")
    warm = endpoint_model("warm", size_bytes=4 * GIB, warm=True)
    beside, over = endpoint_model("beside", size_bytes=6 * GIB), endpoint_model("over", size_bytes=7 * GIB)
    at = endpoint(warm, beside, over)
    assert estimates.displaced_us(at, beside, home) == 0
    assert estimates.displaced_us(at, over, home) == estimates.load_us(at, warm) > 0
    assert estimates.displaced_us(at, over, None) == 0
