"""A stand-in for an Ollama server: the native routes, its errors, its scheduler and its silences.

By hand: `python -m tests.standins.ollama --port 11434 [--script FILE]`. The script's keys besides
`replies` and `routes` (see replies.py): `models` (fields of ollama_models.Model; giving it reloads the
table of loaded models), `num_parallel`, `max_queue`, `max_loaded`, `num_ctx_default`, `keep_alive`,
`version`.
Faults of a reply: a status of STATUS_FAULTS; hang, stall (silence after some chunks), cut, unfinished (a
clean end without the final line), mid_stream_error, empty, truncate, rubbish, length.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

from tests.standins.ollama_models import (
    DEFAULT_MODELS,
    Model,
    check_options,
    duration_s,
    key_of,
    load_options,
    model_from,
)
from tests.standins.ollama_scheduler import LoadFailed, QueueFull, Runner, Scheduler
from tests.standins.ollama_wire import (
    Call,
    encoded,
    final_line,
    is_host_allowed,
    joined,
    limited,
    openai_entry,
    prompt_as_messages,
    prompt_text,
)
from tests.standins.replies import (
    Reply,
    ReplyBook,
    estimated_tokens,
    last_user_text,
    pace,
    pieces,
    reply_from,
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

BUSY = "server busy, please try again.  maximum pending requests exceeded"
RUNNER_DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
)
TOO_LONG = "the input length exceeds the context length"
STATUS_FAULTS = {
    "400": TOO_LONG,
    "401": "unauthorized",
    "403": "cloud is disabled on this server",
    "404": "model '{model}' not found",
    "429": "too many requests",
    "500": RUNNER_DIED,
    "502": "upstream unreachable",
    "503": BUSY,
}
FAULTS = frozenset(STATUS_FAULTS) | {
    "hang", "stall", "cut", "unfinished", "mid_stream_error", "empty", "truncate", "rubbish", "length",
}  # fmt: skip
SCRIPT_KEYS = {
    "models", "replies", "routes", "num_parallel", "max_queue", "max_loaded", "num_ctx_default", "keep_alive",
    "version",
}  # fmt: skip


class OllamaStandIn(Application):
    """The routes and the scripted behaviour."""

    name = "ollama"

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        self.version = "0.33.0"
        self.num_ctx_default = 4096
        self._models: dict[str, Model] = {}
        self._book = ReplyBook([])
        self._call_numbers = itertools.count(1)
        self.load_script({"models": DEFAULT_MODELS})

    def load_script(self, script: JsonObject) -> None:
        check_keys("script", script, SCRIPT_KEYS)
        replies = [reply_from(fields, FAULTS) for fields in script.get("replies", ())]
        models = [model_from(fields) for fields in script.get("models", ())]
        super().load_script(script)
        self.version = script.get("version", self.version)
        self.num_ctx_default = script.get("num_ctx_default", self.num_ctx_default)
        scheduler = self.scheduler
        scheduler.num_parallel = script.get("num_parallel", scheduler.num_parallel)
        scheduler.queue_max = script.get("max_queue", scheduler.queue_max)
        scheduler.loaded_max = script.get("max_loaded", scheduler.loaded_max)
        scheduler.keep_alive_s = duration_s(script.get("keep_alive", scheduler.keep_alive_s))
        if "replies" in script:
            self._book = ReplyBook(replies)
        if "models" in script:
            self._models = {key_of(model.name): model for model in models}
            warm = [model for model in models if model.warm]
            scheduler.reset([(model, load_options({}, True, model, self.num_ctx_default)) for model in warm])

    def state(self) -> JsonObject:
        return super().state() | self.scheduler.state()

    def close(self) -> None:
        self.scheduler.close()

    def answer(self, exchange: Exchange) -> None:
        if not is_host_allowed(exchange.headers.get("host", "")):
            raise Refusal(403, None)
        method = "GET" if exchange.command == "HEAD" else exchange.command
        match (method, exchange.route):
            case ("GET", "/"):
                exchange.send_text(200, "Ollama is running")
            case ("GET", "/api/version"):
                exchange.send_answer(200, {"version": self.version})
            case ("GET", "/api/tags"):
                exchange.send_answer(200, {"models": [model.tag() for model in self._models.values()]})
            case ("GET", "/api/ps"):
                exchange.send_answer(200, {"models": self.scheduler.loaded()})
            case ("GET", "/v1/models"):
                exchange.send_answer(
                    200, {"object": "list", "data": [*map(openai_entry, self._models.values())]}
                )
            case ("POST", "/api/show"):
                body = self._body(exchange)
                exchange.send_answer(200, self._model(body.get("model") or body.get("name")).card())
            case ("POST", "/api/chat" | "/api/generate"):
                self._call(exchange)
            case _:
                exchange.send_text(404, "404 page not found")

    # Reading a request.

    def _body(self, exchange: Exchange) -> JsonObject:
        if not exchange.raw:
            raise self.refusal(400, "missing request body")
        if not isinstance(exchange.body, dict):
            raise self.refusal(400, "invalid character in request body: a JSON object is wanted")
        return exchange.body

    def _model(self, name: Any) -> Model:
        if not isinstance(name, str) or not name:
            raise self.refusal(400, "model is required")
        try:
            model = self._models.get(key_of(name))
        except ValueError as error:
            raise self.refusal(400, str(error)) from error
        if model is None:
            raise self.refusal(404, f"model '{name}' not found")
        return model

    def _read_call(self, exchange: Exchange) -> Call:
        body = self._body(exchange)
        chats = exchange.route == "/api/chat"
        keep_alive_s = self._keep_alive(body)
        model = self._model(body.get("model"))
        self._check_capabilities(body, model)
        options = self._options(body)
        messages = (body.get("messages") or []) if chats else prompt_as_messages(body)
        thinks = "thinking" in model.capabilities and body.get("think") is not False
        shift = body.get("shift") is not False
        return Call(
            chats=chats,
            given_model=body["model"],
            model=model,
            messages=messages,
            streams=body.get("stream") is not False,
            options=options,
            load_options=load_options(options, shift, model, self.num_ctx_default),
            keep_alive_s=keep_alive_s,
            thinks=thinks,
            offers_tools=bool(body.get("tools")),
            truncates=body.get("truncate") is not False,
            prompt_text=prompt_text(body, messages),
        )

    def _keep_alive(self, body: JsonObject) -> float | None:
        if body.get("keep_alive") is None:
            return None
        try:
            return duration_s(body["keep_alive"])
        except ValueError as error:
            raise self.refusal(400, str(error)) from error

    def _options(self, body: JsonObject) -> JsonObject:
        options = body.get("options") or {}
        try:
            check_options(options)
        except ValueError as error:
            raise self.refusal(500, str(error)) from error
        wanted = body.get("format")
        if wanted and wanted != "json" and not isinstance(wanted, dict):
            # The real server finds this out only when it generates, hence not a 400.
            raise self.refusal(
                500, f'invalid format: {json.dumps(wanted)}; expected "json" or a valid JSON Schema object'
            )
        return dict(options)

    def _check_capabilities(self, body: JsonObject, model: Model) -> None:
        wanted = {"tools": "tools", "suffix": "insert", "think": "thinking"}
        for field, capability in wanted.items():
            if body.get(field) and capability not in model.capabilities:
                raise self.refusal(400, f'"{body["model"]}" does not support {capability}')

    # Answering a call.

    def _call(self, exchange: Exchange) -> None:
        call = self._read_call(exchange)
        unloads = call.is_preload and call.keep_alive_s == 0
        if unloads:
            self.scheduler.unload(call.model)
            exchange.send_answer(200, call.line() | {"done": True, "done_reason": "unload"})
            return
        reply = (
            Reply() if call.is_preload else self._book.take(call.model.name, last_user_text(call.messages))
        )
        if reply.fault in STATUS_FAULTS and reply.fault != "500":
            raise self._status_fault(call, reply)
        self.gauge.enter(call.model.name)
        try:
            self._run(exchange, call, reply)
        finally:
            self.gauge.leave(call.model.name)

    def _status_fault(self, call: Call, reply: Reply) -> Refusal:
        text = reply.error or STATUS_FAULTS[reply.fault].format(model=call.given_model)
        refusal = self.refusal(int(reply.fault), text)
        if reply.fault == "401" and refusal.body:
            refusal.body["signin_url"] = "https://cloud.invalid/connect"
        if reply.retry_after_s is not None:
            refusal.headers["retry-after"] = f"{reply.retry_after_s:g}"
        return refusal

    def _run(self, exchange: Exchange, call: Call, reply: Reply) -> None:
        asked_ns = time.monotonic_ns()
        try:
            with self._held(exchange, call) as runner:
                load_ns = time.monotonic_ns() - asked_ns
                if call.is_preload:
                    exchange.send_answer(200, call.line() | {"done": True, "done_reason": "load"})
                elif runner is None:
                    self._generate(exchange, call, reply, load_ns)
                else:
                    with self.scheduler.slot(exchange, runner):
                        self._generate(exchange, call, reply, load_ns)
        except QueueFull as error:
            raise self.refusal(503, BUSY) from error
        except LoadFailed as error:
            raise self.refusal(500, str(error)) from error

    @contextlib.contextmanager
    def _held(self, exchange: Exchange, call: Call) -> Iterator[Runner | None]:
        """The loaded model; None for one that another server runs, which is never loaded here."""
        if call.model.remote_host:
            yield None
            return
        with self.scheduler.hold(exchange, call.model, call.load_options, call.keep_alive_s) as runner:
            yield runner

    def _generate(self, exchange: Exchange, call: Call, reply: Reply, load_ns: int) -> None:
        if reply.fault == "hang":
            exchange.hang()
        if reply.fault == "500":
            raise self._status_fault(call, reply)
        tokens_in = self._tokens_in(call, reply)
        exchange.wait(reply.first_byte_delay_s)
        if reply.fault == "rubbish":
            exchange.send_raw(200, b"<html>\xff\x00 this is no JSON\n", "application/x-ndjson")
            return
        reply, done_reason = limited(reply, int(call.options.get("num_predict", -1)))
        lines = self._lines(call, reply)
        final = final_line(call, reply, tokens_in, load_ns) | {"done_reason": done_reason}
        if call.streams:
            self._stream(exchange, reply, lines, final)
        else:
            self._send_whole(exchange, call, reply, final | joined(call, lines))

    def _tokens_in(self, call: Call, reply: Reply) -> int:
        """The prompt's size as reported: silently cut to half of the context when it does not fit."""
        tokens = estimated_tokens(call.prompt_text) if reply.tokens_in is None else reply.tokens_in
        num_ctx = int(call.load_options["num_ctx"])
        if tokens <= num_ctx and reply.fault != "truncate":
            return tokens
        if not call.truncates:
            raise self.refusal(400, TOO_LONG)
        return num_ctx // 2 + 2

    def _lines(self, call: Call, reply: Reply) -> list[JsonObject]:
        """The answer in pieces: thinking, then content, then each tool call whole."""
        content, calls = reply.content, reply.tool_calls
        if calls and not (call.offers_tools and call.chats):
            # A model that was offered no tools can only write its call as text.
            content, calls = content + "".join(json.dumps(one) for one in calls), ()
        thinking = pieces(reply.thinking, reply.chunks) if call.thinks else []
        return [
            *(call.line(thinking=piece) for piece in thinking),
            *(call.line(content=piece) for piece in pieces(content, reply.chunks)),
            *(call.line(tool_calls=[self._tool_call(index, one)]) for index, one in enumerate(calls)),
        ]

    def _tool_call(self, index: int, call: JsonObject) -> JsonObject:
        function = {"index": index, "name": call["name"], "arguments": call.get("arguments", {})}
        return {"id": f"call_{next(self._call_numbers):08x}", "function": function}

    def _stream(self, exchange: Exchange, reply: Reply, lines: list[JsonObject], final: JsonObject) -> None:
        exchange.start_stream("application/x-ndjson")
        broken_at = max(1, len(lines) // 2)
        for number, line in enumerate(lines):
            if number:
                exchange.wait(reply.chunk_delay_s)
            if number == broken_at and self._break_stream(exchange, reply):
                return
            exchange.send_chunk(encoded(line))
        if broken_at >= len(lines) and self._break_stream(exchange, reply):
            return
        exchange.send_chunk(encoded(final))
        exchange.end_stream()

    def _break_stream(self, exchange: Exchange, reply: Reply) -> bool:
        """Plays the faults that strike in the middle of a stream; true when the answer is over."""
        match reply.fault:
            case "stall":
                exchange.hang()
            case "cut":
                exchange.cut()
            case "unfinished":
                exchange.end_stream()
            case "mid_stream_error":
                exchange.send_chunk(encoded({"error": reply.error or RUNNER_DIED}))
                exchange.end_stream()
            case _:
                return False
        return True

    def _send_whole(self, exchange: Exchange, call: Call, reply: Reply, whole: JsonObject) -> None:
        pace(exchange, reply)
        match reply.fault:
            case "stall":
                exchange.hang()
            case "cut":
                exchange.send_cut_answer(whole)
            case "unfinished":
                exchange.send_answer(200, {key: whole[key] for key in call.line()} | {"done": False})
            case "mid_stream_error":
                raise self.refusal(500, reply.error or RUNNER_DIED)
            case _:
                exchange.send_answer(200, whole)


def main() -> None:
    serve(OllamaStandIn, command_line("ollama").parse_args())


if __name__ == "__main__":
    main()
