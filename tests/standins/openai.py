"""A stand-in for the OpenAI-compatible servers: vLLM, llama.cpp's server (also in router mode), LM Studio.

By hand: `python -m tests.standins.openai --port 8000 [--script FILE]`. The script's keys besides `replies` and
`routes` (see replies.py): `flavour` (vllm, llama.cpp, router, lmstudio, plain), `models` (fields of Model), `slots`,
`key` (calls without it get 401), `loading` (503 until it is taken back), `metrics` and `slots_route` (false: the build
has none), `hung` (models that give no byte), `version`, `waiting`.
Faults of a reply: a status of STATUS_FAULTS; hang, stall, cut, unfinished (no [DONE]), mid_stream_error, empty,
rubbish, no_usage, length. Tool arguments are a JSON string on this wire, and usage comes in a last chunk without
choices, only where it is asked for.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from typing import Any

from tests.standins.replies import (
    Reply,
    ReplyBook,
    estimated_tokens,
    last_user_text,
    pace,
    pieces,
    reply_from,
    shortened,
)
from tests.standins.serving import (
    Application,
    Exchange,
    JsonObject,
    Refusal,
    check_keys,
    command_line,
    serve,
)

FLAVOURS = frozenset({"vllm", "llama.cpp", "router", "lmstudio", "plain"})
STATUS_FAULTS = {
    "400": "This model's maximum context length is exceeded",
    "401": "Invalid API key",
    "404": "The model does not exist",
    "429": "too many requests",
    "500": "internal error",
    "503": "no slot available",
}
FAULTS = frozenset(STATUS_FAULTS) | {
    "hang", "stall", "cut", "unfinished", "mid_stream_error", "empty", "rubbish", "no_usage", "length",
}  # fmt: skip
SCRIPT_KEYS = {
    "flavour", "models", "slots", "key", "loading", "metrics", "slots_route", "hung", "version", "waiting", "replies",
    "routes",
}  # fmt: skip
PUBLIC = frozenset({"/health", "/v1/health"})


@dataclasses.dataclass(frozen=True)
class Model:
    """One model that it serves. `state` matters in router mode and LM Studio only."""

    id: str
    context: int = 32_768
    size: int = 2 * 1024**3
    state: str = "loaded"
    kind: str = "llm"
    quantization: str = "Q4_K_M"
    capabilities: tuple[str, ...] = ()
    load_delay_s: float = 0.0


def model_from(fields: JsonObject) -> Model:
    check_keys("model", fields, {field.name for field in dataclasses.fields(Model)})
    return Model(**fields | {"capabilities": tuple(fields.get("capabilities", ()))})


class OpenAIStandIn(Application):
    """The routes and the scripted behaviour."""

    name = "openai"

    def __init__(self) -> None:
        super().__init__()
        self._condition = threading.Condition()
        self._busy = 0
        self._book = ReplyBook([])
        self._settings: JsonObject = {}
        self._states: dict[str, str] = {}
        self.load_script({
            "flavour": "vllm",
            "models": [{"id": "qwen2.5-coder:7b"}],
            "slots": 4,
            "key": "",
            "loading": False,
            "metrics": True,
            "slots_route": True,
            "hung": [],
            "version": "0.33.0",
            "waiting": 0,
        })  # fmt: skip

    def load_script(self, script: JsonObject) -> None:
        check_keys("script", script, SCRIPT_KEYS)
        replies = [reply_from(fields, FAULTS) for fields in script.get("replies", ())]
        models = [model_from(fields) for fields in script.get("models", ())]
        if script.get("flavour", "plain") not in FLAVOURS:
            raise ValueError(f"flavour: known are {', '.join(sorted(FLAVOURS))}")
        super().load_script(script)
        self._settings = self._settings | {k: v for k, v in script.items() if k not in ("replies", "routes")}
        if "replies" in script:
            self._book = ReplyBook(replies)
        if "models" in script:
            self._models = {model.id: model for model in models}
            self._states = {model.id: model.state for model in models}

    @property
    def flavour(self) -> str:
        return str(self._settings["flavour"])

    def state(self) -> JsonObject:
        return super().state() | {"states": dict(self._states), "busy": self._busy}

    def refusal(self, status: int, message: str) -> Refusal:
        if self.flavour in ("llama.cpp", "router"):
            kind = {401: "authentication_error", 404: "not_found_error", 503: "unavailable_error"}
            error = {"code": status, "message": message, "type": kind.get(status, "invalid_request_error")}
        else:
            error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        return Refusal(status, {"error": error})

    # --- routes -----------------------------------------------------------------------------------------

    def answer(self, exchange: Exchange) -> None:
        self._check_key(exchange)
        if self._settings["loading"] and self.flavour in ("llama.cpp", "vllm"):
            raise self.refusal(503, "Loading model")
        match (exchange.command, exchange.route):
            case ("GET", "/health" | "/v1/health"):
                self._health(exchange)
            case ("GET", "/v1/models"):
                exchange.send_answer(200, {"object": "list", "data": [*map(self._entry, self._models.values())]})
            case ("GET", "/api/v0/models") if self.flavour == "lmstudio":
                exchange.send_answer(200, {"object": "list", "data": [*map(self._native, self._models.values())]})
            case ("GET", "/version") if self.flavour == "vllm":
                exchange.send_answer(200, {"version": self._settings["version"]})
            case ("GET", "/props") if self.flavour in ("llama.cpp", "router"):
                exchange.send_answer(200, self._props())
            case ("GET", "/slots") if self.flavour == "llama.cpp":
                self._slots(exchange)
            case ("GET", "/metrics") if self.flavour in ("vllm", "llama.cpp"):
                self._metrics(exchange)
            case ("POST", "/v1/chat/completions"):
                self._chat(exchange)
            case _:
                raise self.refusal(404, f"Not Found: {exchange.route}")

    def _check_key(self, exchange: Exchange) -> None:
        key = self._settings["key"]
        if not key or exchange.route in PUBLIC:
            return
        if exchange.headers.get("authorization") != f"Bearer {key}":
            raise self.refusal(401, "Invalid API key")

    def _health(self, exchange: Exchange) -> None:
        if self.flavour == "vllm":
            exchange.send_raw(200, b"", "text/plain")
        elif self.flavour in ("llama.cpp", "router"):
            exchange.send_answer(200, {"status": "ok"})
        else:
            raise self.refusal(404, "Unexpected endpoint or method. (GET /health)")

    def _entry(self, model: Model) -> JsonObject:
        entry: JsonObject = {"id": model.id, "object": "model", "created": 1_787_306_400}
        if self.flavour == "vllm":
            return entry | {"owned_by": "vllm", "root": model.id, "max_model_len": model.context}
        if self.flavour == "llama.cpp":
            meta = {"n_ctx_train": model.context * 4, "n_params": 7_600_000_000, "size": model.size}
            return entry | {"owned_by": "llamacpp", "meta": meta}
        if self.flavour == "router":
            state = self._states[model.id]
            status: JsonObject = {"value": "unloaded" if state == "failed" else state}
            return entry | {"owned_by": "llamacpp", "status": status | ({"failed": True} if state == "failed" else {})}
        return entry | {"owned_by": "organization_owner"}

    def _native(self, model: Model) -> JsonObject:
        state = "loaded" if self._states[model.id] == "loaded" else "not-loaded"
        entry: JsonObject = {
            "id": model.id,
            "object": "model",
            "type": model.kind,
            "publisher": "somebody",
            "arch": "qwen2",
            "compatibility_type": "gguf",
            "quantization": model.quantization,
            "state": state,
            "max_context_length": model.context,
            "capabilities": list(model.capabilities),
        }
        return entry | ({"loaded_context_length": model.context // 2} if state == "loaded" else {})

    def _props(self) -> JsonObject:
        first = next(iter(self._models.values()))
        return {
            "default_generation_settings": {"n_ctx": first.context},
            "total_slots": self._settings["slots"],
            "build_info": "b10488-abcdef",
            "modalities": {"vision": "vision" in first.capabilities, "audio": False},
        }

    def _slots(self, exchange: Exchange) -> None:
        if not self._settings["slots_route"]:
            raise self.refusal(501, "This server does not support slots endpoint.")
        busy, slots = self._busy, int(self._settings["slots"])
        if "fail_on_no_slot=1" in exchange.path and busy >= slots:
            raise self.refusal(503, "no slot available")
        entries = [{"id": n, "n_ctx": 4096, "is_processing": n < busy} for n in range(slots)]
        exchange.send_raw(200, json.dumps(entries).encode(), "application/json")

    def _metrics(self, exchange: Exchange) -> None:
        if not self._settings["metrics"]:
            raise self.refusal(501, "This server does not support metrics endpoint. Start it with `--metrics`")
        waiting = int(self._settings["waiting"])
        if self.flavour == "vllm":
            name = next(iter(self._models))
            lines = [
                "# HELP vllm:num_requests_running Number of requests in model execution batches.",
                "# TYPE vllm:num_requests_running gauge",
                f'vllm:num_requests_running{{engine="0",model_name="{name}"}} {float(self._busy)}',
                f'vllm:num_requests_waiting{{engine="0",model_name="{name}"}} {float(waiting)}',
                f'vllm:kv_cache_usage_perc{{engine="0",model_name="{name}"}} 0.25',
            ]
        else:
            lines = [
                f"llamacpp:requests_processing {self._busy}",
                f"llamacpp:requests_deferred {waiting}",
                "llamacpp:predicted_tokens_seconds 41.5",
            ]
        exchange.send_raw(200, "\n".join([*lines, ""]).encode(), "text/plain; version=0.0.4")

    # --- a call -----------------------------------------------------------------------------------------

    def _chat(self, exchange: Exchange) -> None:
        body = exchange.body
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            raise self.refusal(400, "messages: field required")
        model = self._models.get(str(body.get("model")))
        if model is None:
            raise self.refusal(404, f"The model `{body.get('model')}` does not exist.")
        reply = self._book.take(model.id, last_user_text(body["messages"]))
        if reply.fault in STATUS_FAULTS:
            refused = self.refusal(int(reply.fault), reply.error or STATUS_FAULTS[reply.fault])
            if reply.retry_after_s is not None:
                refused.headers["retry-after"] = f"{reply.retry_after_s:g}"
            raise refused
        self.gauge.enter(model.id)
        try:
            if model.id in self._settings["hung"]:
                exchange.hang()
            self._load(exchange, model)
            self._with_slot(exchange, body, model, reply)
        finally:
            self.gauge.leave(model.id)

    def _load(self, exchange: Exchange, model: Model) -> None:
        """In router mode and LM Studio a call loads the model that it names."""
        if self._states[model.id] != "loaded":
            self._states[model.id] = "loading"
            exchange.wait(model.load_delay_s)
            self._states[model.id] = "loaded"

    def _with_slot(self, exchange: Exchange, body: JsonObject, model: Model, reply: Reply) -> None:
        with self._condition:
            exchange.wait_until(self._condition, lambda: self._busy < int(self._settings["slots"]))
            self._busy += 1
        try:
            self._generate(exchange, body, model, reply)
        finally:
            with self._condition:
                self._busy -= 1
                self._condition.notify_all()

    def _generate(self, exchange: Exchange, body: JsonObject, model: Model, reply: Reply) -> None:
        if reply.fault == "hang":
            exchange.hang()
        exchange.wait(reply.first_byte_delay_s)
        if reply.fault == "rubbish":
            exchange.send_raw(200, b"<html>\xff\x00 this is no JSON\n", "text/event-stream")
            return
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        is_cut = isinstance(limit, int) and limit < reply.output_tokens
        if is_cut:
            reply = shortened(reply, int(limit or 0))
        finish = "length" if is_cut or reply.fault == "length" else "tool_calls" if reply.tool_calls else "stop"
        usage = self._usage(body, reply)
        if body.get("stream"):
            self._stream(exchange, body, model, reply, finish, usage)
            return
        pace(exchange, reply)
        message: JsonObject = {"role": "assistant", "content": reply.content or None}
        if reply.tool_calls:
            message["tool_calls"] = [_call(n, one) for n, one in enumerate(reply.tool_calls)]
        choice = {"index": 0, "message": message, "finish_reason": finish}
        exchange.send_answer(200, _head(model, "chat.completion") | {"choices": [choice], "usage": usage})

    def _usage(self, body: JsonObject, reply: Reply) -> JsonObject:
        asked = estimated_tokens(json.dumps(body["messages"])) if reply.tokens_in is None else reply.tokens_in
        details = {"prompt_tokens_details": {"cached_tokens": reply.cache_read_tokens}}
        return {
            "prompt_tokens": asked,
            "completion_tokens": reply.output_tokens,
            "total_tokens": asked + reply.output_tokens,
        } | (details if reply.cache_read_tokens else {})

    def _stream(
        self,
        exchange: Exchange,
        body: JsonObject,
        model: Model,
        reply: Reply,
        finish: str,
        usage: JsonObject,
    ) -> None:
        exchange.start_stream("text/event-stream; charset=utf-8")
        deltas: list[JsonObject] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in pieces(reply.thinking, reply.chunks)]
        deltas += [{"content": piece} for piece in pieces(reply.content, reply.chunks)]
        for number, one in enumerate(reply.tool_calls):
            deltas += _call_deltas(number, one)
        broken_at = max(1, len(deltas) // 2)
        for number, delta in enumerate(deltas):
            if number:
                exchange.wait(reply.chunk_delay_s)
            if number == broken_at and self._break(exchange, reply):
                return
            _send(exchange, _head(model) | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if broken_at >= len(deltas) and self._break(exchange, reply):
            return
        _send(exchange, _head(model) | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        wants_usage = (body.get("stream_options") or {}).get("include_usage")
        if wants_usage and reply.fault != "no_usage":
            _send(exchange, _head(model) | {"choices": [], "usage": usage})
        exchange.send_chunk(b"data: [DONE]\n\n")
        exchange.end_stream()

    def _break(self, exchange: Exchange, reply: Reply) -> bool:
        """Plays the faults that strike in the middle of a stream; true when the answer is over."""
        match reply.fault:
            case "stall":
                exchange.hang()
            case "cut":
                exchange.cut()
            case "unfinished":
                exchange.end_stream()
            case "mid_stream_error":
                error = {"error": {"message": reply.error or "the engine died", "type": "InternalServerError"}}
                _send(exchange, error)
                exchange.end_stream()
            case _:
                return False
        return True


def _head(model: Model, kind: str = "chat.completion.chunk") -> JsonObject:
    return {"id": "chatcmpl-1", "object": kind, "created": int(time.time()), "model": model.id}


def _send(exchange: Exchange, chunk: JsonObject) -> None:
    exchange.send_chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _call(number: int, call: JsonObject) -> JsonObject:
    function = {"name": call["name"], "arguments": json.dumps(call.get("arguments", {}))}
    return {"id": f"call_{number}", "type": "function", "function": function}


def _call_deltas(number: int, call: JsonObject) -> list[JsonObject]:
    """A tool call in pieces: its head, then its arguments in two."""
    whole = _call(number, call)
    arguments = whole["function"]["arguments"]
    half = len(arguments) // 2
    head = whole | {"index": number, "function": {"name": call["name"], "arguments": ""}}
    rest: list[Any] = [
        {"index": number, "function": {"arguments": part}} for part in (arguments[:half], arguments[half:])
    ]
    return [{"tool_calls": [one]} for one in (head, *rest)]


def main() -> None:
    serve(OpenAIStandIn, command_line("openai").parse_args())


if __name__ == "__main__":
    main()
