"""A check that could never pass is refused when its task is submitted, with the field at fault."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom.core.checks import check_check
from agentcom.errors import Refused
from agentcom.model import CheckKind, CheckSpec

URL = "http://127.0.0.1:8000/health"
GOOD: list[dict[str, Any]] = [
    {"kind": "file_exists", "target": "docs/"},
    {"kind": "test_passes"},
    {"kind": "command_succeeds", "target": "make"},
    {"kind": "git_clean"},
    {"kind": "no_secrets"},
    {"kind": "json_valid", "target": "a.json"},
    {"kind": "file_contains", "target": "README.md", "expect": "## Install"},
    {"kind": "diff_within", "target": "src/**"},
    {"kind": "diff_within", "expect": "400"},
    {"kind": "http_responds", "target": URL, "command": "serve"},
    {"kind": "http_responds", "target": "http://[::1]:80/", "command": "serve", "expect": "404"},
]
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "file_exists", "target": "../x"}, "path_outside", "target"),
    ({"kind": "json_valid", "target": "/etc/passwd"}, "path_outside", "target"),
    ({"kind": "diff_within", "target": "src/** ../x"}, "path_outside", "target"),
    ({"kind": "json_valid", "target": ""}, "invalid", "target"),
    ({"kind": "json_valid", "target": "a", "expect": "b"}, "invalid", "expect"),
    ({"kind": "file_contains", "target": "README.md"}, "invalid", "expect"),
    ({"kind": "command_succeeds", "target": " "}, "invalid", "target"),
    ({"kind": "command_succeeds", "target": "a\0b"}, "invalid", "target"),
    ({"kind": "test_passes", "target": "x", "command": "y"}, "invalid", "command"),
    ({"kind": "diff_within"}, "invalid", "target"),
    ({"kind": "diff_within", "expect": "many"}, "invalid", "expect"),
    ({"kind": "diff_within", "expect": "-1"}, "invalid", "expect"),
    ({"kind": "diff_within", "expect": "²"}, "invalid", "expect"),
    ({"kind": "http_responds", "target": URL}, "invalid", "command"),
    ({"kind": "http_responds", "target": "http://example.org/", "command": "serve"}, "invalid", "target"),
    ({"kind": "http_responds", "target": "https://localhost/", "command": "serve"}, "invalid", "target"),
    ({"kind": "http_responds", "target": "http://[::1/", "command": "serve"}, "invalid", "target"),
    ({"kind": "http_responds", "target": "http://localhost:99999/", "command": "x"}, "invalid", "target"),
    ({"kind": "http_responds", "target": URL, "command": "x", "expect": "ok"}, "invalid", "expect"),
]


def spec(fields: dict[str, Any]) -> CheckSpec:
    return CheckSpec(**{**fields, "kind": CheckKind(fields["kind"])})


@pytest.mark.parametrize("fields", GOOD, ids=str)
def test_a_check_that_can_pass_is_taken(fields: dict[str, Any]) -> None:
    check_check(spec(fields), "tasks[0].checks[0]")


@pytest.mark.parametrize(("fields", "code", "field"), BAD, ids=str)
def test_a_check_that_cannot_is_refused(fields: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(Refused) as found:
        check_check(spec(fields), "tasks[0].checks[0]")
    assert (found.value.code, found.value.field) == (code, f"tasks[0].checks[0].{field}")
    assert found.value.message.startswith(f"tasks[0].checks[0].{field}: ")


def test_every_kind_has_a_check_that_can_pass() -> None:
    assert {fields["kind"] for fields in GOOD} == set(CheckKind)
