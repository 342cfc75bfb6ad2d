"""Kinds of checks from other packages: what can be used and why not; nothing that a plugin does ends the sidecar."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any, cast

import pytest

from agentcom import limits
from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.checks import report
from agentcom_sidecar.verify.plugins import GROUP, PluginFailed, Plugins, run
from agentcom_sidecar.work import Work

SPEC = CheckSpec(kind="coverage", target="80")
WORK = cast(Work, None)
MODULE = "checks_of_acme"


def passes(spec: CheckSpec, _work: Work) -> CheckReport:
    return report(spec, CheckStatus.passed, "all is well")


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType(MODULE)
    made.passes = passes  # type: ignore[attr-defined]
    made.nothing = 7  # type: ignore[attr-defined]
    sys.modules[MODULE] = made
    yield made
    del sys.modules[MODULE]


def point(name: str, value: str = f"{MODULE}:passes") -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


def loaded(*points: EntryPoint) -> Plugins:
    found = Plugins()
    found.start(points)
    found.wait(10)
    return found


def test_a_plugin_is_a_kind_and_a_capability(module: types.ModuleType) -> None:
    found = loaded(point("coverage"), point("acme.license-1"))
    assert found.checks == {"coverage": passes, "acme.license-1": passes}
    assert found.capabilities() == ("check:acme.license-1", "check:coverage")
    assert found.lines() == ()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("coverage", "not_there_at_all:check", "not_there_at_all:check cannot be imported: ModuleNotFoundError"),
        ("coverage", f"{MODULE}:absent", "AttributeError"),
        ("coverage", f"{MODULE}:nothing", "is no function"),
        ("file_exists", f"{MODULE}:passes", "a kind of this name is built in"),
        ("Coverage!", f"{MODULE}:passes", "a name is lower-case letters"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named_with_the_reason(
    module: types.ModuleType, name: str, value: str, why: str
) -> None:
    found = loaded(point(name, value))
    assert found.checks == {}
    (line,) = found.lines()
    assert line.startswith(f"{name} (unknown package): ")
    assert why in line


def test_of_two_plugins_with_one_name_neither_is_used(module: types.ModuleType) -> None:
    found = loaded(point("coverage"), point("coverage"), point("license"))
    assert list(found.checks) == ["license"]
    assert "two plugins have this name" in found.lines()[0]


def test_a_plugin_that_ends_the_process_at_its_import_ends_nothing(
    module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaves(_self: EntryPoint) -> Any:
        raise SystemExit(3)

    monkeypatch.setattr(EntryPoint, "load", leaves)
    assert "SystemExit: 3" in loaded(point("coverage")).lines()[0]


def test_a_plugin_that_is_slow_to_import_holds_up_nobody_and_is_offered_when_it_is_there(
    module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go, load = threading.Event(), EntryPoint.load

    def slow(self: EntryPoint) -> Any:
        may_go.wait(30)
        return load(self)

    monkeypatch.setattr(EntryPoint, "load", slow)
    found = Plugins()
    found.start([point("coverage")])
    found.wait(0.01)
    assert (found.capabilities(), found.lines()) == (
        (),
        ("coverage (unknown package): its import has not ended yet",),
    )
    may_go.set()
    found.wait(10)
    assert (found.capabilities(), found.lines()) == (("check:coverage",), ())


def ran(check: Callable[..., Any], timeout_s: float = 10) -> CheckReport:
    return asyncio.run(run(check, SPEC, WORK, timeout_s))


async def waits(spec: CheckSpec, work: Work) -> CheckReport:
    await asyncio.sleep(0)
    return passes(spec, work)


def test_a_plain_function_and_a_coroutine_will_both_do() -> None:
    assert [ran(each).status for each in (passes, waits)] == [CheckStatus.passed] * 2


def test_a_report_is_about_what_was_asked_and_bounded_whatever_the_plugin_says() -> None:
    def lies(_spec: CheckSpec, _work: Work) -> CheckReport:
        return CheckReport(
            kind="test_passes", target="x", status=CheckStatus.failed, source="repository", output="x" * 10**6
        )

    found = ran(lies)
    assert (found.kind, found.target, found.source, found.status) == ("coverage", "80", "task", CheckStatus.failed)
    assert len(found.output) <= limits.CHECK_OUTPUT_BYTES_MAX


def fails(_spec: CheckSpec, _work: Work) -> CheckReport:
    raise KeyError("percent")


def leaves(_spec: CheckSpec, _work: Work) -> CheckReport:
    raise SystemExit(3)


async def leaves_later(_spec: CheckSpec, _work: Work) -> CheckReport:
    raise SystemExit(3)


def true(_spec: CheckSpec, _work: Work) -> Any:
    return True


def odd(spec: CheckSpec, _work: Work) -> Any:
    return CheckReport(kind=spec.kind, target="", status=cast(CheckStatus, "green"))


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (fails, "KeyError: 'percent'"),
        (leaves, "SystemExit: 3"),
        (leaves_later, "SystemExit: 3"),
        (true, "gave back bool where a report is due"),
        (odd, "the status 'green'"),
    ],
)
def test_a_plugin_that_fails_is_an_error_of_its_check(check: Callable[..., Any], said: str) -> None:
    with pytest.raises(PluginFailed, match=said):
        ran(check)


def test_a_plugin_that_does_not_end_in_time_is_given_up() -> None:
    may_go = threading.Event()

    def hangs(_spec: CheckSpec, _work: Work) -> CheckReport:
        may_go.wait(30)
        raise AssertionError

    async def never(_spec: CheckSpec, _work: Work) -> CheckReport:
        await asyncio.Event().wait()
        raise AssertionError

    for check in (hangs, never):
        with pytest.raises(TimeoutError):
            ran(check, timeout_s=0.02)
    may_go.set()
