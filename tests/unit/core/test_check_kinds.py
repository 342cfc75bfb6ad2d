"""Kinds of checks that plugins of hosts have: who is let in with one, and where its task runs."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.model import CheckKind, CheckSpec, TaskSpec
from tests.core_rig import Rig
from tests.factories import shell_task

COVERAGE = CheckSpec(kind="coverage", target="80")
URL = "https://git.example/team/engine.git"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def refused(rig: Rig, op: m.Operation) -> Refused:
    with pytest.raises(Refused) as found:
        rig.admin.ask(op)
    return found.value


def checked(*kinds: str, **fields: Any) -> TaskSpec:
    return shell_task(checks=tuple(CheckSpec(kind=kind, target="80") for kind in kinds), **fields)


def ran_on(rig: Rig) -> list[str]:
    return [one.route.host for one in rig.sent(m.Assign)]


def test_a_check_of_a_kind_that_no_host_has_is_refused_with_those_that_there_are(rig: Rig) -> None:
    rig.host("box", capabilities=("check:coverage",))
    found = refused(rig, m.Submit(tasks=(shell_task(), checked("license"))))
    assert (found.code, found.field) == ("unknown_check", "tasks[1].checks[0].kind")
    assert "install its plugin on a host first" in found.message
    assert all(kind in found.message for kind in (*CheckKind, "coverage"))


def test_a_kind_that_was_mistyped_is_told_the_nearest_one(rig: Rig) -> None:
    assert refused(rig, m.Submit(tasks=(checked("file_exsts"),))).message.endswith("did you mean file_exists?")


def test_a_task_with_the_check_of_a_plugin_goes_to_a_host_that_has_it(rig: Rig) -> None:
    rig.host("bare")
    rig.host("able", capabilities=("check:coverage",))
    rig.admin.submit(checked("coverage"), checked("git_clean"))
    assert ran_on(rig) == ["able", "bare"]


def test_the_check_needs_no_plugin_where_the_task_asks_for_no_checks(rig: Rig) -> None:
    rig.host("able", agents=0, capabilities=("check:coverage",))
    rig.host("bare")
    rig.admin.submit(checked("coverage", verify=False))
    assert ran_on(rig) == ["bare"]


def test_why_says_which_host_lacks_the_plugin_and_what_to_do(rig: Rig) -> None:
    rig.host("able", agents=0, capabilities=("check:coverage",))
    rig.host("bare")
    task = rig.admin.submit(checked("coverage"))
    fails = {host["host"]: host for host in rig.admin.ask(m.TaskWhy(task=task))["hosts"]}
    assert (fails["bare"]["fails"], fails["bare"]["message"]) == (
        "need_missing",
        "no agent on bare has check:coverage",
    )
    assert "install a plugin for checks of kind coverage on bare" in fails["bare"]["change"]


def test_a_kind_is_known_while_its_host_is_away_and_no_longer_when_it_was_removed(rig: Rig) -> None:
    box = rig.host("box", capabilities=("check:coverage",))
    box.leave()
    rig.start()
    rig.admin.hello()
    rig.admin.submit(checked("coverage"))
    rig.admin.ask(m.HostRemove(host="box"))
    assert refused(rig, m.Submit(tasks=(checked("coverage"),))).code == "unknown_check"


def test_a_plugin_that_was_imported_late_is_offered_by_a_heartbeat(rig: Rig) -> None:
    box = rig.host("box", check_faults=("coverage (acme 1.0): its import has not ended yet",))
    (host,) = rig.admin.ask(m.HostList())["hosts"]
    assert host["check_faults"] == ["coverage (acme 1.0): its import has not ended yet"]
    box.beat(capabilities=("check:coverage",), check_faults=())
    rig.admin.submit(checked("coverage"))
    assert ran_on(rig) == ["box"]
    rig.start()
    rig.admin.hello()
    (host,) = rig.admin.ask(m.HostList())["hosts"]
    assert host["check_faults"] == []


def test_what_is_wrong_with_a_plugin_is_told_though_no_capability_has_changed(rig: Rig) -> None:
    box = rig.host("box")
    box.beat(capabilities=(), check_faults=("coverage (acme 1.0): ImportError: no module",))
    (host,) = rig.admin.ask(m.HostList())["hosts"]
    assert host["check_faults"] == ["coverage (acme 1.0): ImportError: no module"]


def test_the_checks_of_a_registered_repository_need_their_plugins_too(rig: Rig) -> None:
    bare, able = rig.host("bare"), rig.host("able", capabilities=("check:coverage",))
    unknown = refused(rig, m.RepoAdd(name="engine", url=URL, checks=(CheckSpec(kind="license"),)))
    assert (unknown.code, unknown.field) == ("unknown_check", "checks[0].kind")
    rig.admin.ask(m.RepoAdd(name="engine", url=URL, checks=(COVERAGE,)))
    task = rig.admin.submit(shell_task(repo="engine", needs=("os:linux",)))
    assert rig.admin.task(task)["needs"] == ["os:linux", "check:coverage"]
    for box in (bare, able):
        box.beat(capabilities=("os:linux", *(("check:coverage",) if box is able else ())))
    assert ran_on(rig) == ["able"]
