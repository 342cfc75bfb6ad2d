"""OpenCode: `opencode run --format json`, one JSON object a line; each step ends with its tokens and its cost."""

from __future__ import annotations

from typing import Any

from agentcom.model import FailureClass
from agentcom_sidecar.programs.base import Adapter, Heard, dollars, short, table, usage_of, word


def read(event: dict[str, Any], heard: Heard) -> str:
    heard.session = word(event.get("sessionID")) or heard.session
    part = table(event.get("part"))
    match event.get("type"):
        case "text":
            heard.say(part.get("text"))
            return word(part.get("text"), 2000)
        case "tool_use":
            return f"[{word(part.get('tool'), 64)}] {short(table(part.get('state')).get('input'))}"
        case "step_finish":
            tokens, cache = table(part.get("tokens")), table(table(part.get("tokens")).get("cache"))
            reasoning = usage_of(0, 0, tokens.get("reasoning")).out
            step = usage_of(tokens.get("input"), cache.get("read"), tokens.get("output"), cache.get("write"))
            heard.usage += usage_of(step.fresh, step.cache_read, step.out + reasoning, step.cache_write_5m)
            cost = dollars(part.get("cost"))
            if cost is not None:
                heard.cost_usd = (heard.cost_usd or 0.0) + cost
            heard.is_over = True
        case "error":
            error = table(event.get("error"))
            said = word(table(error.get("data")).get("message"), 2000) or word(error.get("name"))
            if "Auth" in word(error.get("name")):
                heard.fail(FailureClass.configuration, "program_auth_refused", said)
            else:
                heard.fail(FailureClass.infrastructure, "endpoint_error", said)
    return ""


ADAPTER = Adapter(
    name="opencode",
    install="install OpenCode: npm install -g opencode-ai",
    command=("opencode", "run", "--format", "json", "--auto", "{prompt}"),
    resume=("opencode", "run", "--format", "json", "--auto", "--session", "{session}", "{prompt}"),
    lead=2,
    model=("-m", "{model}"),
    read=read,
)
