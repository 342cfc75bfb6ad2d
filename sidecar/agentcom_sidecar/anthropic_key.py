"""The key of this host for Claude: where it is found, and whether it can be used.

Apart from the backend, because importing the SDK takes seconds and a host says what it offers before that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from agentcom import redaction
from agentcom.config import Settings, read_private
from agentcom.errors import ConfigError

KEY_VARIABLE = "ANTHROPIC_API_KEY"


def find_key(settings: Settings, environment: Mapping[str, str] | None = None) -> str | None:
    """The key of this host, or None where it has none.

    Raises ConfigError when the key, or the file that is named for it, cannot be used: missing, empty, readable
    by others.
    """
    environ = os.environ if environment is None else environment
    if key := environ.get(KEY_VARIABLE, "").strip():
        return _checked(key, KEY_VARIABLE)
    if not settings.anthropic.key_file:
        return None
    path = Path(settings.anthropic.key_file).expanduser()
    try:
        key = read_private(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"anthropic.key_file {path}: {error}") from error
    if not key:
        raise ConfigError(f"anthropic.key_file {path} is empty")
    return _checked(key, f"anthropic.key_file {path}")


def _checked(key: str, where: str) -> str:
    """A key that cannot stand in a header would be refused further down, by an error that shows it."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} holds more than a key: one line of ASCII without spaces is needed")
    redaction.learn(key)
    return key
