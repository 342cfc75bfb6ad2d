"""What a sidecar finds out about its host: the system, what it has, and its tools with their versions."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import psutil
import pytest

from agentcom import limits
from agentcom.facts import overruled
from agentcom.figures import Gpu, Resources
from agentcom_sidecar.capabilities import Tools, found_on, offered, version_in
from tests.world import eventually

GIB = 1 << 30


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def looked(tools: Tools) -> list[str]:
    asyncio.run(tools.look())
    return tools.known


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("git version 2.39.5\n", "2.39.5"),
        ("v20.11.1\n", "20.11.1"),
        ("9.2.0", "9.2.0"),
        ("Python 3.13.0rc1", "3.13.0"),
        ("go version go1.21.5 linux/amd64", "1.21.5"),
        ("cargo 1.75.0 (1d8b05cdd 2023-11-20)", "1.75.0"),
        ("gcc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation", "12.2.0"),
        ("Docker version 20.10.24+dfsg1, build 297e128", "20.10.24"),
        ("GNU Make 4.3\nBuilt for x86_64-pc-linux-gnu", "4.3"),
        ("bubblewrap 0.8.0", "0.8.0"),
        ("gh version 2.23.0 (2023-02-27 Debian 2.23.0+dfsg1-1)", "2.23.0"),
        ('openjdk version "17.0.9" 2023-10-17', "17.0.9"),
        ("WARNING: no config\ncmake version 3.25.1", "3.25.1"),
        ("ruby 3.1.2p20 (2022-04-12 revision 4491bb740a) [x86_64-linux-gnu]", "3.1.2"),
        ("", ""),
        ("usage: tool [options]", ""),
        ("9" * 4000, ""),
    ],
)
def test_a_version_is_found_in_what_a_tool_says(answer: str, version: str) -> None:
    assert version_in(answer) == version


def test_tools_are_known_by_name_at_once_and_by_version_when_they_were_asked(tmp_path: Path) -> None:
    tool(tmp_path, "git", "echo git version 2.39.5")
    tool(tmp_path, "go", 'echo "go version go1.21.5 linux/amd64"')
    tool(tmp_path, "java", "echo openjdk 17.0.9 >&2")
    tool(tmp_path, "unrelated", "echo 1.0")
    (tmp_path / "node").write_text("not executable")
    tools = Tools(path=str(tmp_path))
    tools.list()
    assert tools.known == ["tool:git", "tool:go", "tool:java"]
    assert looked(tools) == ["tool:git=2.39.5", "tool:go=1.21.5", "tool:java=17.0.9"]


def test_a_tool_is_asked_again_only_when_its_file_has_changed(tmp_path: Path) -> None:
    tool(tmp_path, "node", "echo v18.1.0")
    tools = Tools(path=str(tmp_path))
    looked(tools)
    assert looked(tools) == ["tool:node=18.1.0"]
    assert tools.asked == 1
    tool(tmp_path, "node", "echo v20.0.0 # updated")
    assert looked(tools) == ["tool:node=20.0.0"]
    assert tools.asked == 2
    (tmp_path / "node").unlink()
    assert looked(tools) == []


def test_a_tool_that_fails_is_not_offered_until_it_works(tmp_path: Path) -> None:
    tool(tmp_path, "docker", "echo cannot start; exit 3")
    tools = Tools(path=str(tmp_path))
    assert looked(tools) == []
    assert "it ended with 3" in tools.faults["docker"]
    tool(tmp_path, "docker", "echo Docker version 24.0.1")
    assert looked(tools) == ["tool:docker=24.0.1"]
    assert tools.faults == {}


def test_what_a_broken_tool_says_is_told_in_one_line_without_a_piece_of_a_secret(tmp_path: Path) -> None:
    token = "ghp_" + "a1b2c3d4" * 4
    tool(tmp_path, "docker", f"printf '{'x' * 80}\\n   login {token}'; exit 3")
    tools = Tools(path=str(tmp_path))
    looked(tools)
    assert tools.faults["docker"].endswith(f": {'x' * 80} login [redacted]")
    tool(tmp_path, "docker", "exit 126")
    looked(tools)
    assert tools.faults["docker"].endswith(": it says nothing")


def test_a_tool_that_cannot_be_run_at_all_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "make").write_bytes(b"\x7fELF rubbish")
    (tmp_path / "make").chmod(0o755)
    tools = Tools(path=str(tmp_path))
    assert looked(tools) == []
    assert "make" in tools.faults


def test_a_tool_that_waits_for_input_gets_none(tmp_path: Path) -> None:
    tool(tmp_path, "npm", "cat; echo 9.2.0")
    assert looked(Tools(path=str(tmp_path))) == ["tool:npm=9.2.0"]


def has_ended(pid: int) -> bool:
    """A killed process that nobody has waited for still has an entry."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_tool_that_never_answers_is_ended_with_its_children_and_asked_again_later(tmp_path: Path) -> None:
    tool(tmp_path, "cargo", f"echo $$ > {tmp_path}/pid; sleep 600 & echo $! > {tmp_path}/child; wait")
    tools = Tools(path=str(tmp_path), answer_s=2)
    assert looked(tools) == ["tool:cargo"]
    for name in ("pid", "child"):
        pid = int((tmp_path / name).read_text())
        eventually(f"{name} {pid} has ended", partial(has_ended, pid))
    tool(tmp_path, "cargo", "echo cargo 1.75.0")
    assert looked(tools) == ["tool:cargo=1.75.0"]


