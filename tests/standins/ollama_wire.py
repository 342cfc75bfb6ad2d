"""The shapes of the Ollama wire: a call, the lines of its answer, and its closing figures."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import json
import socket
from typing import Any

from tests.standins.ollama_models import Model
from tests.standins.replies import Reply, shortened, text_of
from tests.standins.serving import JsonObject

PROMPT_TOKEN_NS = 1_000_000  # the pace that the final figures claim; a test can compute exact rates from it
OUTPUT_TOKEN_NS = 10_000_000
HOST_SUFFIXES = (".localhost", ".local", ".internal")
PRIVATE_NETWORKS = [
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]


@dataclasses.dataclass(frozen=True)
class Call:
    """A validated request to /api/chat or /api/generate."""

    chats: bool
    given_model: str
    model: Model
    messages: list[JsonObject]
    streams: bool
    options: JsonObject
    load_options: JsonObject
    keep_alive_s: float | None
    thinks: bool
    offers_tools: bool
    truncates: bool
    prompt_text: str

    @property
    def is_preload(self) -> bool:
        return not self.messages

    def line(self, **fields: Any) -> JsonObject:
        """A line of the answer that carries a piece of it."""
        stamp = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        head: JsonObject = {"model": self.given_model, "created_at": stamp}
        if self.chats:
            return head | {"message": {"role": "assistant", "content": ""} | fields, "done": False}
        return head | {"response": fields.pop("content", "")} | fields | {"done": False}


def final_line(call: Call, reply: Reply, tokens_in: int, load_ns: int) -> JsonObject:
    """The last line's figures: integer nanoseconds; as the real server does, what is 0 is left out."""
    prompt_ns, output_ns = tokens_in * PROMPT_TOKEN_NS, reply.output_tokens * OUTPUT_TOKEN_NS
    figures = {
        "total_duration": load_ns + prompt_ns + output_ns,
        "load_duration": load_ns,
        "prompt_eval_count": tokens_in,
        "prompt_eval_duration": prompt_ns,
        "eval_count": reply.output_tokens,
        "eval_duration": output_ns,
    }
    context: JsonObject = {} if call.chats else {"context": [1, 2, 3]}
    final = call.line() | {"done": True} | context | {name: value for name, value in figures.items() if value}
    return final


def limited(reply: Reply, num_predict: int) -> tuple[Reply, str]:
    """The reply within `num_predict` tokens (negative: no limit), and why it ended."""
    if 0 <= num_predict < reply.output_tokens:
        return shortened(reply, num_predict), "length"
    return reply, "length" if reply.fault == "length" else reply.stop_reason or "stop"


def joined(call: Call, lines: list[JsonObject]) -> JsonObject:
    """All pieces as one message, the way an answer without streaming has them."""
    parts = [line["message"] if call.chats else line for line in lines]
    text = "content" if call.chats else "response"
    whole: JsonObject = {text: "".join(part[text] for part in parts)}
    if thinking := "".join(part.get("thinking", "") for part in parts):
        whole["thinking"] = thinking
    if tool_calls := [one for part in parts for one in part.get("tool_calls", ())]:
        whole["tool_calls"] = tool_calls
    return {"message": {"role": "assistant"} | whole} if call.chats else whole


def prompt_as_messages(body: JsonObject) -> list[JsonObject]:
    prompt = body.get("prompt")
    return [{"role": "user", "content": prompt}] if prompt else []


def prompt_text(body: JsonObject, messages: list[JsonObject]) -> str:
    """All that the model has to read, for an estimate of its tokens; images count nothing."""
    texts = [str(body.get("system") or "")]
    for message in messages:
        texts += [text_of(message.get("content")), json.dumps(message.get("tool_calls") or "")]
    return "".join([*texts, json.dumps(body.get("tools") or "")])


def encoded(line: JsonObject) -> bytes:
    return json.dumps(line).encode() + b"\n"


def openai_entry(model: Model) -> JsonObject:
    return {"id": model.name, "object": "model", "created": 1_787_306_400, "owned_by": "library"}


def is_host_allowed(header: str) -> bool:
    """Whether the server answers a request with this Host header while it is bound to loopback."""
    host = (
        header.lower().rsplit("]", 1)[0].lstrip("[")
        if header.startswith("[")
        else header.lower().split(":")[0]
    )
    if host in ("", "localhost", socket.gethostname().lower()) or host.endswith(HOST_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or any(address in net for net in PRIVATE_NETWORKS)
