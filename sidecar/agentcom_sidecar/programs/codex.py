"""Codex: `codex exec --json`, one JSON object a line. It tells tokens, no cost, and no model.

Its own sandbox is left to ours, which already isolates it (nested namespaces are not there). With the network down it
reconnects for ever: the watchdog ends that.
"""

from __future__ import annotations

from typing import Any

from agentcom.model import FailureClass
from agentcom_sidecar.programs.base import Adapter, Heard, short, table, usage_of, word

_OPTIONS = (
    "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
)  # fmt: skip


def read(event: dict[str, Any], heard: Heard) -> str:
    match event.get("type"):
        case "thread.started":
            heard.session = word(event.get("thread_id")) or heard.session
        case "item.completed":
            return _item(table(event.get("item")), heard)
        case "turn.completed":
            usage = table(event.get("usage"))
            whole = usage_of(
                usage.get("input_tokens"), usage.get("cached_input_tokens"), usage.get("output_tokens")
            )
            # Its input counts what came from a cache as well.
            fresh = max(0, whole.fresh - whole.cache_read)
            heard.usage += usage_of(fresh, min(whole.cache_read, whole.fresh), whole.out)
            heard.is_over = True
        case "turn.failed":
            _failed(table(event.get("error")).get("message"), heard)
        case "error":
            # A notice may come as one and the turn go on; what counts is how the turn ends.
            heard.notices.append(word(event.get("message"), 300))
    return ""


def _item(item: dict[str, Any], heard: Heard) -> str:
    kind = word(item.get("type") or item.get("item_type"), 40)
    if kind in ("agent_message", "assistant_message"):
        heard.say(item.get("text"))
        return word(item.get("text"), 2000)
    if kind == "error":
        heard.notices.append(word(item.get("message"), 300))
        return ""
    shown = item.get("command") or item.get("changes") or item.get("query") or item.get("tool")
    return f"[{kind}] {short(shown)}" if shown else ""


def _failed(message: object, heard: Heard) -> None:
    said = word(message, 2000)
    if "401" in said or "403" in said:
        heard.fail(FailureClass.configuration, "program_auth_refused", said)
    elif "429" in said or "usage limit" in said.lower():
        heard.fail(FailureClass.usage_window, "rate_limited", said)
    else:
        heard.fail(FailureClass.infrastructure, "endpoint_error", said)


ADAPTER = Adapter(
    name="codex",
    install="install Codex: npm install -g @openai/codex",
    command=("codex", "exec", *_OPTIONS, "{prompt}"),
    resume=("codex", "exec", "resume", *_OPTIONS, "{session}", "{prompt}"),
    lead=2,
    model=("--model", "{model}"),
    read=read,
)
