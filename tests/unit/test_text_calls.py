"""Tool calls in a model's text: the forms that are understood, and that no text breaks or delays the parser."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom_sidecar.agentic.text_calls import CALLS_MAX, TEXT_CHARS_MAX, text_calls

NAMES = frozenset({"write_file", "read_file", "finish"})
CALL = {"name": "write_file", "arguments": {"path": "a", "content": "x"}}
AS_JSON = json.dumps(CALL)


@pytest.mark.parametrize(
    "text",
    [
        AS_JSON,
        f"I will write it.\n```json\n{AS_JSON}\n```\nThen we see.",
        f"[{AS_JSON}]",
        f"<tool_call>\n{AS_JSON}\n</tool_call>",
        f"<tool_call>{AS_JSON}",
        f"[TOOL_CALLS] [{AS_JSON}]",
        f"It says {{not json}} and [1, 2] and then {AS_JSON}",
        json.dumps({"tool_calls": [{"type": "function", "function": CALL}]}),
        json.dumps({"tool": "write_file", "parameters": CALL["arguments"]}),
        json.dumps({"type": "function", "function": CALL}),
        "<function=write_file>\n<parameter=path>\na\n</parameter>\n<parameter=content>\nx\n</parameter>\n</function>",
        "<tool_call><function=write_file><parameter=path>a</parameter><parameter=content>x</parameter></function></tool_call>",
        '<invoke name="write_file"><parameter name="path">a</parameter>'
        '<parameter name="content">x</parameter></invoke>',
        "Now:\n<write_file>\n<path>a</path>\n<content>\nx\n</content>\n</write_file>",
    ],
)
def test_a_call_is_found_in_its_form(text: str) -> None:
    (call,) = text_calls(text, NAMES)
    assert (call.name, call.arguments, call.fault) == ("write_file", CALL["arguments"], "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All done.",
        '{"name": "somebody", "arguments": {"a": 1}}',
        '{"name": "write_file"}',
        "use <b>write_file</b> or <write_file> for it",
        "<html><path>a</path></html>",
        "{" * 1_000,
        "a < b and c > d",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert text_calls(text, NAMES) == ()


def test_line_ends_inside_of_a_json_text_are_borne() -> None:
    (call,) = text_calls('{"name": "write_file", "arguments": {"path": "a", "content": "x\ny"}}', NAMES)
    assert call.arguments == {"path": "a", "content": "x\ny"}


def test_several_calls_keep_their_order() -> None:
    text = "".join(
        f'<tool_call>{{"name": "read_file", "arguments": {{"path": "{n}"}}}}</tool_call>' for n in range(3)
    )
    assert [call.arguments for call in text_calls(text, NAMES)] == [
        {"path": "0"},
        {"path": "1"},
        {"path": "2"},
    ]
    assert len(text_calls(f"[{','.join([AS_JSON] * 200)}]", NAMES)) == CALLS_MAX


@pytest.mark.parametrize("inside", ["rubbish", "{", '{"arguments": {}}'])
def test_what_is_marked_as_a_call_and_makes_no_sense_has_a_fault(inside: str) -> None:
    (call,) = text_calls(f"<tool_call>{inside}</tool_call>", NAMES)
    assert call.fault


PIECES = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<function=write_file>", "</function>", "<parameter=path>",
          "<write_file>", "</write_file>", "<path>", "{", "}", "[", "]", '"', "\\", ":", ",", '{"name": "write_file", ',
          '"arguments": {', "\ud800", "\0", AS_JSON]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40).map("".join))
@settings(deadline=None, max_examples=150)
def test_no_text_breaks_the_parser(text: str) -> None:
    for call in text_calls(text, NAMES):
        assert call.name in NAMES or call.fault or "<tool_call>" in text or "[TOOL_CALLS]" in text


@pytest.mark.parametrize(
    "piece", [*PIECES, '["', '{"a":[', "<a>", "<path></path>", "[1,", '{"name":"write_file"']
)
def test_a_long_text_takes_bounded_time(piece: str) -> None:
    """Linear in its length: with anything worse this test would not end."""
    assert len(text_calls(piece * (TEXT_CHARS_MAX // len(piece) + 1), NAMES)) <= CALLS_MAX
