"""Claude Code: `claude -p`, one JSON object a line, the last of type `result`.

An API failure has subtype "success" and `is_error` true, so `is_error` and the exit code decide. A 401 or a missing
login is this host's configuration; 429 is a usage window; 5xx and 529 are the service's.
"""

from __future__ import annotations

from typing import Any

from agentcom.model import FailureClass
from agentcom_sidecar.programs.base import Adapter, Heard, dollars, short, table, usage_of, word

PACKAGE = "install Claude Code: npm install -g @anthropic-ai/claude-code"
_OPTIONS = (
    "--output-format", "stream-json", "--verbose", "--permission-mode", "bypassPermissions",
)  # fmt: skip


def read(event: dict[str, Any], heard: Heard) -> str:
    heard.session = word(event.get("session_id")) or heard.session
    match event.get("type"):
        case "system":
            heard.model = word(event.get("model")) or heard.model
            return ""
        case "assistant":
            return _said(table(event.get("message")), heard)
        case "result":
            return _ended(event, heard)
        case _:
            return ""


def _said(message: dict[str, Any], heard: Heard) -> str:
    lines = []
    content = message.get("content")
    for part in content if isinstance(content, list) else []:
        piece = table(part)
        if piece.get("type") == "text":
            heard.say(piece.get("text"))
            lines.append(word(piece.get("text"), 2000))
        elif piece.get("type") == "tool_use":
            lines.append(f"[{word(piece.get('name'), 64)}] {short(piece.get('input'))}")
    return "\n".join(line for line in lines if line)


def _ended(event: dict[str, Any], heard: Heard) -> str:
    heard.is_over = True
    usage = table(event.get("usage"))
    heard.usage = usage_of(
        usage.get("input_tokens"),
        usage.get("cache_read_input_tokens"),
        usage.get("output_tokens"),
        usage.get("cache_creation_input_tokens"),
    )
    heard.cost_usd = dollars(event.get("total_cost_usd"))
    heard.stop_reason = word(event.get("stop_reason"), 64) or word(event.get("subtype"), 64) or None
    models = table(event.get("modelUsage"))
    if not heard.model and models:
        heard.model = word(next(iter(models)))
    if not event.get("is_error"):
        heard.say(event.get("result"))
        return ""
    status, said = event.get("api_error_status"), event.get("result") or event.get("subtype")
    if status in (401, 403) or (status is None and "login" in str(said).lower()):
        heard.fail(FailureClass.configuration, "program_auth_refused", said)
    elif status == 404:
        heard.fail(FailureClass.configuration, "model_unknown", said)
    elif status == 429:
        heard.fail(FailureClass.usage_window, "rate_limited", said)
    elif event.get("subtype") == "error_max_budget_usd":
        heard.notices.append("stopped: Claude Code has used its budget")
        heard.stop_reason = "budget"
    elif isinstance(status, int) and status >= 500:
        heard.fail(FailureClass.infrastructure, "overloaded" if status == 529 else "endpoint_error", said)
    else:
        heard.fail(FailureClass.task_error, "program_failed", said)
    return ""


ADAPTER = Adapter(
    name="claude-code",
    install=PACKAGE,
    command=("claude", "-p", "{prompt}", *_OPTIONS),
    resume=("claude", "-p", "{prompt}", "--resume", "{session}", *_OPTIONS),
    model=("--model", "{model}"),
    budget=("--max-budget-usd", "{budget_usd}"),
    env={
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    },
    # As root it refuses to skip its questions unless it is told that something isolates it.
    env_isolated={"IS_SANDBOX": "1"},
    read=read,
    takes_base_url=True,
)
