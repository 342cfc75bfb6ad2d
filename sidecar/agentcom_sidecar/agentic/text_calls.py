"""Tool calls that a model wrote into its text, where its server has no field for them or did not see them.

Understood: JSON (in a fence, in `<tool_call>` or `[TOOL_CALLS]`, or bare) that names a known tool, and XML in the
forms `<function=NAME><parameter=KEY>`, `<invoke name="NAME"><parameter name="KEY">` and `<NAME><KEY>` for a known
NAME. Text that only looks a little like a call stays text; a call that is marked as one and makes no sense comes back
with its fault. Time is linear in the length of the text, which is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

from agentcom_sidecar.backends.base import ToolCall, clean

TEXT_CHARS_MAX = 400_000  # of an answer that is looked at: more than any model writes in one
CALLS_MAX = 64
FIELDS_MAX = 64  # of one call
STARTS_MAX = 2_000  # places where JSON may begin that are tried
NEAR_CHARS = 200
NAME_KEYS: Final = ("name", "tool", "tool_name", "function", "function_name", "action")
ARGUMENT_KEYS: Final = ("arguments", "parameters", "args", "input", "params", "action_input", "tool_input")
MARKED: Final = (("<tool_call>", "</tool_call>"), ("<function_call>", "</function_call>"), ("[TOOL_CALLS]", ""))
_FUNCTION = re.compile(r"<function=([\w.-]{1,64})\s*>")
_INVOKE = re.compile(r"<invoke\s+name=[\"']([\w.-]{1,64})[\"']\s*>")
_PARAMETER = re.compile(r"<parameter(?:=([\w.-]{1,64})|\s+name=[\"']([\w.-]{1,64})[\"'])\s*>")
_FIELD = re.compile(r"<(\w{1,64})>")
_decoder = json.JSONDecoder(strict=False)  # models leave line ends in a text as they are


def text_calls(text: str, names: Collection[str]) -> tuple[ToolCall, ...]:
    """The calls in `text`, in its order; none when it holds none. `names` are the tools that there are."""
    text = text[:TEXT_CHARS_MAX]
    for found in (_marked(text, names), _tagged(text, names), _bare(text, names)):
        calls = [call for _, call in zip(range(CALLS_MAX), found, strict=False)]
        if calls:
            return tuple(
                ToolCall(f"text_{number}", name, arguments, fault)
                for number, (name, arguments, fault) in enumerate(calls)
            )
    return ()


_Call = tuple[str, object, str]  # name, arguments, fault


def _marked(text: str, names: Collection[str]) -> Iterator[_Call]:
    """What stands between marks that mean a call and nothing else: here rubbish is a call too, with its fault."""
    for opening, closing in MARKED:
        at = text.find(opening)
        while at >= 0:
            begin = at + len(opening)
            end = text.find(closing, begin) if closing else -1
            inside = text[begin : end if end >= 0 else len(text)]
            calls = list(_tagged(inside, names)) or list(_in_json(_first_json(inside), names, is_marked=True))
            yield from calls or [("", {}, f"what stands in {opening} is neither JSON nor XML of a call")]
            at = text.find(opening, end) if end >= 0 else -1


def _bare(text: str, names: Collection[str]) -> Iterator[_Call]:
    """JSON anywhere in the text, if it names a tool that there is."""
    at = 0
    for _ in range(STARTS_MAX):
        starts = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
        if not starts:
            return
        value, end = _json_at(text, min(starts))
        yield from _in_json(value, names, is_marked=False)
        at = end


def _json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at that place and where it ends; None, and the next place, where there is none."""
    try:
        value, end = _decoder.raw_decode(text, start)
        return clean(value), end
    except json.JSONDecodeError as error:
        # Going on from a fault that is far away keeps the time linear; a call may begin before one that is near.
        return None, start + 1 if error.pos - start < NEAR_CHARS else error.pos
    except (ValueError, RecursionError):
        return None, len(text)


def _first_json(text: str) -> Any:
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    return _json_at(text, min(starts))[0] if starts else None


def _in_json(value: Any, names: Collection[str], *, is_marked: bool) -> Iterator[_Call]:
    if isinstance(value, list):
        for each in value[:CALLS_MAX]:
            if isinstance(each, dict):
                yield from _in_json(each, names, is_marked=is_marked)
        return
    if not isinstance(value, dict):
        return
    if isinstance(value.get("tool_calls"), list):
        yield from _in_json(value["tool_calls"], names, is_marked=is_marked)
        return
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = next((value[key] for key in NAME_KEYS if isinstance(value.get(key), str)), None)
    given = next((key for key in ARGUMENT_KEYS if key in value), None)
    if name is not None and name in names and given is not None:
        yield name, value[given], ""
    elif is_marked:
        yield str(name or "")[:64], value[given] if given else {}, "" if name else "the call has no name"


def _tagged(text: str, names: Collection[str]) -> Iterator[_Call]:
    for pattern, closing in ((_FUNCTION, "</function>"), (_INVOKE, "</invoke>")):
        found = list(pattern.finditer(text))
        for match, end in _pieces(text, found, closing):
            if match[1] in names:
                yield match[1], _parameters(text[match.end() : end]), ""
        if found:
            return
    yield from _elements(text, names)


def _pieces(text: str, found: list[re.Match[str]], closing: str) -> Iterator[tuple[re.Match[str], int]]:
    """Each opening with where it ends: at its closing, else where the next opens."""
    for number, match in enumerate(found):
        following = found[number + 1].start() if number + 1 < len(found) else len(text)
        end = text.find(closing, match.end(), following)
        yield match, end if end >= 0 else following


def _parameters(text: str) -> dict[str, str]:
    found = list(_PARAMETER.finditer(text))
    return {
        match[1] or match[2]: _unwrapped(text[match.end() : end])
        for match, end in _pieces(text, found, "</parameter>")
    }


def _elements(text: str, names: Collection[str]) -> Iterator[_Call]:
    """`<write_file><path>a</path><content>...</content></write_file>`"""
    at = 0
    missing: set[str] = set()  # what is not closed from here on: looked for once
    while True:
        opening = _FIELD.search(text, at)
        if opening is None:
            return
        at = opening.end()
        closing = f"</{opening[1]}>"
        if opening[1] in missing or opening[1] not in names:
            continue
        end = text.find(closing, at)
        if end < 0:
            missing.add(opening[1])
            continue
        yield opening[1], _fields(text[at:end]), ""
        at = end + len(closing)


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    at = 0
    for _ in range(FIELDS_MAX):
        opening = _FIELD.search(text, at)
        if opening is None:
            break
        closing = f"</{opening[1]}>"
        end = text.find(closing, opening.end())
        if end < 0:
            at = opening.end()
            continue
        fields[opening[1]] = _unwrapped(text[opening.end() : end])
        at = end + len(closing)
    return fields


def _unwrapped(value: str) -> str:
    """Without the line ends that belong to the form and not to the value."""
    return value.removeprefix("\n").removesuffix("\n") if value.startswith("\n") else value
