"""The probe's words, the filter of system calls and the command line of bubblewrap, without starting anything."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from agentcom_sidecar import bubblewrap, guards, isolation, syscalls
from agentcom_sidecar.command import CommandResult, CommandSpec, Outcome, View

ALLOWED, REFUSED = 0x7FFF_0000, 0x0005_0001


def ran(output: str = "", exit_code: int | None = 0, **fields: Any) -> CommandResult:
    return CommandResult(
        exit_code=exit_code,
        signal=None,
        output=output.encode(),
        truncated_bytes=0,
        duration_ms=1,
        outcome=fields.pop("outcome", Outcome.EXITED),
        **fields,
    )


def probe(result: CommandResult, *, writes: bool = True) -> isolation.Isolation:
    async def run(spec: CommandSpec) -> CommandResult:
        if writes:
            (spec.cwd / "held").touch()
        return result

    return asyncio.run(isolation.probe(run))


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "find", lambda: "/usr/bin/bwrap")
    monkeypatch.setattr(isolation.sys, "platform", "linux")


def test_r16_a_probe_that_saw_nothing_and_wrote_its_file_says_that_it_isolates() -> None:
    assert probe(ran()) == isolation.BUBBLEWRAP


@pytest.mark.parametrize(
    ("result", "writes", "words"),
    [
        (ran("secret\nread a file outside of its directory\n"), True, "read a file outside"),
        (ran(), False, "could not write"),
        (ran("bwrap: setting up uid map: Permission denied", 1), False, "Permission denied"),
        (
            ran(exit_code=None, outcome=Outcome.FAILED_TO_START, error="bwrap: Can't mount proc"),
            False,
            "mount proc",
        ),
        (ran(exit_code=None, outcome=Outcome.TIMED_OUT), False, "no answer within"),
    ],
)
def test_r16_a_probe_that_failed_or_saw_too_much_says_so_with_a_remedy(
    result: CommandResult, writes: bool, words: str
) -> None:
    found = probe(result, writes=writes)
    assert (found.name, found.holds) == ("none", False)
    assert words in found.reason
    assert found.remedy
    assert found.remedy in found.note


def test_without_the_program_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "find", lambda: None)
    found = probe(ran())
    assert (found.reason, found.remedy) == ("bubblewrap is not installed", isolation.INSTALL)


def test_another_system_than_linux_has_nothing_that_isolates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.sys, "platform", "darwin")
    assert "darwin" in probe(ran()).reason


@pytest.mark.parametrize(
    ("said", "machine", "words"),
    [
        ("Unknown option --disable-userns", {}, "0.8 or newer"),
        ("x", {"proc/sys/user/max_user_namespaces": "0\n"}, "user.max_user_namespaces="),
        ("x", {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "AppArmor"),
        ("No permissions to create new namespace", {".dockerenv": ""}, "this is a container"),
        ("x", {}, "docs/sandbox.md"),
    ],
)
def test_the_remedy_fits_what_forbids_it(
    said: str, machine: dict[str, str], words: str, tmp_path: Path
) -> None:
    for name, content in machine.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert words in isolation.remedy_of(said, tmp_path / "proc", tmp_path)


def answer(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter returns for a call: an interpreter of the few instructions that it uses."""
    table = syscalls.TABLES[machine]
    six = (*arguments, *(0,) * 6)[:6]
    data = struct.pack(
        "<IIQ6Q", number, table.architecture if architecture is None else architecture, 0, *six
    )
    program = syscalls.program(machine)
    assert program is not None
    lines = list(struct.iter_unpack("<HBBI", program))
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, operand = lines[at]
        at += 1
        if code == syscalls.RETURN:
            return int(operand)
        if code == syscalls.LOAD:
            loaded = struct.unpack_from("<I", data, operand)[0]
        else:
            holds = loaded == operand if code == syscalls.EQUAL else loaded >= operand
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", sorted(syscalls.TABLES))
class TestTheFilterOfSystemCalls:
    def test_every_call_of_the_table_is_refused_and_its_neighbours_are_not(self, machine: str) -> None:
        table = syscalls.TABLES[machine]
        for number in range(500):
            expected = REFUSED if number in table.refused else ALLOWED
            assert answer(machine, number) == expected, number

    def test_a_socket_to_the_hypervisor_is_refused_and_others_are_not(self, machine: str) -> None:
        table = syscalls.TABLES[machine]
        assert answer(machine, table.socket, syscalls.AF_VSOCK) == REFUSED
        assert {answer(machine, table.socket, family) for family in (1, 2, 10, 16)} == {ALLOWED}

    def test_typing_into_a_terminal_is_refused_by_the_lower_half_of_the_argument(self, machine: str) -> None:
        table = syscalls.TABLES[machine]
        for request in (syscalls.TIOCSTI, syscalls.TIOCLINUX):
            assert answer(machine, table.ioctl, 0, request) == REFUSED
            assert answer(machine, table.ioctl, 0, request | 1 << 32) == REFUSED
        assert answer(machine, table.ioctl, 0, 0x5401) == ALLOWED

    def test_calls_of_another_architecture_are_refused(self, machine: str) -> None:
        assert answer(machine, 0, architecture=0x4000_0003) == REFUSED
        assert answer(machine, syscalls.X32_BIT | 1) == REFUSED


