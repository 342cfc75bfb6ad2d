"""What this host can do, as its tasks may ask for it with `needs`: the system, its processors, GPUs and tools.

Tools are looked for in PATH and asked for their version: a few at once, each with closed stdin, a bounded answer and a
time limit, from the root folder, so that no file of a project has a say. A tool that was asked is asked again only when
its file has changed. One that fails when it is asked for its version is broken, and not offered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from agentcom import limits
from agentcom.facts import overruled
from agentcom.figures import Resources
from agentcom.redaction import redact_text

ARCHITECTURES = {"amd64": "x86_64", "aarch64": "arm64"}
SYSTEMS = {"darwin": "macos", "win32": "windows"}

# npm runs node, and so on: what is asked in another way than by --version stands with its words.
TOOLS: Final = {
    "bwrap": (), "cargo": (), "clang": (), "cmake": (), "docker": (), "dotnet": (), "g++": (), "gcc": (), "gh": (),
    "git": (), "go": ("version",), "java": ("-version",), "make": (), "node": (), "npm": (), "podman": (),
    "python": (), "python3": (), "ruby": (), "rustc": (), "uv": (),
}  # fmt: skip
ANSWER_S_MAX = 5.0
ANSWER_BYTES_MAX = 4096
SAID_CHARS_MAX = 100  # of what a broken one says
AT_ONCE = 4
_IN_BRACKETS = re.compile(r"\([^()]*\)")
_NUMBERS = re.compile(r"(?<![\d.])\d{1,9}(?:\.\d{1,9}){1,7}|(?<![\d.])\d{1,9}(?![\d.])")


class ToolFile(NamedTuple):
    """A program as it lies on disk: another of these is another program."""

    path: str
    changed_ns: int
    size: int


class Tools:
    """The tools on `path` (PATH by default), with the versions that were found so far; and agent programs, by the names
    that they are offered under (`program:NAME`), each with what is to be looked for and whether to ask it."""

    def __init__(
        self,
        path: str | None = None,
        answer_s: float = ANSWER_S_MAX,
        programs: Mapping[str, tuple[str, bool]] | None = None,
    ) -> None:
        self._path = path
        self._programs = programs or {}
        self._answer_s = answer_s
        self._versions: dict[ToolFile, str] = {}
        self.faults: dict[str, str] = {}
        self.known: list[str] = []  # tool:NAME, or tool:NAME=VERSION where the version is known
        self.asked = 0

    def list(self) -> None:
        """Look which are there, without running any."""
        self._know(self._files())

    async def look(self) -> None:
        """Look which are there, and ask those whose file is new for their version."""
        files = await asyncio.to_thread(self._files)
        self._versions = {file: v for file, v in self._versions.items() if file in files.values()}
        self.faults = {name: reason for name, reason in self.faults.items() if name in files}
        room = asyncio.Semaphore(AT_ONCE)
        new = [
            self._ask(name, file, room)
            for name, file in files.items()
            if file not in self._versions and self._programs.get(name, ("", True))[1]
        ]
        await asyncio.gather(*new)
        self._know(files)

    def _know(self, files: dict[str, ToolFile]) -> None:
        found = []
        for name, file in files.items():
            if name not in self.faults:
                version = self._versions.get(file, "")
                told = name if name in self._programs else f"tool:{name}"
                found.append(f"{told}={version}" if version else told)
        self.known = found

    def _files(self) -> dict[str, ToolFile]:
        return {name: file for name in (*self._programs, *TOOLS) if (file := self._file(name)) is not None}

    def _file(self, name: str) -> ToolFile | None:
        path = shutil.which(self._programs.get(name, (name, True))[0], path=self._path)
        if path is None:
            return None
        try:
            found = os.stat(path)
        except OSError:
            return None
        return ToolFile(os.path.realpath(path), found.st_mtime_ns, found.st_size)

    async def _ask(self, name: str, file: ToolFile, room: asyncio.Semaphore) -> None:
        path = shutil.which(self._programs.get(name, (name, True))[0], path=self._path) or file.path
        async with room:
            self.asked += 1
            try:
                status, answer = await _answer([path, *(TOOLS.get(name) or ("--version",))], self._answer_s)
            except TimeoutError:
                # It is there, and the host may just be busy: it is asked again at the next look.
                self.faults.pop(name, None)
                return
            except OSError as error:
                self.faults[name] = str(error)
                return
        if status:
            self.faults[name] = broken(status, answer)
            return
        self.faults.pop(name, None)
        self._versions[file] = version_in(answer)


def broken(status: int, answer: str) -> str:
    """What is the matter with a tool that ended so when it was asked for its version."""
    said = " ".join(redact_text(answer).split())[:SAID_CHARS_MAX] or "it says nothing"
    return f"it ended with {status} when it was asked for its version: {said}"


def version_in(answer: str) -> str:
    """The version in the first line of an answer that has one, as 2.39.5; empty for none."""
    for line in answer.splitlines()[:5]:
        found = _NUMBERS.search(_IN_BRACKETS.sub(" ", line).replace("go version go", ""))
        if found is not None:
            return found[0]
    return ""


def found_on(resources: Resources | None) -> list[str]:
    """The system, the architecture, processors, memory in GiB, and GPUs by maker, model and memory."""
    machine = platform.machine().lower()
    found = {f"os:{SYSTEMS.get(sys.platform, sys.platform)}", f"arch:{ARCHITECTURES.get(machine, machine)}"}
    if resources is None:
        return sorted(found)
    if resources.logical_cpus:
        found.add(f"cpus={resources.logical_cpus}")
    if resources.ram_total_bytes:
        found.add(f"ram_gib={_gib(resources.ram_total_bytes)}")
    if resources.gpus:
        found.add(f"gpus={len(resources.gpus)}")
    for gpu in resources.gpus:
        words = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
        found |= {f"gpu:{word}"[: limits.LABEL_CHARS_MAX] for word in (gpu.vendor, words) if word}
    sizes = [gpu.vram_total_bytes for gpu in resources.gpus if gpu.vram_total_bytes]
    if sizes:
        found.add(f"vram_gib={_gib(max(sizes))}")
    return sorted(found)


def offered(declared: Iterable[str], found: Iterable[str], tools: Iterable[str]) -> tuple[str, ...]:
    """All of them, each once, what was declared first: of too many the last are left out. What was found of a fact
    counts, whatever was declared of it."""
    facts = (*found, *tools)
    declared = tuple(declared)
    wrong = overruled(declared, facts)
    every = dict.fromkeys((*(word for word in declared if word not in wrong), *facts))
    return tuple(word[: limits.LABEL_CHARS_MAX] for word in every if word)[: limits.CAPABILITIES_MAX]


def _gib(size: int) -> int:
    """Rounded: a card of 24 GiB reports a little less."""
    return round(size / 2**30)


async def _answer(command: list[str], answer_s: float) -> tuple[int, str]:
    """Exit status and the beginning of what it says. Raises OSError and TimeoutError; nothing of it runs on."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/",
        env={key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | {"LC_ALL": "C"},
        start_new_session=True,
    )
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(answer_s):
            while len(said) < ANSWER_BYTES_MAX:
                piece = await process.stdout.read(ANSWER_BYTES_MAX - len(said))
                if not piece:
                    status = await process.wait()
                    return status, said.decode(errors="replace")
                said += piece
        _end(process)
        return 0, said.decode(errors="replace")  # it says more than anybody wants to know
    except BaseException:
        _end(process)
        raise
    finally:
        await process.wait()


def _end(process: asyncio.subprocess.Process) -> None:
    """The program and all that it has started in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
