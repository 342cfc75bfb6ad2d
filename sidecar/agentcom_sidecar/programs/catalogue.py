"""Which programs there are: those with an adapter, and those that `programs.commands` of this host defines.

`find` gives the program's real file, or says what to install. What an isolated program must see of this machine is its
own file, the packages beside it and its interpreter: SYSTEM folders are visible anyway.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from agentcom import limits
from agentcom.agent_programs import PREFIX
from agentcom.config import ProgramSettings
from agentcom.errors import ConfigError
from agentcom.redaction import redact_text
from agentcom_sidecar.programs import claude_code, codex, gemini, opencode
from agentcom_sidecar.programs.base import PLACES, Adapter, unknown_place

KNOWN: Final = {
    one.name: one for one in (claude_code.ADAPTER, codex.ADAPTER, gemini.ADAPTER, opencode.ADAPTER)
}
DOCS: Final = "docs/agent-programs.md"


def names(settings: ProgramSettings) -> tuple[str, ...]:
    """All that have an adapter or a command here."""
    return tuple(dict.fromkeys((*KNOWN, *(entry.partition("=")[0].strip() for entry in settings.commands))))


def adapter_of(name: str, settings: ProgramSettings) -> Adapter:
    """The adapter with this host's own command line where it has one. ConfigError for a name that nobody knows, an
    empty command, and places that nothing fills."""
    known = KNOWN.get(name)
    own = next((e.partition("=")[2] for e in settings.commands if e.partition("=")[0].strip() == name), None)
    if own is None:
        if known is None:
            listed = ", ".join(names(settings))
            raise ConfigError(
                f"no program {name!r} is known here ({listed}); install one of these, or say how it is started: "
                f'programs.commands = ["{name}=PATH ARGUMENTS"] ({DOCS})'
            )
        return known
    try:
        argv = tuple(shlex.split(own))
    except ValueError as error:
        raise ConfigError(f"programs.commands: {name}: {error}") from error
    if not argv or not argv[0]:
        what = known.install if known else f"write the program and its arguments after {name}="
        raise ConfigError(f"programs.commands: the command of {name} is empty; {what}")
    place = unknown_place(argv)
    if place:
        raise ConfigError(
            f"programs.commands: {name}: nothing fills {{{place}}}; there are {', '.join(sorted(PLACES))}"
        )
    if known is not None:
        return replace(known, command=argv, resume=(), model=(), budget=())
    return Adapter(name=name, install=f"install {argv[0]}, or mend programs.commands", command=argv)


def offered(settings: ProgramSettings) -> dict[str, tuple[str, bool]]:
    """What this host's owner offers: `program:NAME` to what is looked for, and whether it can be asked for its version
    (one of the owner's own might begin to work). What cannot be used is left out; a task that names it says why."""
    found = {}
    for name in settings.offer:
        try:
            adapter = adapter_of(name, settings)
        except ConfigError:
            continue
        found[f"{PREFIX}{name}"] = (os.path.expanduser(adapter.program), name in KNOWN)
    return found


def faults(settings: ProgramSettings, broken: Mapping[str, str]) -> tuple[str, ...]:
    """What is offered here and cannot be used, `NAME: why`. `broken`: by what is offered, why one that is there is not
    well."""
    found = []
    for name in settings.offer:
        try:
            find(adapter_of(name, settings))
            why = broken.get(f"{PREFIX}{name}", "")
        except ConfigError as error:
            why = error.message
        if why:
            found.append(redact_text(f"{name}: {why}")[: limits.REASON_CHARS_MAX])
    return tuple(found[: limits.PROGRAM_FAULTS_MAX])


def find(adapter: Adapter) -> Path:
    """The program's own file. ConfigError with what to install where it is not there."""
    program = os.path.expanduser(adapter.program)
    entries = [each for each in os.environ.get("PATH", "").split(os.pathsep) if each.startswith("/")]
    path = shutil.which(program, path=os.pathsep.join(entries))
    if path is None or not path.startswith("/"):
        raise ConfigError(f"{adapter.program} is not on this host (PATH of its sidecar); {adapter.install}")
    return Path(os.path.realpath(path))


def seen_by(path: Path) -> tuple[Path, ...]:
    """What the program needs to see of this machine, itself first."""
    parts = path.parts
    if "node_modules" in parts:
        at = len(parts) - 1 - parts[::-1].index("node_modules")
        return (Path(*parts[: at + 1]), *_interpreter(path))
    return (path, *_interpreter(path))


def _interpreter(path: Path) -> tuple[Path, ...]:
    """The file that a script's first line names."""
    try:
        with path.open("rb") as file:
            first = file.read(256).split(b"\n")[0]
    except OSError:
        return ()
    if not first.startswith(b"#!"):
        return ()
    words = first[2:].decode("utf-8", "replace").split()
    if words and os.path.basename(words[0]) == "env":
        words = [each for each in words[1:] if not each.startswith("-")]
    found = shutil.which(words[0]) if words else None
    return (Path(os.path.realpath(found)),) if found else ()