def test_a_processor_without_a_table_gets_no_filter() -> None:
    assert syscalls.program("pdp11") is None


def pairs(arguments: list[str], option: str) -> list[str]:
    return [arguments[at + 1] for at, each in enumerate(arguments) if each == option]


def spec_of(folder: Path, **view: Any) -> CommandSpec:
    for name in ("work", "home"):
        (folder / name).mkdir(exist_ok=True)
    return CommandSpec(
        argv=("true",), cwd=folder / "work", home=folder / "home", timeout_s=1, view=View(**view)
    )


class TestTheCommandLine:
    def test_the_network_is_there_only_when_the_view_says_so(self, tmp_path: Path) -> None:
        assert "--unshare-net" in bubblewrap.arguments(spec_of(tmp_path), {})
        assert "--unshare-net" not in bubblewrap.arguments(spec_of(tmp_path, network=True), {})

    def test_no_mount_point_lies_in_what_can_be_written(self, tmp_path: Path) -> None:
        inner = tmp_path / "work" / "inner"
        made = bubblewrap.arguments(spec_of(tmp_path, writable=(inner,)), {})
        assert pairs(made, "--bind") == [str(tmp_path / "work"), str(tmp_path / "home")]

    def test_a_path_by_a_link_is_there_by_both_of_its_names(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        os.symlink(tmp_path / "real", tmp_path / "link")
        made = bubblewrap.arguments(spec_of(tmp_path, readable=(tmp_path / "link",)), {})
        assert {str(tmp_path / "link"), str(tmp_path / "real")} <= set(pairs(made, "--ro-bind"))

    def test_what_is_hidden_is_hidden_only_where_it_would_be_seen(self, tmp_path: Path) -> None:
        (tmp_path / "shown" / "kept").mkdir(parents=True)
        hidden = (tmp_path / "shown" / "kept", tmp_path / "elsewhere")
        made = bubblewrap.arguments(spec_of(tmp_path, readable=(tmp_path / "shown",), hidden=hidden), {})
        kept = str(tmp_path / "shown" / "kept")
        assert kept in pairs(made, "--tmpfs")
        assert kept in pairs(made, "--remount-ro")
        assert str(tmp_path / "elsewhere") not in made

    def test_the_root_is_read_only_last(self, tmp_path: Path) -> None:
        assert bubblewrap.arguments(spec_of(tmp_path), {})[-4:] == ["--remount-ro", "/", "--chdir", "/"]


def test_a_guard_that_was_built_is_the_one_that_runs_and_else_its_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AGENTCOM_REQUIRE_COMPILED=1 says that this machine must have built it."""
    was_built = guards.COMPILED is not None and guards.COMPILED.exists()
    assert was_built or os.environ.get("AGENTCOM_REQUIRE_COMPILED") != "1"
    assert guards.kind() == ("compiled" if was_built else "python")
    built = tmp_path / "_guard.bin"
    built.touch(mode=0o700)
    monkeypatch.setattr(guards, "COMPILED", built)
    assert guards.command(3, 4, is_isolated=True) == ["/run/agentcom/guard", "3", "4"]
    monkeypatch.setattr(guards, "COMPILED", Path("/nowhere/_guard.bin"))
    assert guards.kind() == "python"
    assert guards.command(3, 4, is_isolated=True)[1:] == ["-I", "-S", "/run/agentcom/guard", "3", "4"]
