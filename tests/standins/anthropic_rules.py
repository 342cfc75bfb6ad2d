"""What the Messages API refuses with 400: the shape of a request, the order of tool calls and results.

The rule that matters most to a tool loop: each tool_use of an assistant message is answered by a
tool_result in the very next user message, all of them there, before any other block.
"""

from __future__ import annotations

from typing import Any

from tests.standins.serving import JsonObject

ROLES = ("user", "assistant", "system")


def check_messages(body: JsonObject, *, needs_max_tokens: bool) -> None:
    """ValueError in the API's manner (`field: what is wrong`) for a request that it would refuse."""
    if not isinstance(body.get("model"), str):
        raise ValueError("model: Field required")
    max_tokens = body.get("max_tokens")
    if needs_max_tokens and (not isinstance(max_tokens, int) or max_tokens < 1):
        raise ValueError("max_tokens: Input should be greater than or equal to 1")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: at least one message is required")
    for index, message in enumerate(messages):
        _check_message(index, message)
    _check_tools(body.get("tools") or [])
    _check_tool_results(messages)


def _check_message(index: int, message: Any) -> None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise ValueError(f"messages.{index}.role: Input should be one of {', '.join(ROLES)}")
    content = message.get("content")
    if content == "" or (isinstance(content, list) and not content and message["role"] == "user"):
        raise ValueError(f"messages.{index}: content must be non-empty")
    if not isinstance(content, (str, list)):
        raise ValueError(f"messages.{index}.content: Input should be a valid string or list")
    for block in _blocks(message):
        if block.get("type") == "text" and not block.get("text"):
            raise ValueError(f"messages.{index}: text content blocks must be non-empty")


def _check_tools(tools: list[Any]) -> None:
    for index, tool in enumerate(tools):
        schema = tool.get("input_schema")
        if "type" in tool and tool["type"] != "custom":
            continue  # a tool that the server itself runs
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise ValueError(f"tools.{index}.input_schema.type: Input should be 'object'")
        if not isinstance(tool.get("name"), str):
            raise ValueError(f"tools.{index}.name: Field required")


def _check_tool_results(messages: list[JsonObject]) -> None:
    called: list[str] = []
    for index, message in enumerate(messages):
        results = [block["tool_use_id"] for block in _blocks(message) if block.get("type") == "tool_result"]
        if unasked := sorted(set(results) - set(called)):
            raise ValueError(f"messages.{index}: unexpected tool_use_id in tool_result blocks: {unasked[0]}")
        if missing := sorted(set(called) - set(results)):
            raise ValueError(
                f"messages.{index}: tool_use ids were found without tool_result blocks "
                f"immediately after: {missing[0]}"
            )
        if any(block.get("type") != "tool_result" for block in _blocks(message)[: len(results)]):
            raise ValueError(f"messages.{index}: tool_result blocks must come first")
        called = [block["id"] for block in _blocks(message) if block.get("type") == "tool_use"]
    if called:
        raise ValueError(f"messages: the last message leaves tool_use {called[0]} without its result")


def _blocks(message: JsonObject) -> list[JsonObject]:
    content = message["content"]
    return content if isinstance(content, list) else []
