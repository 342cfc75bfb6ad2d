"""Tools for a model whose server takes none: they are told in the system prompt, and called as text.

Some servers refuse `tools` outright ("does not support tools", or one that was started without a parser for calls). The
loop then goes on with this, once, for the rest of the conversation; text_calls.py reads the calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from agentcom_sidecar.backends.base import Conversation, ToolSpec

REFUSED: Final = "tools_unsupported"  # the code of a server that takes no tools
HEAD: Final = (
    "To use a tool, answer with <tool_call>, one JSON object with its name and its arguments, and </tool_call>, as "
    '<tool_call>{"name": "read_file", "arguments": {"path": "README"}}</tool_call>, and stop there: what it gave comes '
    "in the next message. There is no other way to call one. The tools, each with the JSON schema of its arguments:"
)


def is_told(conversation: Conversation) -> bool:
    """Whether the tools stand in its system prompt, so that none are sent beside it."""
    return HEAD in conversation.system


def tell(conversation: Conversation, specs: Iterable[ToolSpec]) -> None:
    """From here on the conversation has its tools in text."""
    lines = (f"{one.name}: {one.description} {json.dumps(one.parameters, separators=(',', ':'))}" for one in specs)
    conversation.system = "\n".join((conversation.system, "", HEAD, *lines))
