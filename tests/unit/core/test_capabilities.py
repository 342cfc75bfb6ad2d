"""What meets a need, and what `why` says of one that nothing meets."""

from __future__ import annotations

import pytest

from agentcom import messages as m
from agentcom.core.capabilities import Abilities, fault_of, first_unmet, lack
from agentcom.model import Role
from tests.core_rig import HostEnd, Rig
from tests.factories import agent_offer, host_offer, shell_task

FOUND = (
    "arch:x86_64",
    "cpus=16",
    "gpu:nvidia",
    "os:linux",
    "tool:node=20.11.1",
    "tool:git=2.39.5",
    "tool:docker",
)
DECLARED = ("docker", "zone=eu", "tool:node=22.0.0")


def met(need: str) -> bool:
    return first_unmet((need,), Abilities(FOUND, DECLARED), "box", "box-1") is None


@pytest.mark.parametrize(
    "need",
    [
        "docker", "os:linux", "gpu:nvidia", "zone=eu", "zone", "tool:docker", "tool:node", "tool:node=20",
        "tool:node=20.11.1", "tool:node==20.11", "tool:node>=20", "tool:node >= 20.11", "tool:node<=20", "tool:node>21",
        "tool:node<21", "tool:git>=2.39", "tool:git<2.40", "cpus>=16", "cpus>8", "cpus=16", "tool:node>=v20",
        "host:box", "agent:box-1",
    ],
)  # fmt: skip
def test_a_need_is_met_by_the_word_by_its_name_or_by_a_value_that_compares(need: str) -> None:
    assert fault_of(need) == ""
    assert met(need)


@pytest.mark.parametrize(
    "need",
    [
        "node", "Docker", "os:macos", "zone=us", "tool:node=21", "tool:node>=23", "tool:git>2.39", "tool:git<2.39",
        "cpus>16", "tool:docker>=20", "zone>=1", "tool:", "host:other", "host:", "agent:box-2", "agent:box",
    ],
)  # fmt: skip
def test_a_need_is_not_met_by_another_word_or_value(need: str) -> None:
    assert fault_of(need) == ""
    assert not met(need)


def test_versions_are_compared_as_numbers_as_far_as_the_need_goes() -> None:
    can = Abilities(("t=3.10.2",), ())
    needs = ["t>=3.9", "t>3.9", "t=3.10", "t<=3.10", "t>=3.10.2", "t<3.11", "t>=3.10.2.0"]
    assert all(can.meets(need) for need in needs)
    assert not any(can.meets(need) for need in ["t=3.1", "t>3.10", "t>=3.10.3", "t<3.10", "t=3.10.2.1"])


@pytest.mark.parametrize(
    "need", ["tool:node>=", "tool:node>=new", ">=20", "=", " ", "cpus> 8 or so", "a=", "t<1..2"]
)
def test_a_need_that_can_mean_nothing_has_a_fault(need: str) -> None:
    assert fault_of(need)


def test_a_need_of_an_older_store_that_would_be_refused_now_is_a_plain_word() -> None:
    assert Abilities(("c>=", "x"), ()).meets("c>=")
    assert not Abilities(("c", "x"), ()).meets("c>=")


def test_no_host_can_say_that_it_is_another() -> None:
    liar = Abilities(("host:gold", "agent:gold-1"), ())
    assert first_unmet(("host:gold",), liar, "lead", "lead-1") == "host:gold"
    assert first_unmet(("agent:gold-1",), liar, "lead", "lead-1") == "agent:gold-1"


@pytest.mark.parametrize(
    ("need", "message", "change"),
    [
        (
            "tool:node>=24",
            "no agent on box has tool:node>=24; box has tool:node=22.0.0",
            "update node on box",
        ),
        ("tool:cargo", "no agent on box has tool:cargo", "install cargo on box"),
        ("git", "no agent on box has git; box has tool:git", "ask for --needs tool:git, or add git to"),
        (
            "cpus>=32",
            "no agent on box has cpus>=32; box has cpus=16",
            "wait for a host that has cpus>=32, or join one: agentcom host invite; or submit it again with less",
        ),
        (
            "os:macos",
            "no agent on box has os:macos; box has os:linux",
            "wait for a host that has os:macos, or join one: agentcom host invite; or submit it again without",
        ),
        (
            "gpus>=8",
            "no agent on box has gpus>=8",
            "wait for a host that has gpus>=8, or join one: agentcom host invite; or submit it again without --needs '",
        ),
        (
            "cpus<8",
            "no agent on box has cpus<8; box has cpus=16",
            "wait for a host that has cpus<8, or join one: agentcom host invite; or submit it again without",
        ),
        (
            "kernel>=6",
            "no agent on box has kernel>=6",
            "add kernel=VALUE to sidecar.capabilities on box, with a value >=6",
        ),
        ("kvm", "no agent on box has kvm", "add kvm to sidecar.capabilities on box"),
        (
            "host:far",
            "the task is pinned to host far",
            "wait for far, or submit it again without --needs host:far",
        ),
    ],
)
def test_why_names_what_is_there_instead_and_what_to_do(need: str, message: str, change: str) -> None:
    found = lack([need], "box", Abilities(FOUND, DECLARED))
    assert found[0] == ("pinned_elsewhere" if need.startswith("host:") else "need_missing")
    assert (found[1], found[2][: len(change)]) == (message, change)


