"""A tiny language model as a GGUF file: llama architecture, two layers, random weights from one seed, a byte tokenizer.

What it says means nothing, but it is said by the same code that runs the real ones: tokens are counted, sampled one by
one, and the context is finite. Only printable letters get weights in the output layer, so that no answer is empty and
none ends before its time. Format: version 3, little-endian, aligned to 32 bytes.
"""

from __future__ import annotations

import random
import struct
from array import array
from pathlib import Path
from typing import Final

UINT32, FLOAT32, STRING, ARRAY, INT32, BOOL = 4, 6, 8, 9, 5, 7
F32_TENSOR: Final = 0
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # kinds of tokens
ALIGNMENT: Final = 32
WIDTH, HEADS, KV_HEADS, INNER, LAYERS = 64, 4, 2, 128, 2
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
SPACE: Final = "\u2581"

Value = tuple[int, object]
Tensor = tuple[str, tuple[int, ...], "array[float]"]


def write_model(path: Path, context_length: int, seed: int = 7) -> None:
    """Write the model; about half a megabyte."""
    tokens, kinds = _vocabulary()
    tensors = _tensors(random.Random(seed), tokens, kinds)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(_fields(tokens, kinds, context_length)))
    fields = b"".join(
        _string(name) + _typed(kind, value)
        for name, (kind, value) in _fields(tokens, kinds, context_length).items()
    )
    infos, blobs, offset = b"", b"", 0
    for name, shape, weights in tensors:
        infos += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, F32_TENSOR, offset)
        blob = _padded(weights.tobytes())
        blobs += blob
        offset += len(blob)
    path.write_bytes(_padded(head + fields + infos) + blobs)


def _vocabulary() -> tuple[list[str], list[int]]:
    special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    raw = [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    words = [(letter, NORMAL) for letter in (SPACE, *LETTERS)]
    both = [*special, *raw, *words]
    return [token for token, _ in both], [kind for _, kind in both]


def _fields(tokens: list[str], kinds: list[int], context_length: int) -> dict[str, Value]:
    numbers = {
        "context_length": context_length,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": WIDTH // HEADS,
        "vocab_size": len(tokens),
    }
    return {
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, "tiny random"),
        "general.file_type": (UINT32, 0),
        **{f"llama.{name}": (UINT32, number) for name, number in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.scores": (ARRAY, (FLOAT32, [0.0] * len(tokens))),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, kinds)),
        "tokenizer.ggml.unknown_token_id": (UINT32, 0),
        "tokenizer.ggml.bos_token_id": (UINT32, 1),
        "tokenizer.ggml.eos_token_id": (UINT32, 2),
        "tokenizer.ggml.add_bos_token": (BOOL, True),
    }


def _tensors(chance: random.Random, tokens: list[str], kinds: list[int]) -> list[Tensor]:
    """Shapes are given as the format has them, the innermost first."""

    def drawn(*shape: int) -> array[float]:
        count = 1
        for size in shape:
            count *= size
        return array("f", [chance.gauss(0.0, 0.2) for _ in range(count)])

    kv = WIDTH // HEADS * KV_HEADS
    ones = array("f", [1.0] * WIDTH)
    output = drawn(WIDTH, len(tokens))
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind != NORMAL or token == SPACE:
            output[number * WIDTH : (number + 1) * WIDTH] = array("f", [0.0] * WIDTH)
    found: list[Tensor] = [
        ("token_embd.weight", (WIDTH, len(tokens)), drawn(WIDTH, len(tokens))),
        ("output_norm.weight", (WIDTH,), ones),
        ("output.weight", (WIDTH, len(tokens)), output),
    ]
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, kv),
            "attn_v": (WIDTH, kv),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (WIDTH, INNER),
            "ffn_up": (WIDTH, INNER),
            "ffn_down": (INNER, WIDTH),
        }
        found += [(f"blk.{layer}.{name}.weight", shape, drawn(*shape)) for name, shape in shapes.items()]
        found += [(f"blk.{layer}.{name}.weight", (WIDTH,), ones) for name in ("attn_norm", "ffn_norm")]
    return found


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _typed(kind: int, value: object) -> bytes:
    if kind != ARRAY:
        return struct.pack("<I", kind) + _value(kind, value)
    assert isinstance(value, tuple)
    inner, items = value
    return struct.pack("<IIQ", ARRAY, inner, len(items)) + b"".join(_value(inner, one) for one in items)


def _value(kind: int, value: object) -> bytes:
    if kind == STRING:
        return _string(str(value))
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], value)


def _padded(raw: bytes) -> bytes:
    return raw + b"\0" * (-len(raw) % ALIGNMENT)
