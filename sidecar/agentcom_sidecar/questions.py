"""What this host keeps of attempts that ended with a question: the conversation, and where the worktree lies.

One file per attempt, on disk before the hub hears of the question. It goes when an attempt has gone on with it, or when
the hub says that the question is over; the worktree then has the keep time of any other. A file that cannot be read,
or whose worktree is gone, lets the task begin anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from agentcom.config import write_private
from agentcom.errors import UNREADABLE
from agentcom.model import CheckSpec, CheckStatus
from agentcom_sidecar.backends.base import Conversation, ToolAnswer, Turn
from agentcom_sidecar.outbox import Key, set_aside

QUESTION = "question"  # the code of an attempt's end, with the question as its message
_NAME = re.compile(r"^(\d{1,19})-(\d{1,10})\.question$")


class Kept(Struct, frozen=True, kw_only=True):
    """`directory` is the name of the worktree, `before` what `checks` said on its base, `backend` whose form the
    answers in `messages` have."""

    directory: str
    branch: str
    base_commit: str
    base_branch: str
    backend: str
    system: str
    messages: list[str | Turn | tuple[ToolAnswer, ...]]
    before: tuple[CheckStatus, ...] = ()
    checks: tuple[CheckSpec, ...] = ()

    def said_before(self, checks: Sequence[CheckSpec]) -> tuple[CheckStatus, ...]:
        """What these said on the base; nothing where a repository's checks are others by now."""
        return self.before if self.checks == tuple(checks) else ()

    def conversation(self, backend: str) -> Conversation | None:
        """The conversation as it stood; None for a model of another kind of server, which could not read it."""
        return Conversation(self.system, list(self.messages)) if self.backend == backend else None


class Questions:
    """The files of `folder`. Everything here blocks on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keys(self) -> list[Key]:
        named = (_NAME.match(path.name) for path in (self.folder.iterdir() if self.folder.is_dir() else ()))
        return sorted((int(match[1]), int(match[2])) for match in named if match)

    def put(self, key: Key, kept: Kept) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._path(key), msgspec.json.encode(kept))

    def get(self, key: Key) -> Kept | None:
        path = self._path(key)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Kept)
        except FileNotFoundError:
            return None
        except (*UNREADABLE, OSError) as error:
            set_aside(path, str(error))
            return None

    def remove(self, key: Key) -> bool:
        """Whether there was one."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, key: Key) -> Path:
        return self.folder / f"{key[0]}-{key[1]}.question"


def questions_of(sidecar_home: Path) -> Questions:
    return Questions(sidecar_home / "questions")
