"""Whether commands can be isolated on this host: tried for real, once, with the options of every command.

That the program is there proves nothing: distributions and containers forbid user namespaces in several ways. So
a probe runs through the door itself and looks for what must not be there; a failure carries its remedy.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agentcom_sidecar import bubblewrap
from agentcom_sidecar.command import CommandResult, CommandSpec, Outcome, SandboxMode

PROBE_S = 20.0  # on a machine that is busy with its start
REASON_CHARS_MAX = 300
DOCS = "docs/sandbox.md"

# Prints what it should not have seen or done; silence and a file in its directory are success.
PROBE = """
cat "$OUTSIDE/secret" 2>/dev/null && echo "read a file outside of its directory"
(echo x > "$OUTSIDE/written") 2>/dev/null && echo "wrote outside of its directory"
(echo x > /probe) 2>/dev/null && echo "wrote into the root"
[ "$(ls -d /proc/[0-9]* | wc -l)" -gt 6 ] && echo "saw the processes of this machine"
[ "$(grep -c : /proc/net/dev)" -gt 1 ] && echo "saw the network of this machine"
[ "$(sed -n 's/^CapEff:[[:space:]]*0*//p' /proc/self/status)" = "" ] || echo "held capabilities"
unshare --user true 2>/dev/null && echo "made a user namespace of its own"
[ -e /sys/kernel ] && echo "saw /sys"
echo held > held
"""


@dataclass(frozen=True, slots=True)
class Isolation:
    """`name` is what isolates commands; with "none", `reason` says why and `remedy` what to do."""

    name: Literal["bubblewrap", "none"]
    reason: str = ""
    remedy: str = ""

    @property
    def holds(self) -> bool:
        return self.name != "none"

    @property
    def note(self) -> str:
        """Reason and remedy in one line; empty where commands are isolated."""
        return f"{self.reason}: {self.remedy}" if self.remedy else self.reason


BUBBLEWRAP: Final = Isolation("bubblewrap")
OFF: Final = Isolation("none", 'sandbox.mode is "off"', 'set sandbox.mode = "require" or "auto"')
NOT_PROBED: Final = Isolation("none", "not probed yet")
INSTALL = "install the package bubblewrap, version 0.8 or newer"

Run = Callable[[CommandSpec], Awaitable[CommandResult]]
_found: Isolation | None = None


def known(mode: SandboxMode) -> Isolation:
    """What isolates the commands of that mode, as far as it has been probed. Never waits."""
    return OFF if mode == "off" else _found or NOT_PROBED


async def probed(mode: SandboxMode, run: Run) -> Isolation:
    """As `known`, after a probe when there has been none in this process. `run` isolates without asking."""
    global _found
    if mode != "off" and _found is None:
        _found = await probe(run)
    return known(mode)


async def probe(run: Run) -> Isolation:
    """Tries it out. Takes as long as two commands, PROBE_S at most."""
    if not sys.platform.startswith("linux"):
        return Isolation("none", f"{sys.platform} has no namespaces", "run the sidecar on Linux")
    if bubblewrap.find() is None:
        return Isolation("none", "bubblewrap is not installed", INSTALL)
    with tempfile.TemporaryDirectory(prefix="agentcom-probe-") as folder:
        outside, inside = Path(folder, "outside"), Path(folder, "inside")
        outside.mkdir()
        inside.mkdir()
        Path(outside, "secret").write_text("secret\n")
        spec = CommandSpec(
            argv=("sh", "-c", PROBE),
            cwd=inside,
            home=inside / "home",
            timeout_s=PROBE_S,
            env={"OUTSIDE": str(outside)},
        )
        result = await run(spec)
        is_held = Path(inside, "held").exists() and not Path(outside, "written").exists()
    if result.succeeded and not result.output and is_held:
        return BUBBLEWRAP
    return _failure(result)


def _failure(result: CommandResult) -> Isolation:
    said = " ".join((result.error or result.output.decode("utf-8", "replace")).split())[:REASON_CHARS_MAX]
    if result.outcome is Outcome.EXITED and result.succeeded:
        return Isolation(
            "none", f"bubblewrap does not isolate here: a command {said or 'could not write'}", DOCS
        )
    if result.outcome is Outcome.TIMED_OUT:
        said = f"no answer within {PROBE_S:g} s"
    return Isolation("none", f"bubblewrap does not work here ({said})", remedy_of(said))


def remedy_of(said: str, proc: Path = Path("/proc"), root: Path = Path("/")) -> str:
    """What to do about the words with which bubblewrap failed. `proc` and `root` are this machine's."""
    if re.search(r"unknown option", said, re.IGNORECASE):
        return INSTALL
    if _setting(proc, "user/max_user_namespaces") == "0":
        return "run: sysctl -w user.max_user_namespaces=15000 (and keep it in /etc/sysctl.d)"
    if _setting(proc, "kernel/unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        return "run: sysctl -w kernel.unprivileged_userns_clone=1 (and keep it in /etc/sysctl.d)"
    if any((root / name).exists() for name in (".dockerenv", "run/.containerenv")):
        return (
            "this is a container: start it with --security-opt seccomp=unconfined --security-opt "
            f"apparmor=unconfined --security-opt systempaths=unconfined; see {DOCS}"
        )
    if _setting(proc, "kernel/apparmor_restrict_unprivileged_userns") == "1":
        return f"AppArmor keeps user namespaces from bwrap: give it a profile with `userns,`; see {DOCS}"
    return f"see {DOCS}"


def _setting(proc: Path, name: str) -> str:
    try:
        return (proc / "sys" / name).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
