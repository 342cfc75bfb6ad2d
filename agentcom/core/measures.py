"""What was measured of a model on an endpoint: how long it loads, how fast it answers, when the first byte comes.

Moving averages in whole numbers, so that two hubs with the same reports have the same figures: a plain mean of the
first samples, then an eighth of each new one. What a host reports is bounded before it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentcom.model import ModelMeasure

WEIGHT: Final = 8
MS_MAX: Final = 24 * 3600 * 1000
RATE_MAX: Final = 1_000_000_000  # thousandths of a token per second
TOKENS_MIN: Final = 8  # fewer tell nothing of a rate
GENERATE_MS_MIN: Final = 20


def averaged(before: int, samples: int, value: int) -> int:
    """The moving average after `samples` of them and one more."""
    weight = min(samples + 1, WEIGHT)
    return before + _toward_zero(value - before, weight)


def _toward_zero(difference: int, weight: int) -> int:
    """Rounded alike in both directions, so that an average does not creep."""
    half = weight // 2
    return (difference + half) // weight if difference >= 0 else -((-difference + half) // weight)


def add_answer(measure: ModelMeasure, tokens_out: int, durations_ms: Mapping[str, int], *, is_cold: bool) -> None:
    """A call has been answered. `is_cold`: the model was loaded for it. Of figures that are missing or make no sense
    nothing is taken."""
    generate_ms = _plausible(durations_ms.get("generate"))
    if generate_ms >= GENERATE_MS_MIN and TOKENS_MIN <= tokens_out <= limits_of_tokens(generate_ms):
        rate = tokens_out * 1_000_000 // generate_ms
        measure.tokens_per_ks = averaged(measure.tokens_per_ks, measure.rate_samples, rate)
        measure.rate_samples += 1
    first_ms = _plausible(durations_ms.get("first_byte"))
    if first_ms:
        measure.first_byte_ms = averaged(measure.first_byte_ms, measure.first_byte_samples, first_ms)
        measure.first_byte_samples += 1
    load_ms = _plausible(durations_ms.get("load"))
    if is_cold and load_ms:
        measure.load_ms = averaged(measure.load_ms, measure.load_samples, load_ms)
        measure.load_samples += 1


def limits_of_tokens(generate_ms: int) -> int:
    """More tokens than this in that time are no measurement."""
    return RATE_MAX * generate_ms // 1_000_000


def _plausible(value: object) -> int:
    return value if isinstance(value, int) and 0 < value <= MS_MAX else 0
