"""What a server's count of a prompt tells of whether it read all of it."""

from __future__ import annotations

import pytest

from agentcom_sidecar.backends.base import ToolAnswer, ToolCall, Turn
from agentcom_sidecar.backends.context import ContextWatch, chars_of


@pytest.mark.parametrize(
    ("num_ctx", "calls", "expected"),
    [
        (None, [(8_000, 2_000), (16_000, 4_000), (30_000, 7_500)], [False, False, False]),
        (None, [(8_000, 2_000), (16_000, 2_000)], [False, True]),  # a window: it stands still
        (None, [(8_000, 2_000), (9_000, 2_000)], [False, False]),  # too little came to tell
        (None, [(20_000, 5_000), (26_000, 2_050)], [False, True]),  # half of the context and two
        (None, [(90_000, 4_096)], [True]),  # no text has so few tokens
        (None, [(90_000, 0)], [False]),  # the server counts nothing
        (None, [(6_000, 300)], [False]),  # tools that a template leaves out are no loss
        (8_192, [(90_000, 12_000)], [True]),  # cannot have fitted
        (32_768, [(90_000, 24_000), (100_000, 27_000)], [False, False]),
    ],
)
def test_a_prompt_that_was_cut_is_told_from_figures(
    num_ctx: int | None, calls: list[tuple[int, int]], expected: list[bool]
) -> None:
    watch = ContextWatch(num_ctx)
    assert [watch.saw_less(sent, counted) for sent, counted in calls] == expected


def test_what_a_reasoning_model_wrote_to_itself_is_not_read_again() -> None:
    call = ToolCall("1", "read_file", {"path": "a"})
    turn = Turn("<think>" + "hm " * 5_000 + "</think>I look.", (call,))
    assert chars_of("12345", ["1234567890", turn, (ToolAnswer(call, "12345", False),)]) < 60
