"""Bounded types of single fields, and the words of the wire: what the records of model.py are made of."""

from __future__ import annotations

from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from agentcom import limits

Name = Annotated[
    str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._'-]*$(?!\n)")
]
Label = Annotated[str, Meta(min_length=1, max_length=limits.LABEL_CHARS_MAX)]
Word = Annotated[str, Meta(min_length=1, max_length=limits.WORD_CHARS_MAX)]
Url = Annotated[str, Meta(min_length=1, max_length=limits.URL_CHARS_MAX)]
Reason = Annotated[str, Meta(max_length=limits.REASON_CHARS_MAX)]
TaskId = Annotated[int, Meta(ge=1, le=2**62)]
Reference = Annotated[int, Meta(ge=-limits.BATCH_TASKS_MAX, le=2**62)]
AttemptNo = Annotated[int, Meta(ge=0, le=2**31)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
CheckName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.-]{0,39}$(?!\n)")]  # of a kind: a CheckKind, or a plugin's
Moment = Annotated[str, Meta(max_length=40)]  # RFC 3339 with a zone


class Term(StrEnum):
    """Words of the wire. Hashed as the text that they are, in C: Enum's own hash is a call of Python, and a task
    is looked up by its state and lane some thirty times."""

    __hash__ = str.__hash__
    if not TYPE_CHECKING:
        value = property(attrgetter("_value_"))  # Enum's own is a call of Python, too
