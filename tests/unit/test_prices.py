"""What calls cost: exact, by the table, and never 0 where the price is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcom.errors import ConfigError
from agentcom_sidecar import prices
from agentcom_sidecar.backends.base import Usage

MILLION = 1_000_000
# model, input, output, cache read, write 5 min, write 1 h: USD per million tokens, as the vendor lists them
TABLE = [
    ("claude-sonnet-5-5", "2", "10", "0.1", "2.5", "4"),
    ("claude-opus-5-5", "4", "20", "0.2", "5", "8"),
    ("claude-fable-5-2", "8", "40", "0.2", "10", "16"),
    ("claude-mythos-5-2", "8", "40", "0.2", "10", "16"),
    ("claude-fable-5-1", "10", "50", "0.25", "12.5", "20"),
    ("claude-opus-5", "5", "25", "0.5", "6.25", "10"),
    ("claude-sonnet-5", "2", "10", "0.2", "2.5", "4"),
    ("claude-haiku-4-5", "1", "5", "0.1", "1.25", "2"),
]


def cost(model: str, usage: Usage, user_file: str = "") -> int:
    price = prices.load(user_file).of(model)
    assert price is not None
    return price.cost(usage)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_a_million_tokens_of_each_kind_cost_what_the_table_says(row: tuple[str, ...]) -> None:
    model, *expected = row
    kinds = [
        Usage(fresh=MILLION),
        Usage(out=MILLION),
        Usage(cache_read=MILLION),
        Usage(cache_write_5m=MILLION),
        Usage(cache_write_1h=MILLION),
    ]
    assert [prices.usd(cost(model, usage)) for usage in kinds] == [float(each) for each in expected]


def test_a_call_with_cached_tokens_is_the_exact_sum_of_its_parts() -> None:
    usage = Usage(fresh=1_001, cache_read=20_003, cache_write_5m=307, cache_write_1h=11, out=499)
    by_hand = 1_001 * 2_000_000 + 20_003 * 100_000 + 307 * 2_500_000 + 11 * 4_000_000 + 499 * 10_000_000
    assert cost("claude-sonnet-5-5", usage) == by_hand
    assert prices.usd(by_hand) == 0.0098038


def test_one_token_is_not_rounded_away() -> None:
    assert cost("claude-haiku-5-5", Usage(cache_write_5m=1)) == 125_000
    assert cost("claude-haiku-5-5", Usage(cache_read=1)) == 10_000


def test_haiku_costs_five_times_as_much_once_the_whole_prompt_is_above_100k() -> None:
    at = Usage(fresh=50_000, cache_read=40_000, cache_write_5m=6_000, cache_write_1h=4_000, out=1_000)
    above = Usage(fresh=50_001, cache_read=40_000, cache_write_5m=6_000, cache_write_1h=4_000, out=1_000)
    assert (at.prompt, above.prompt) == (100_000, 100_001)
    parts_at = 50_000 * 100_000 + 40_000 * 10_000 + 6_000 * 125_000 + 4_000 * 200_000 + 1_000 * 500_000
    parts_above = 50_001 * 500_000 + 40_000 * 50_000 + 6_000 * 625_000 + 4_000 * 1_000_000 + 1_000 * 2_500_000
    assert cost("claude-haiku-5-5", at) == parts_at
    assert cost("claude-haiku-5-5", above) == parts_above


def test_output_tokens_do_not_lift_a_prompt_above_the_threshold() -> None:
    assert cost("claude-haiku-5-5", Usage(fresh=100_000, out=50_000)) == 100_000 * 100_000 + 50_000 * 500_000


@pytest.mark.parametrize("model", ["gpt-9", "claude", "claude-opus-5-9", "claude-opus-5-5-fast", "", "none"])
def test_an_unknown_model_has_no_price(model: str) -> None:
    assert prices.load().of(model) is None


@pytest.mark.parametrize("model", ["claude-opus-5-5-20261001", "claude-opus-5-5-latest"])
def test_a_dated_snapshot_costs_what_its_model_costs_and_not_a_shorter_name(model: str) -> None:
    assert cost(model, Usage(fresh=MILLION)) == cost("claude-opus-5-5", Usage(fresh=MILLION))


def test_the_shipped_table_names_its_date() -> None:
    price = prices.load().of("claude-opus-5-5")
    assert price is not None
    assert price.as_of == "2026-11-22"


USER_FILE = """
as_of = "2027-01-01"
[models.claude-opus-5-5]
input = 3
output = 15.5
cache_read = 0.3
cache_write_5m = 3.75
cache_write_1h = 6
[models.our-own]
input = 0
output = 0
cache_read = 0
cache_write_5m = 0
cache_write_1h = 0
"""


def test_a_users_own_prices_come_before_the_shipped_ones(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(USER_FILE)
    listed = prices.load(str(file))
    opus, own, sonnet = (listed.of(name) for name in ("claude-opus-5-5", "our-own", "claude-sonnet-5-5"))
    assert opus is not None
    assert (opus.as_of, opus.cost(Usage(out=2))) == ("2027-01-01", 31_000_000)
    assert own is not None
    assert own.cost(Usage(fresh=MILLION)) == 0
    assert sonnet is not None
    assert sonnet.as_of == "2026-11-22"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("as_of = 1", "are needed"),
        ("not toml", "prices in"),
        (USER_FILE.replace("output = 15.5", "output = -1"), "claude-opus-5-5.output is .*-1"),
        (USER_FILE.replace("output = 15.5", "output = nan"), "output"),
        (USER_FILE.replace("output = 15.5", 'output = "15"'), "output is '15'"),
        (USER_FILE.replace("output = 15.5", "output = 0.0000001"), "six decimal places"),
        (USER_FILE.replace("output = 15.5", ""), "output is None"),
        (USER_FILE.replace("output = 15.5", "output = 1\nouput = 2"), "unknown ouput"),
        (USER_FILE.replace("output = 15.5", "output = 1\nabove_prompt_tokens = 5"), "belong together"),
    ],
)
def test_a_price_file_that_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        prices.load(str(file))


def test_a_price_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        prices.load(str(tmp_path / "nowhere.toml"))
