"""What an attempt may spend: no model call is made whose highest cost is more than what is left of the allowance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentcom_sidecar.agentic.loop import Tally
from agentcom_sidecar.backends.base import configuration
from agentcom_sidecar.prices import PICODOLLARS, ModelPrice, PriceList, usd

BYTES_PER_TOKEN: Final = 2  # at least, of a whole prompt: words and code have three to four
OVERHEAD_TOKENS: Final = 1000  # what a server adds for tools and roles


@dataclass(frozen=True, slots=True)
class Purse:
    """`allowance` in picodollars, for calls of at most `out_max` tokens each."""

    allowance: int
    price: ModelPrice
    out_max: int

    def refuses(self, prompt_bytes: int, tally: Tally) -> str | None:
        """Why the next call, with a prompt of so many bytes, would or could cost too much; None when it may be made."""
        if tally.total.odd:
            return "the server gave a number of tokens that cannot be: what is left to this attempt is unknown"
        prompt = prompt_bytes // BYTES_PER_TOKEN + OVERHEAD_TOKENS
        # As if none of it met a cache, and all of it were written to one: the dearest that a call can be.
        rates = (
            self.price.above if self.price.above and prompt > (self.price.above_prompt_tokens or 0) else None
        )
        each = rates or self.price.rates
        highest = prompt * max(each.input, each.cache_write_5m) + self.out_max * each.output
        spent = sum(self.price.cost(usage) for usage in tally.usages)
        if spent + highest <= self.allowance:
            return None
        return (
            f"a call may cost {usd(highest):.4f} USD, and {usd(max(0, self.allowance - spent)):.4f} of "
            f"{usd(self.allowance):.4f} USD are left to this attempt"
        )


def purse_of(budget_usd: float, model: str, prices: PriceList, out_max: int) -> Purse:
    """The purse of an attempt. Raises BackendError where the price is unknown: such work cannot be kept within a
    budget."""
    price = prices.of(model)
    if price is None:
        said = f"the price of {model} is unknown, and a budget concerns the task; name it in anthropic.prices_file"
        raise configuration("price_unknown", said)
    return Purse(int(budget_usd * PICODOLLARS), price, out_max)
