"""What the command line has printed, as its tests read it: one JSON document, or one line for an error."""

from __future__ import annotations

import json
from typing import Any

import pytest


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON document on stdout, with nothing on stderr."""
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, with nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err.rstrip("\n")
