"""The errors that people and programs see, one class per owner of the mistake.

A `Refused` carries a stable code, a sentence that says what is wrong and what to do, and the path of the
field where there is one. Codes are listed in docs/errors.md. A broken invariant of our own is an
AssertionError and is never caught.
"""

from __future__ import annotations

from typing import Final

# What decoders raise for bytes that are not what they should be: bad JSON, MessagePack, TOML and text are
# ValueErrors, a nesting without end is a RecursionError.
UNREADABLE: Final = (ValueError, RecursionError)
# What whoever is cut off may do, told with the end of a session and with every answer after it.
JOIN_AGAIN: Final = "join again with a new code: agentcom join CODE"
NEW_LINK: Final = "open a new link from `agentcom token link`"
NEW_TOKEN: Final = f"ask for a new one, or {NEW_LINK}"
REPLACED: Final = "another process of this key has connected; stop one of the two, or give each home a key of its own"
NOT_ADMITTED: Final = f"this key is not enrolled here, or was revoked; {JOIN_AGAIN}"


class AgentComError(Exception):
    """Base of every error that AgentCom raises on purpose."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class Refused(AgentComError):
    """The hub understood the request and will not do it; nothing was changed.

    `field` is the path in the request (`tasks[0].lane`); `retry_after_s` is set where waiting helps.
    """

    code = "refused"

    def __init__(
        self, code: str, message: str, *, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.field = field
        self.retry_after_s = retry_after_s


class NotFound(Refused):
    """There is no such thing; the message names it."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__("not_found", message, field=field)


class HubUnreachable(AgentComError):
    """No answer from the hub within the time; whether the request was carried out is unknown."""

    code = "hub_unreachable"


class ConfigError(AgentComError):
    """A setting, a home directory or a key file cannot be used; the message names the remedy."""

    code = "config"


class ProtocolViolation(AgentComError):
    """The peer sent something that the protocol does not allow."""

    code = "protocol"


class StoreError(AgentComError):
    """The store could not do an operation; after one, nothing of the batch is visible."""

    code = "store"


class StoreFull(StoreError):
    """No room: the map or the disk is full. Reads and deletes still work."""

    code = "storage_full"


class StoreDamaged(StoreError):
    """A record does not match its checksum; the message names the database and the key."""

    code = "store_damaged"


class StoreLocked(StoreError):
    """Another process has the store open; the message names its process id."""

    code = "store_locked"


class StoreVersion(StoreError):
    """The store was written by a newer version than this program. `found` is its format, where that is known."""

    code = "store_version"
    found: int = 0
