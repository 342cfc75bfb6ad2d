"""How long a model is expected to take on an endpoint, and to load there: as measured, else as others did there.

An answer's every token reads all weights once, and a load reads them from disk once, so both times go with the size of
the model: what one model has shown of an endpoint's memory and disk tells of the others. Where nothing was measured,
usual figures stand in, which the policy says. Whole numbers throughout, and bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agentcom.config import ScoringSettings
from agentcom.core.agents import Host
from agentcom.core.registry import canonical_model
from agentcom.model import EndpointModel, EndpointRecord, ModelMeasure

S_US: Final = 1_000_000
MS_US: Final = 1_000
USUAL: Final = ScoringSettings()
RATE_MIN: Final = 500  # tokens in 1,000 s; an estimate is no lower, and no higher than RATE_MAX
RATE_MAX: Final = 300_000
ROOM_PART: Final = 4  # a loaded model needs about a quarter more than its file: context, buffers
LOAD_US_MAX: Final = 3600 * S_US
RUN_US_MIN: Final = S_US // 10
RUN_US_MAX: Final = 24 * 3600 * S_US


def run_us(
    endpoint: EndpointRecord, held: EndpointModel, home: Host | None, policy: ScoringSettings = USUAL
) -> int:
    """The expected tokens at the expected rate, after the measured wait for the first byte. A measured rate has in it
    that the model is partly in RAM."""
    measured = endpoint.measures.get(canonical_model(held.name))
    if measured is not None and measured.rate_samples:
        rate = measured.tokens_per_ks
    else:
        rate = _rate(endpoint, held, policy)
        if home is not None and 0 < home.load.vram_bytes < held.size_bytes:
            rate //= policy.spill_factor
    first_us = measured.first_byte_ms * 1000 if measured is not None else 0
    return min(max(first_us + policy.tokens_expected * 1000 * S_US // max(rate, 1), RUN_US_MIN), RUN_US_MAX)


def load_us(endpoint: EndpointRecord, held: EndpointModel, policy: ScoringSettings = USUAL) -> int:
    """Reading the weights, what has to leave the memory before aside."""
    measured = endpoint.measures.get(canonical_model(held.name))
    least_us = policy.load_min_ms * MS_US
    if measured is not None and measured.load_samples:
        return min(max(least_us, measured.load_ms * 1000), LOAD_US_MAX)
    other = max(
        ((measure.load_samples, one.size_bytes, measure.load_ms) for one, measure in _others(endpoint, held)),
        default=(0, 0, 0),
    )
    read_us = held.size_bytes // policy.load_mb_per_s  # bytes by MB/s: microseconds
    if other[0]:
        read_us = other[2] * 1000 * held.size_bytes // other[1]
    return min(max(least_us, read_us), LOAD_US_MAX)


def displaced_us(
    endpoint: EndpointRecord, held: EndpointModel, home: Host | None, policy: ScoringSettings = USUAL
) -> int:
    """What loading the model costs others: the warm ones that have to leave the VRAM for it are loaded again by the
    next task that wants them. 0 where it fits beside them, or where that is not known."""
    if home is None or not home.load.vram_bytes:
        return 0
    warm = [one for one in endpoint.models if one.warm]
    over = sum(one.size_bytes for one in warm) + held.size_bytes - home.load.vram_bytes
    if over <= 0 or not warm:
        return 0
    return min(load_us(endpoint, one, policy) for one in warm)


def _rate(endpoint: EndpointRecord, held: EndpointModel, policy: ScoringSettings) -> int:
    """Tokens in 1,000 s of a model that was not measured there: by size, from the one that was measured most."""
    size, rate = policy.usual_model_mib << 20, policy.tokens_per_s * 1000
    if not held.size_bytes or held.remote:
        return rate
    other = max(
        ((measure.rate_samples, one.size_bytes, measure.tokens_per_ks) for one, measure in _others(endpoint, held)),
        default=(0, 0, 0),
    )
    if other[0]:
        _, size, rate = other
    return min(max(rate * size // held.size_bytes, RATE_MIN), RATE_MAX)


def _others(endpoint: EndpointRecord, held: EndpointModel) -> Iterator[tuple[EndpointModel, ModelMeasure]]:
    """Other models of the endpoint whose size is known, with what was measured of them."""
    if not endpoint.measures or not held.size_bytes:
        return
    for one in endpoint.models:
        measure = endpoint.measures.get(canonical_model(one.name))
        if measure is not None and one.size_bytes and one is not held and not one.remote:
            yield one, measure
