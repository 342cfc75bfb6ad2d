"""What a model call costs, in exact integers: picodollars (1e-12 USD) until the result is written.

A price of 0.125 USD per million tokens is 125,000 picodollars per token, so no rounding happens before the
end. The shipped table is prices.toml; anthropic.prices_file names one that comes before it. A model that is
in neither costs None, never 0: nobody may take an unknown bill for a free one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from agentcom.errors import ConfigError
from agentcom_sidecar.backends.base import Usage

PICODOLLARS: Final = 10**12  # in one USD
PICODOLLARS_PER_TOKEN: Final = 10**6  # of a price of 1 USD per million tokens
PRICE_USD_MAX: Final = 1_000_000  # per million tokens: above it somebody mistook the unit
SHIPPED: Final = Path(__file__).with_name("prices.toml")
# A dated snapshot of a model costs what the model costs; any other longer name is another model.
SNAPSHOT: Final = re.compile(r"(-\d{8}|-latest)?")
RATE_NAMES: Final = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")


@dataclass(frozen=True, slots=True)
class Rates:
    """Picodollars per token."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int

    def cost(self, usage: Usage) -> int:
        return (
            usage.fresh * self.input
            + usage.out * self.output
            + usage.cache_read * self.cache_read
            + usage.cache_write_5m * self.cache_write_5m
            + usage.cache_write_1h * self.cache_write_1h
        )


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """A model's rates, and those of a call whose whole prompt is larger than `above_prompt_tokens`."""

    as_of: str
    rates: Rates
    above_prompt_tokens: int | None = None
    above: Rates | None = None

    def cost(self, usage: Usage) -> int:
        """Picodollars for one call (not for the sum of several: the threshold is per call)."""
        if self.above is None or self.above_prompt_tokens is None or usage.prompt <= self.above_prompt_tokens:
            return self.rates.cost(usage)
        return self.above.cost(usage)


@dataclass(frozen=True, slots=True)
class PriceList:
    """`{model prefix: price}`; a user's own prices are already merged in."""

    models: Mapping[str, ModelPrice]

    def of(self, model: str) -> ModelPrice | None:
        """The price of `model`: the longest prefix that names it or a dated snapshot of it."""
        for prefix in sorted(self.models, key=len, reverse=True):
            if model.startswith(prefix) and SNAPSHOT.fullmatch(model[len(prefix) :]):
                return self.models[prefix]
        return None


def load(user_file: str = "") -> PriceList:
    """The shipped prices, overridden by those of `user_file` where one is named. Raises ConfigError."""
    models = _read(SHIPPED)
    if user_file:
        models |= _read(Path(user_file).expanduser())
    return PriceList(models)


def usd(picodollars: int) -> float:
    """For the wire; the one place where a cost becomes a float."""
    return float(Decimal(picodollars) / PICODOLLARS)


def _read(path: Path) -> dict[str, ModelPrice]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise ConfigError(f"prices in {path}: {error}") from error
    as_of, models = table.get("as_of"), table.get("models")
    if not as_of or not isinstance(models, dict):
        raise ConfigError(f"prices in {path}: as_of (a date) and [models.NAME] tables are needed")
    return {prefix: _price(path, prefix, entry, str(as_of)) for prefix, entry in models.items()}


def _price(path: Path, prefix: str, entry: Any, as_of: str) -> ModelPrice:
    where = f"prices in {path}: models.{prefix}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is no table")
    threshold, above = entry.get("above_prompt_tokens"), entry.get("above")
    if (threshold is None) != (above is None):
        raise ConfigError(f"{where}: above_prompt_tokens and [models.{prefix}.above] belong together")
    if threshold is None:
        return ModelPrice(as_of, _rates(where, entry))
    if not isinstance(threshold, int) or threshold < 0 or not isinstance(above, dict):
        raise ConfigError(f"{where}: above_prompt_tokens is a number of tokens, above is a table")
    return ModelPrice(as_of, _rates(where, entry), threshold, _rates(f"{where}.above", above))


def _rates(where: str, entry: dict[str, Any]) -> Rates:
    unknown = set(entry) - {*RATE_NAMES, "above_prompt_tokens", "above"}
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(sorted(unknown))}; known are {', '.join(RATE_NAMES)}")
    return Rates(*(_rate(f"{where}.{name}", entry.get(name)) for name in RATE_NAMES))


def _rate(where: str, price: Any) -> int:
    """Picodollars per token of a price in USD per million tokens."""
    is_number = isinstance(price, (int, Decimal)) and not isinstance(price, bool)
    # NaN cannot be compared, so it has to go first.
    if not is_number or not Decimal(price).is_finite() or not 0 <= price <= PRICE_USD_MAX:
        raise ConfigError(f"{where} is {price!r}: USD per million tokens, 0 to {PRICE_USD_MAX}, are needed")
    exact = Decimal(price) * PICODOLLARS_PER_TOKEN
    if exact != int(exact):
        raise ConfigError(f"{where} is {price}: six decimal places at most")
    return int(exact)
