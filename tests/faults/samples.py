"""Valid values of any type that can be decoded, by a seeded generator: what the fuzzers begin with.

They are built from the types themselves, so that a new message or field is tried from the day it is there.
"""

from __future__ import annotations

import random
import re
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

NAMES = ("box-1", "a", "GSV Sleeper Service", "0" * 40, "f" * 64, "0" * 128, "2026-11-25T10:00:00Z", "x@an.invalid")
WORDS = ("", "true", "Run the tests", "é\u202e", "https://example.invalid/repo.git", "tcp://127.0.0.1:7420")
MANY = 3  # items of a list that has room for more


def valid(kind: Any, rng: random.Random) -> Any:
    """A value of the type, as it is after decoding. Optional fields are there half of the time."""
    return msgspec.convert(_plain(_type_of(kind), rng), type=kind)


@cache
def _type_of(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _plain(kind: inspect.Type, rng: random.Random) -> Any:
    match kind:
        case inspect.Metadata():
            return _plain(kind.type, rng)
        case inspect.StructType():
            return _struct(kind, rng)
        case inspect.UnionType():
            return _plain(rng.choice(kind.types), rng)
        case inspect.StrType():
            return _text(kind, rng)
        case inspect.BytesType():
            return rng.randbytes(_length(kind.min_length, kind.max_length, rng))
        case inspect.IntType():
            return _number(kind, rng)
        case inspect.FloatType():
            return float(_number(kind, rng))
        case inspect.BoolType():
            return rng.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.LiteralType():
            return rng.choice(kind.values)
        case inspect.EnumType():
            return rng.choice(list(kind.cls)).value
        case inspect.DictType():
            return {_plain(kind.key_type, rng): _plain(kind.value_type, rng) for _ in range(rng.randrange(3))}
        case inspect.TupleType():
            return [_plain(each, rng) for each in kind.item_types]
        case inspect.VarTupleType() | inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
            size = min(MANY, _length(kind.min_length, kind.max_length, rng))
            return [_plain(kind.item_type, rng) for _ in range(size)]
        case inspect.RawType():
            return msgspec.Raw(msgspec.msgpack.encode({"description": "true"}))
        case inspect.AnyType():
            return rng.choice((None, 1, "text", [1, {"a": b"b"}]))
    raise AssertionError(f"no samples of {kind} yet: add them here")


def _struct(kind: inspect.StructType, rng: random.Random) -> Any:
    given = {
        each.encode_name: _plain(each.type, rng)
        for each in kind.fields
        if each.required or rng.random() < 0.5
    }
    if kind.array_like:
        given = {each.encode_name: _plain(each.type, rng) for each in kind.fields}
        return list(given.values())
    if kind.tag_field is not None:
        given[kind.tag_field] = kind.tag
    return given


def _text(kind: inspect.StrType, rng: random.Random) -> str:
    wanted = [
        word
        for word in NAMES + WORDS
        if (kind.min_length or 0) <= len(word) <= (kind.max_length or len(word))
        and (kind.pattern is None or re.search(kind.pattern, word))
    ]
    return rng.choice(wanted) if wanted else "x" * (kind.min_length or 1)


def _length(least: int | None, most: int | None, rng: random.Random) -> int:
    low = least or 0
    return rng.randint(low, min(low + MANY, low + MANY if most is None else most))


def _number(kind: inspect.IntType | inspect.FloatType, rng: random.Random) -> int:
    low = kind.ge if kind.ge is not None else (kind.gt + 1 if kind.gt is not None else -(2**31))
    high = kind.le if kind.le is not None else (kind.lt - 1 if kind.lt is not None else 2**40)
    return rng.choice((int(low), int(high), int(low) + int(high - low) // 2, int(min(max(1, low), high))))