def test_why_speaks_of_the_agent_that_lacks_least() -> None:
    rig = Rig()
    key = rig.invited(Role.host, "box")
    bare = agent_offer("bare")
    near = agent_offer("near", capabilities=("docker", "kvm"))
    offer = host_offer("box", (bare, near), capabilities=("tool:node=18.1.0",))
    HostEnd(rig, key, rig.peer(), offer=offer).hello()
    number = rig.admin.submit(shell_task(needs=("docker", "kvm", "tool:node>=20")))
    (host,) = rig.admin.ask(m.TaskWhy(task=number))["hosts"]
    assert host["message"] == "no agent on box has tool:node>=20; box has tool:node=18.1.0"
    assert host["fails"] == "need_missing"


def test_a_task_that_waits_for_a_version_starts_when_its_host_comes_back_with_it() -> None:
    rig = Rig()
    key = rig.invited(Role.host, "box")
    HostEnd(rig, key, rig.peer(), offer=host_offer("box", capabilities=("tool:node=18.1.0",))).hello()
    rig.admin.submit(shell_task(needs=("tool:node>=20",)))
    assert rig.sent(m.Assign) == []
    newer = host_offer("box", capabilities=("tool:node=20.0.0",))
    HostEnd(rig, key, rig.peer(), offer=newer).hello()
    assert [one.route.host for one in rig.sent(m.Assign)] == ["box"]


def test_a_tool_that_was_installed_lets_a_waiting_task_start_at_the_next_heartbeat() -> None:
    rig = Rig()
    box = rig.host("box")
    rig.admin.submit(shell_task(needs=("tool:node>=20",)))
    box.beat(capabilities=("tool:node=18.0.0",))
    assert rig.sent(m.Assign) == []
    box.beat(capabilities=("tool:node=20.0.0",))
    assert [one.route.host for one in rig.sent(m.Assign)] == ["box"]
    (host,) = rig.admin.ask(m.HostList())["hosts"]
    assert host["capabilities"] == ["tool:node=20.0.0"]
    rig.start()
    assert rig.hub.fleet.host_named("box").record.capabilities == ("tool:node=20.0.0",)


def test_an_agent_that_declares_more_than_its_host_found_does_not_get_the_task() -> None:
    can = Abilities(("cpus=16", "os:linux"), ("cpus=64", "os:windows", "docker"))
    assert [can.meets(need) for need in ("cpus>=32", "cpus=64", "os:windows", "cpus>=16", "docker")] == [
        False, False, False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize("need", ["cpus>64", "ram_gib>=4096", "gpus>=8", "tool:nosuch>=3", "zone>=2"])
def test_a_declared_comparison_is_no_capability_whoever_offers_it(need: str) -> None:
    assert not Abilities(("cpus=16",), (need,)).meets(need)
    assert not Abilities(("cpus=16", need), ()).meets(need)
    assert not Abilities((), (need,)).meets(need)


def test_a_host_shows_the_comparisons_that_it_or_an_agent_declares() -> None:
    rig = Rig()
    rig.host("box", (agent_offer(capabilities=("cpus>64",)),), capabilities=("cpus=16", "gpus>=8"))
    rig.admin.submit(shell_task(needs=("cpus>64",)))
    rig.admin.submit(shell_task(needs=("gpus>=8",)))
    assert rig.sent(m.Assign) == []
    assert rig.admin.ask(m.HostShow(host="box"))["overruled"] == ["gpus>=8", "cpus>64"]


def test_a_host_shows_what_its_agents_declare_and_it_did_not_find() -> None:
    rig = Rig()
    rig.host("box", (agent_offer(capabilities=("cpus=64", "docker")),), capabilities=("cpus=16",))
    number = rig.admin.submit(shell_task(needs=("cpus>32",)))
    assert rig.admin.ask(m.HostShow(host="box"))["overruled"] == ["cpus=64"]
    [host] = rig.admin.ask(m.TaskWhy(task=number))["hosts"]
    assert (host["fails"], host["message"]) == ("need_missing", "no agent on box has cpus>32; box has cpus=16")
