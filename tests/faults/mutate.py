"""Wrong inputs from right ones, by a seeded generator: bytes that are flipped, cut, doubled and spliced, and
MessagePack whose values are replaced by odd ones of any type, so that the wrong thing lies deep inside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

ROUNDS_MAX = 4  # changes to one input
PIECE_MAX = 64
ODD_BYTES = (
    b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xc1", b"\xdf\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
)  # fmt: skip
ODD_TEXTS = ("", "\x00", "\u202e", "é" * 70, "x" * 33, "x" * 65, "x" * 201, "x" * 5000, "completed", "../..")
ODD_VALUES: tuple[Callable[[random.Random], Any], ...] = (
    lambda _: None,
    lambda rng: rng.choice((True, False)),
    lambda rng: rng.choice((0, -1, 1, 2**31, -(2**31), 2**32, 2**62 + 1, 2**63 - 1, -(2**63), 2**64 - 1)),
    lambda rng: rng.choice((0.0, -0.0, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 0.1)),
    lambda rng: rng.choice(ODD_TEXTS),
    lambda rng: rng.randbytes(rng.choice((0, 1, 16, 40, 300))),
    lambda rng: [rng.randrange(5)] * rng.choice((0, 1, 3, 300)),
    lambda rng: {str(n): n for n in range(rng.choice((0, 1, 70)))},
    lambda rng: _nested(rng.choice((5, 100, 600, 1100))),
    lambda _: {1: 2, None: [], b"type": "hello"},
    lambda rng: msgpack.ExtType(rng.randrange(128), rng.randbytes(rng.randrange(9))),
    lambda rng: msgpack.Timestamp(rng.randrange(2**33)),
)  # fmt: skip


def mutated(sample: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """`sample` with one to four changes; `others` are what a splice takes its other half from."""
    inside = _inside(sample, rng) if rng.random() < 0.5 else sample
    if inside != sample and rng.random() < 0.7:
        return inside
    content = bytearray(inside)
    for _ in range(rng.randint(1, ROUNDS_MAX)):
        rng.choice(CHANGES)(content, others, rng)
    return bytes(content)


def _nested(depth: int) -> Any:
    made: Any = 0
    for _ in range(depth):
        made = [made]
    return made


def _inside(sample: bytes, rng: random.Random) -> bytes:
    """Another value at some place of a MessagePack document; what is none stays as it is."""
    try:
        document = msgpack.unpackb(sample, strict_map_key=False)
        for _ in range(rng.randint(1, 2)):
            document = _replaced(document, rng)
        return bytes(msgpack.packb(document))
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError):
        return sample


def _replaced(value: Any, rng: random.Random) -> Any:
    """The value with something in it changed: the nearer to the leaves the likelier."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        turn = rng.random()
        if turn < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if turn < 0.2:
            return {**value, f"{key}_": value[key]}
        return {**value, key: _replaced(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        turn = rng.random()
        if turn < 0.1:
            return value[:at] + value[at + 1 :]
        if turn < 0.2:
            return value + value[at : at + 1] * rng.choice((1, 300))
        return [*value[:at], _replaced(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD_VALUES)(rng)


def _flip(content: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _set(content: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    if content:
        odd = rng.choice(ODD_BYTES)
        at = rng.randrange(len(content))
        content[at : at + len(odd)] = odd


def _cut(content: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    if content:
        at = rng.randrange(len(content))
        del content[at : at + rng.randint(1, PIECE_MAX)]


def _end(content: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    del content[rng.randrange(len(content) + 1) :]


def _insert(content: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(content) + 1)
    content[at:at] = rng.randbytes(rng.randint(1, PIECE_MAX))


def _double(content: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    if content:
        at = rng.randrange(len(content))
        piece = content[at : at + rng.randint(1, PIECE_MAX)]
        content[at:at] = piece * rng.choice((1, 1, 2, 20))


def _splice(content: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(others)
    content[rng.randrange(len(content) + 1) :] = other[rng.randrange(len(other) + 1) :]


CHANGES: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    _flip, _flip, _set, _cut, _end, _insert, _double, _splice,
)  # fmt: skip
