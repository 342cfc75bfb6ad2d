"""Which forge serves a repository, as `git.forges` of this host says: where its API is, and with which token.

Rules it keeps:
* The token goes to two addresses only: the API that stands beside it, and the repositories below its prefix when git
  fetches or pushes over https. A prefix without a port means the usual one: git gives it to no other.
* git reads it from the file itself, through a helper for that one address: it stands in no argument, no variable and no
  configuration. The user's own credentials for that address come first.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from agentcom.config import read_private
from agentcom.errors import ConfigError
from agentcom_sidecar.forges.base import ForgeError
from agentcom_sidecar.forges.gitea import Gitea
from agentcom_sidecar.forges.github import GitHub
from agentcom_sidecar.forges.gitlab import GitLab

KINDS: dict[str, type[GitHub | GitLab]] = {"github": GitHub, "gitea": Gitea, "gitlab": GitLab}
LOGINS = {"github": "x-access-token", "gitea": "x-access-token", "gitlab": "oauth2"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORTS = {"https": 443, "ssh": 22}


@dataclass(frozen=True, slots=True)
class Place:
    """One repository on one forge. `is_exact`: its prefix names the very host and port of the repository's address."""

    kind: str
    api: str
    token_file: Path
    repository: str
    is_exact: bool = True

    def token(self) -> str:
        """Raises ForgeError for one that cannot be used."""
        try:
            token = read_private(self.token_file).decode("ascii").strip()
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            raise ForgeError(f"the token in {self.token_file} cannot be read: {error}", code="forge_denied") from error
        if not token or not token.isprintable() or " " in token:
            raise ForgeError(f"{self.token_file} holds no token: one line of ASCII", code="forge_denied")
        return token

    def open(self) -> GitHub | GitLab:
        """Raises ForgeError for a token that cannot be used."""
        return KINDS[self.kind](self.api, self.repository, self.token())


def place_of(url: str, entries: tuple[str, ...]) -> Place | None:
    """Where pull requests for `url` go, by entries `PREFIX KIND API TOKEN_FILE`; None where none fits."""
    for is_exact, address in _addresses(url):
        for entry in entries:
            prefix, kind, api, token_file = entry.split(" ", 3)
            inside = address.removeprefix(prefix.rstrip("/") + "/")
            if inside == address:
                continue
            parts = urlsplit(api)
            if parts.scheme != "https" and parts.hostname not in LOOPBACK:
                raise ForgeError(f"git.forges: {api}: a token is sent by https only", code="forge_refused")
            repository = inside.removesuffix(".git").strip("/")
            return Place(kind, api, Path(token_file).expanduser(), repository, is_exact)
    return None


def _addresses(url: str) -> list[tuple[bool, str]]:
    """`url` as a prefix may name it, each with whether that leaves nothing open."""
    if "://" not in url:
        return [(True, url if url.startswith("/") else url.rpartition("@")[2].replace(":", "/", 1))]
    parts = urlsplit(url)
    host, port = parts.hostname or "", _port_of(parts)
    if port is None:
        return [(True, f"{host}{parts.path}")]
    return [(True, f"{host}:{port}{parts.path}"), (False, f"{host}{parts.path}")]


def _port_of(parts: SplitResult) -> int | None:
    """The port, where it is not the usual one."""
    return None if parts.port == PORTS.get(parts.scheme) else parts.port


def git_options(url: str, entries: tuple[str, ...]) -> tuple[str, ...]:
    """Options with which git finds the token of the forge that serves `url`; none where there is none, or it cannot be
    read: a repository may be anybody's to read, and of one that is not git says so."""
    parts = urlsplit(url)
    if parts.scheme != "https":
        return ()
    try:
        place = place_of(url, entries)
        if place is None or not place.is_exact:
            return ()
        place.token()
    except ForgeError:
        return ()
    port = _port_of(parts)
    address = f"https://{parts.hostname}{f':{port}' if port else ''}"
    file = shlex.quote(str(place.token_file.absolute()))
    helper = (
        f'!f() {{ test "$1" = get && printf "username={LOGINS[place.kind]}\\npassword=%s\\n" "$(cat {file})"; }}; f'
    )
    return ("-c", f"credential.{address}.helper={helper}")
