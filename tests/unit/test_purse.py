"""No call is made that could cost more than what is left to its attempt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agentcom_sidecar.agentic.loop import Tally
from agentcom_sidecar.backends import claude
from agentcom_sidecar.backends.base import BackendError, Usage
from agentcom_sidecar.execution import cost_at
from agentcom_sidecar.prices import ModelPrice, PriceList, Rates
from agentcom_sidecar.purse import purse_of

# 2 and 10 USD per million tokens; writing to a cache costs more than reading without one.
RATES = Rates(
    input=2_000_000, output=10_000_000, cache_read=100_000, cache_write_5m=2_500_000, cache_write_1h=4_000_000
)
PRICES = PriceList({"m": ModelPrice("2026-10", RATES)})


def test_a_call_that_fits_is_made_and_one_that_could_cost_more_is_not() -> None:
    # 1,000 tokens beside 2,000 of the prompt, at 2.50 USD a million, and 4,000 of the answer at 10: 0.0475 USD.
    assert purse_of(0.0475, "m", PRICES, 4000).refuses(4000, Tally()) is None
    refused = purse_of(0.0474, "m", PRICES, 4000).refuses(4000, Tally())
    assert refused == "a call may cost 0.0475 USD, and 0.0474 of 0.0474 USD are left to this attempt"


def test_what_was_spent_counts() -> None:
    tally = Tally(usages=[Usage(fresh=1000, out=1000)])  # 0.012 USD
    purse = purse_of(0.0594, "m", PRICES, 4000)
    assert purse.refuses(4000, Tally()) is None
    assert purse.refuses(4000, tally) is not None
    assert purse_of(0.0595, "m", PRICES, 4000).refuses(4000, tally) is None


def test_a_long_prompt_counts_at_the_price_of_long_prompts() -> None:
    dear = Rates(input=20_000_000, output=10_000_000, cache_read=0, cache_write_5m=0, cache_write_1h=0)
    prices = PriceList({"m": ModelPrice("2026-10", RATES, 10_000, dear)})
    assert purse_of(0.3, "m", prices, 100).refuses(30_000, Tally()) is not None
    assert purse_of(0.3, "m", PRICES, 100).refuses(30_000, Tally()) is None


def test_a_model_whose_price_is_unknown_is_not_called_within_a_budget() -> None:
    with pytest.raises(BackendError) as found:
        purse_of(1, "other", PRICES, 100)
    assert found.value.code == "price_unknown"


ODD = (-1000, 10**18, "many", 1.5, None)


@pytest.mark.parametrize("figure", ODD)
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
def test_a_number_of_tokens_that_cannot_be_makes_no_call_cheap(name: str, figure: object) -> None:
    """It would count as none at all: the attempt costs nobody knows what, and makes no further call."""
    said = {"input_tokens": 10, "output_tokens": 10, "cache_read_input_tokens": None, name: figure}
    message = SimpleNamespace(
        usage=SimpleNamespace(cache_creation_input_tokens=None, cache_creation=None, **said)
    )
    tally = Tally(usages=[Usage(fresh=5), claude.usage_of(message)])
    assert cost_at(PRICES, "m", tally) == (None, None)
    assert "cannot be" in tally.warnings[0]
    assert purse_of(100, "m", PRICES, 10).refuses(10, tally) is not None


def test_numbers_of_tokens_that_can_be_are_priced() -> None:
    usage = SimpleNamespace(
        input_tokens=1000, output_tokens=1000, cache_read_input_tokens=0, cache_creation_input_tokens=None,
        cache_creation=None,
    )  # fmt: skip
    tally = Tally(usages=[claude.usage_of(SimpleNamespace(usage=usage))])
    assert cost_at(PRICES, "m", tally) == (0.012, "2026-10")
