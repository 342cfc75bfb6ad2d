"""How the sidecar calls git: a fixed environment, addresses checked, git's words turned into our errors.

Rules it keeps:
* Every git command runs through the sandbox door, so its tree dies with the sidecar, and it is isolated like
  any other, without the network but for a fetch. Not isolated is a fetch with this user's own credentials (and
  of a local path), which may be anywhere in this user's home: its tree is nobody else's.
* Hooks, fsmonitor, filters and credential helpers of a repository cannot run: options given here win over
  its configuration, and the system's and the user's configuration are not read. The one exception is a fetch
  for a task of `operate` or `admin`, which may use this user's own credentials.
* What a task names (URL, branch) is checked before git sees it: never an option, never another protocol.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from agentcom.model import FailureClass, Role, TaskError
from agentcom_sidecar.command import CommandLimits
from agentcom_sidecar.sandbox import (
    CommandResult,
    CommandSpec,
    Outcome,
    ProcessMark,
    SandboxMode,
    SandboxUnavailable,
    View,
    run_command,
)

GIT_OUTPUT_BYTES_MAX = 1024 * 1024
LOCAL_GIT_S = 120.0  # a git command that touches no network, on a slow disk
CUT = " bytes left out ...]"  # stands in what was longer than GIT_OUTPUT_BYTES_MAX
MESSAGE_CHARS = 600  # of git's own words in an error
TRUSTED = frozenset({Role.operate, Role.admin})

_OPTIONS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.quotePath=false",
    "credential.interactive=false",
    "commit.gpgSign=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.unpackLimit=1",
    "fetch.recurseSubmodules=no",
    "advice.addEmbeddedRepo=false",
    "advice.pushUpdateRejected=false",
    "diff.external=",
    "init.defaultBranch=main",
)
_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS": "/bin/false",
    "GIT_EDITOR": "/bin/false",
    "GIT_PAGER": "cat",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_AUTHOR_NAME": "AgentCom",
    "GIT_AUTHOR_EMAIL": "agentcom@localhost",
    "GIT_COMMITTER_NAME": "AgentCom",
    "GIT_COMMITTER_EMAIL": "agentcom@localhost",
}
_NETWORK_VARIABLES = (
    "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY",
    "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
_CREDENTIAL_VARIABLES = ("SSH_AUTH_SOCK", "XDG_CONFIG_HOME", "GNUPGHOME")
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=20"
_SSH_WITHOUT_KEYS = (
    f"{_SSH} -F /dev/null -o IdentityAgent=none -o IdentityFile=/dev/null -o IdentitiesOnly=yes"
)
_SCP_LIKE = re.compile(
    r"^(?:[A-Za-z0-9._~-]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*):(?!/{2})(.+)$"
)

# In this order: ssh says "could not read from remote repository" for a refused connection too.
_WORDS: tuple[tuple[str, FailureClass, str], ...] = (
    (
        r"could not resolve host|temporary failure in name resolution"
        r"|connection (refused|reset|timed out|closed)"
        r"|operation timed out|failed to connect|network is unreachable|no route to host|early eof"
        r"|returned error: (5\d\d|429)|rpc failed|server certificate|ssl_error|gnutls",
        FailureClass.infrastructure,
        "repository_unreachable",
    ),
    (
        r"authentication failed|permission denied|access denied|could not read (username|password)"
        r"|host key verification failed|returned error: (401|403)"
        r"|terminal prompts disabled|dubious ownership",
        FailureClass.configuration,
        "repository_denied",
    ),
    (
        r"repository .*not found|does not exist|does not appear to be a git repository"
        r"|returned error: (404|410)"
        r"|could not read from remote repository|no such file or directory|not a git repository",
        FailureClass.configuration,
        "repository_missing",
    ),
    (r"no space left|disk quota", FailureClass.infrastructure, "disk_full"),
)  # fmt: skip
_REMEDIES = {
    "repository_unreachable": "if that lasts, look at the network between this host and there",
    "repository_denied": "give this host's user credentials that may read it, then release the task",
    "repository_missing": "check the address, and that this host's credentials may see it, then release the task",
    "repository_timeout": "raise sidecar.fetch_s on this host, or look at the network",
    "disk_full": "make room on this host: agentcom git gc",
}
LOCAL_REMEDY = (
    "put a clone there, then release the task; or submit it again with --needs host:NAME for a host that has it, or "
    "with a URL that every host can reach"
)


class WorkspaceError(Exception):
    """There is no workspace, or its state could not be recorded; `failure_class` says whose fault it is. `said` is the
    message without what to do."""

    def __init__(self, failure_class: FailureClass, code: str, said: str, remedy: str = "") -> None:
        self.message = f"{said}; {remedy}" if remedy else said
        super().__init__(self.message)
        self.failure_class, self.code, self.said = failure_class, code, said

    def as_error(self) -> TaskError:
        return TaskError(failure_class=self.failure_class, code=self.code, message=self.message[:3900])


def configuration(code: str, message: str) -> WorkspaceError:
    return WorkspaceError(FailureClass.configuration, code, message)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A repository that may be fetched: its URL as git gets it, and the one protocol that it needs. `options` are git's
    for this remote alone: where it finds this host's token for it."""

    url: str
    protocol: str
    is_trusted: bool
    options: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The URL without a user name or password."""
        parts = urlsplit(self.url)
        return (
            self.url
            if "@" not in parts.netloc
            else self.url.replace(parts.netloc, parts.netloc.rsplit("@")[-1])
        )


async def allowed_remote(url: str, role: Role, named: tuple[str, ...] = ()) -> Remote:
    """`url` if a task of `role` may name it; else WorkspaceError (configuration) that says what may.

    https and ssh for everyone; a local path, `file:` or a private address for `operate` and `admin` only, or where
    this host's policy has named it by a pattern; link-local, multicast and metadata addresses for nobody.
    """
    is_trusted = role in TRUSTED
    is_named = any(fnmatchcase(url, pattern) for pattern in named if pattern.strip("*"))
    protocol, host, port = _parts_of(url)
    if protocol == "file":
        if not is_trusted and not is_named:
            raise configuration(
                "repository_refused",
                f"{url}: a local repository may only be named by operate or admin; use https or ssh",
            )
        return Remote(url=_local_path(url), protocol="file", is_trusted=True)
    await _check_addresses(host, port, is_trusted or is_named)
    return Remote(url=url, protocol=protocol, is_trusted=is_trusted)


def _parts_of(url: str) -> tuple[str, str, int]:
    """(protocol, host, port) of `url`; refuses what could be an option, a helper or a control character."""
    if (
        not url
        or url.startswith("-")
        or "::" in url.split("/", 1)[0].split("[", 1)[0]
        or not url.isprintable()
    ):
        raise configuration("repository_refused", f"{url!r} is not the address of a repository")
    if "://" in url:
        parts = urlsplit(url)
        try:
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise configuration("repository_refused", f"{url}: {error}") from error
        if parts.scheme == "file":
            return "file", "", 0
        if parts.scheme not in ("https", "ssh") or not host or host.startswith("-"):
            raise configuration(
                "repository_refused",
                f"{url}: only https:// and ssh:// repositories are fetched (and local paths)",
            )
        return parts.scheme, host, port or (443 if parts.scheme == "https" else 22)
    match = _SCP_LIKE.match(url)
    if match and not url.startswith(("/", ".", "~")) and not match.group(2).startswith("-"):
        return "ssh", match.group(1).strip("[]"), 22
    if match is None or url.startswith(("/", ".", "~")):
        return "file", "", 0
    raise configuration("repository_refused", f"{url!r} is not the address of a repository")


def _local_path(url: str) -> str:
    path = Path(url.removeprefix("file://").removeprefix("localhost")).expanduser()
    if not path.is_absolute():
        said = "a local repository needs an absolute path: submit the task again with one"
        raise configuration("repository_missing", f"{url}: {said}")
    if not path.exists():
        said = f"no such directory on this host; {LOCAL_REMEDY}"
        raise configuration("repository_missing", f"{url}: {said}")
    return str(path)


async def _check_addresses(host: str, port: int, is_trusted: bool) -> None:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY"):
            return  # the proxy resolves names, not this host
        if is_trusted:
            return  # a name of this user's ssh configuration, or git says what is wrong with it
        raise WorkspaceError(
            FailureClass.infrastructure,
            "repository_unreachable",
            f"{host} cannot be resolved: {error.strerror}",
        ) from error
    for *_, address in found:
        ip = ipaddress.ip_address(str(address[0]).split("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) == "fd00:ec2::254":
            raise configuration(
                "repository_refused", f"{host} is {ip}: link-local and metadata addresses are refused"
            )
        if not is_trusted and not ip.is_global:
            raise configuration(
                "repository_refused",
                f"{host} is {ip}: a private address may only be named by operate or admin",
            )


def check_branch(name: str) -> str:
    """`name` if it can be a branch and nothing else to git; else WorkspaceError (configuration)."""
    is_bad = (
        name.startswith(("-", "/", "."))
        or name.endswith(("/", ".", ".lock"))
        or any(each in name for each in ("..", "@{", "//", "/.", "\\"))
        or any(each in " ~^:?*[" or not each.isprintable() for each in name)
    )
    if is_bad:
        raise configuration("branch_refused", f"{name!r} cannot be the name of a branch")
    return name


@dataclass(frozen=True, kw_only=True)
class Git:
    """Runs git. `home` is a private HOME; `on_process` gets the mark of each command before it starts. `view` is
    what git sees besides its directory, where it is isolated; `nice` how far behind other commands it stands back."""

    home: Path
    mode: SandboxMode = "auto"
    view: View = field(default_factory=View)
    grace_s: float = 2.0
    file_bytes_max: int | None = None
    nice: int = 0
    on_process: Callable[[ProcessMark], None] | None = None
    on_output: Callable[[bytes], None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    async def run(self, *arguments: str, cwd: Path, timeout_s: float = LOCAL_GIT_S) -> str:
        """The output of one git command; WorkspaceError when it fails or takes longer than `timeout_s`."""
        result = await self._call(arguments, cwd, timeout_s, {}, (), self.view, self.mode)
        return _text_or_error(result, arguments, timeout_s)

    async def run_remote(self, remote: Remote, *arguments: str, cwd: Path, timeout_s: float) -> str:
        """As `run`, for a command that talks to `remote`, by its protocol only."""
        follows = "initial" if remote.is_trusted else "false"
        options = ("-c", f"http.followRedirects={follows}", *remote.options)
        variables = _network_environment(remote)
        named = (variables.get(name, "") for name in ("GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR"))
        certificates = tuple(Path(each) for each in named if os.path.isabs(each))
        view = View(readable=(*self.view.readable, *certificates), network=True)
        mode: SandboxMode = "off" if remote.is_trusted else self.mode
        result = await self._call(arguments, cwd, timeout_s, variables, options, view, mode)
        return _text_or_error(result, arguments, timeout_s, remote)

    async def _call(
        self,
        arguments: tuple[str, ...],
        cwd: Path,
        timeout_s: float,
        extra: Mapping[str, str],
        options: tuple[str, ...],
        view: View,
        mode: SandboxMode,
    ) -> CommandResult:
        fixed = [part for option in _OPTIONS for part in ("-c", option)]
        variables = {**_ENVIRONMENT, **self.environment, **extra}
        spec = CommandSpec(
            argv=(*(("nice", "-n", str(self.nice)) if self.nice else ()), "git", *fixed, *options, *arguments),
            cwd=cwd,
            home=self.home,
            timeout_s=timeout_s,
            env={name: value for name, value in variables.items() if value},
            output_max=GIT_OUTPUT_BYTES_MAX,
            grace_s=self.grace_s,
            limits=CommandLimits(file_bytes_max=self.file_bytes_max) if self.file_bytes_max else CommandLimits(),
            mode=mode,
            view=view,
        )
        try:
            return await run_command(spec, self.on_output, on_start=self.on_process)
        except SandboxUnavailable as error:
            raise configuration(error.code, str(error)) from error


def _network_environment(remote: Remote) -> dict[str, str]:
    allowed = {"GIT_ALLOW_PROTOCOL": remote.protocol}
    names: tuple[str, ...] = _NETWORK_VARIABLES
    if not remote.is_trusted:
        allowed["GIT_SSH_COMMAND"] = _SSH_WITHOUT_KEYS
    elif remote.protocol != "file":
        # This user's own task on this user's own machine: the credentials that git has here may serve it.
        names = (*names, *_CREDENTIAL_VARIABLES)
        allowed = {"GIT_ALLOW_PROTOCOL": "https:ssh", "GIT_SSH_COMMAND": _SSH, "HOME": str(Path.home())}
        allowed |= {"GIT_CONFIG_NOSYSTEM": "", "GIT_CONFIG_GLOBAL": ""}  # empty: not set at all
    return allowed | {name: os.environ[name] for name in names if name in os.environ}


def _text_or_error(
    result: CommandResult, arguments: tuple[str, ...], timeout_s: float, remote: Remote | None = None
) -> str:
    text = result.output.decode("utf-8", "replace")
    if result.succeeded:
        return text
    about = f"{remote.shown}: " if remote else ""
    what = f"{about}git {next(each for each in arguments if not each.startswith('-'))}"
    if result.outcome is Outcome.TIMED_OUT:
        code = "repository_timeout" if remote else "git_timeout"
        said = f"{what} took longer than {timeout_s:g} s"
        raise WorkspaceError(FailureClass.infrastructure, code, said, _REMEDIES.get(code, ""))
    if result.outcome is Outcome.FAILED_TO_START:
        raise WorkspaceError(
            FailureClass.infrastructure, "git_missing", f"git cannot be started: {result.error}"
        )
    if remote:
        text = text.replace(remote.url, remote.shown)
    shown = " ".join(text.split())[-MESSAGE_CHARS:]
    for pattern, failure_class, code in _WORDS if remote else _WORDS[-1:]:
        if re.search(pattern, text, re.IGNORECASE):
            raise WorkspaceError(failure_class, code, f"{what}: {shown}", _REMEDIES.get(code, ""))
    raise WorkspaceError(
        FailureClass.infrastructure, "git_failed", f"{what} ended with {result.exit_code}: {shown}"
    )
