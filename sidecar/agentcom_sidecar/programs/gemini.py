"""Gemini CLI: `gemini -p` with `stream-json`: one JSON object a line, the last of type `result`.

Errors may also come as an object of another shape, `{"error": {...}}`; the whole answer as `response`. Both are read.
"""

from __future__ import annotations

from typing import Any

from agentcom.model import FailureClass
from agentcom_sidecar.programs.base import Adapter, Heard, short, table, usage_of, word


def read(event: dict[str, Any], heard: Heard) -> str:
    heard.session = word(event.get("session_id")) or heard.session
    heard.model = word(event.get("model")) or heard.model
    match event.get("type"):
        case "message" if event.get("role") == "assistant":
            content = event.get("content")
            if event.get("delta") is True and isinstance(content, str):
                content = heard.text + content
            heard.say(content)
            return ""
        case "tool_use":
            return f"[{word(event.get('tool_name'), 64)}] {short(event.get('parameters'))}"
        case "result":
            heard.is_over = True
            _counted(table(event.get("stats")), heard)
        case "error":
            heard.notices.append(word(event.get("message"), 300))
    _counted_by_model(event, heard)
    error = table(event.get("error"))
    if error:
        _failed(error, heard)
    elif "response" in event:
        heard.say(event.get("response"))
        heard.is_over = True
    return ""


def _counted(stats: dict[str, Any], heard: Heard) -> None:
    whole = usage_of(stats.get("input_tokens"), stats.get("cached"), stats.get("output_tokens"))
    heard.usage += usage_of(
        max(0, whole.fresh - whole.cache_read), min(whole.cache_read, whole.fresh), whole.out
    )


def _counted_by_model(event: dict[str, Any], heard: Heard) -> None:
    for name, each in table(table(event.get("stats")).get("models")).items():
        tokens = table(table(each).get("tokens"))
        whole = usage_of(tokens.get("prompt"), tokens.get("cached"), tokens.get("candidates"))
        thoughts = usage_of(0, 0, tokens.get("thoughts")).out
        fresh = max(0, whole.fresh - whole.cache_read)
        heard.usage += usage_of(fresh, min(whole.cache_read, whole.fresh), whole.out + thoughts)
        heard.model = heard.model or word(name)


def _failed(error: dict[str, Any], heard: Heard) -> None:
    said, code = word(error.get("message"), 2000), error.get("code")
    if code in (41, 401, 403):
        heard.fail(FailureClass.configuration, "program_auth_refused", said)
    elif code == 429:
        heard.fail(FailureClass.usage_window, "rate_limited", said)
    elif code == 53:
        heard.notices.append("stopped: it has used its turns")
        heard.stop_reason = "rounds"
    elif code == 42:
        heard.fail(FailureClass.task_error, "program_failed", said)
    else:
        heard.fail(FailureClass.infrastructure, "endpoint_error", said)


ADAPTER = Adapter(
    name="gemini",
    install="install Gemini CLI: npm install -g @google/gemini-cli",
    command=("gemini", "-p", "{prompt}", "-o", "stream-json", "--approval-mode", "yolo", "--skip-trust"),
    model=("-m", "{model}"),
    read=read,
)
