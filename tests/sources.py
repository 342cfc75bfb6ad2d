"""What scripted models write in tests: a small program with a fault, the same without it, its test, and how."""

from __future__ import annotations

from typing import Any

BROKEN = "def add(a, b):\n    return a - b\n"
MENDED = "def add(a, b):\n    return a + b\n"
TESTS = "import calc\n\n\ndef test_add():\n    assert calc.add(2, 2) == 4\n"  # for pytest


def write(path: str, content: str) -> dict[str, Any]:
    """The reply of a model that writes a file."""
    return {"tool_calls": [{"name": "write_file", "arguments": {"path": path, "content": content}}]}