def test_a_tool_that_never_stops_talking_is_heard_to_a_bound(tmp_path: Path) -> None:
    tool(tmp_path, "ruby", "echo ruby 3.1.2; while :; do echo more; done")
    assert looked(Tools(path=str(tmp_path))) == ["tool:ruby=3.1.2"]


def test_a_tool_sees_neither_keys_nor_the_folder_of_the_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.chdir(tmp_path)
    tool(tmp_path, "uv", f"env > {tmp_path}/seen; pwd >> {tmp_path}/seen; echo uv 0.4.1")
    assert looked(Tools(path=str(tmp_path))) == ["tool:uv=0.4.1"]
    seen = (tmp_path / "seen").read_text().splitlines()
    assert not [line for line in seen if "secret" in line]
    assert seen[-1] == "/"


def test_what_a_host_has_is_told_as_words_and_numbers() -> None:
    gpus = (
        Gpu(name="NVIDIA GeForce RTX 4090", vendor="nvidia", vram_total_bytes=24 * GIB - 7_000_000),
        Gpu(name="AMD 0x744c", vendor="amd"),
    )
    found = found_on(Resources(logical_cpus=16, ram_total_bytes=63 * GIB, gpus=gpus))
    assert found == sorted(found)
    assert {
        "os:linux", f"arch:{os.uname().machine}", "cpus=16", "ram_gib=63", "gpus=2", "vram_gib=24", "gpu:nvidia",
        "gpu:nvidia-geforce-rtx-4090", "gpu:amd", "gpu:amd-0x744c",
    } == set(found)  # fmt: skip


def test_a_host_of_which_nothing_is_known_has_a_system_all_the_same() -> None:
    assert len(found_on(None)) == len(found_on(Resources())) == 2


def test_what_was_found_of_the_machine_counts_whatever_was_declared() -> None:
    found, tools = ["arch:x86_64", "cpus=16", "os:linux"], ["tool:git=2.39.5", "tool:go"]
    declared = ["cpus=64", "os:windows", "tool:git=99", "vram_gib=8", "gpu:npu", "zone=eu", "cpus=16"]
    assert overruled(declared, [*found, *tools]) == ("cpus=64", "os:windows")
    kept = ("tool:git=99", "vram_gib=8", "gpu:npu", "zone=eu", "cpus=16")
    assert offered(declared, found, tools) == (*kept, "arch:x86_64", "os:linux", *tools)
    assert overruled(declared, []) == ()


@pytest.mark.parametrize(
    "word", ["cpus>64", "cpus >= 64", "ram_gib>=4096", "gpus>8", "vram_gib<=9", "tool:nosuch>=3", "zone<2", "go>v1"]
)
def test_a_declared_comparison_is_no_capability(word: str) -> None:
    found, tools = ["cpus=16", "os:linux"], ["tool:git=2.39.5"]
    assert overruled([word, "docker"], [*found, *tools]) == (word,)
    assert overruled([word], []) == (word,)
    assert word not in offered([word], found, tools)


def test_spaces_around_a_declared_fact_do_not_hide_it() -> None:
    declared = ["cpus =64", " cpus=64", " os:windows"]
    assert overruled(declared, ["cpus=16", "os:linux"]) == tuple(declared)


def test_what_is_offered_is_bounded_and_what_was_declared_comes_first() -> None:
    declared = ["docker", "zone=eu", "docker"]
    many = [f"word-{n}" for n in range(2 * limits.CAPABILITIES_MAX)]
    found = offered(declared, many, ["tool:git"])
    assert found[:3] == ("docker", "zone=eu", "word-0")
    assert len(found) == limits.CAPABILITIES_MAX
    assert len(offered(["x" * 999, ""], [], [])[0]) == limits.LABEL_CHARS_MAX
