"""Keys of endpoints that ask for one: read from 0600 files that this machine's own settings name, beside the URL.

A key never leaves the machine whose settings name it but to that URL: the hub knows neither key nor file of a host,
and a URL that the hub names gets a key only where the host's own settings say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentcom.config import read_private
from agentcom.errors import ConfigError


def key_for(url: str, key_files: Sequence[str]) -> str:
    """The key for `url`, or nothing where no entry (`URL=PATH`) names it. ConfigError for a file that cannot be
    used: missing, empty, readable by others."""
    wanted = _plain(url)
    for entry in key_files:
        named, _, path = entry.rpartition("=")
        if named and _plain(named) == wanted:
            return _read(Path(path).expanduser())
    return ""


def _plain(url: str) -> str:
    return url.strip().rstrip("/").replace("://localhost", "://127.0.0.1")


def _read(path: Path) -> str:
    try:
        key = read_private(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"endpoints.key_files {path}: {error}") from error
    if not key or not key.isprintable() or " " in key:
        raise ConfigError(f"endpoints.key_files {path} holds no key: one line of ASCII without spaces")
    return key
