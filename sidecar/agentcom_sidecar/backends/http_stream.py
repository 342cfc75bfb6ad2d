"""One POST to a model's server and the lines of its answer: what the local backends share.

Rules it keeps:
* The name is resolved once and only addresses that were looked at are connected to; no redirects, no proxy
  settings from the environment.
* A silent server is found out by `Patience`; whatever breaks on the way becomes a BackendError with its class.
* Leaving the generator closes the socket, which is what makes the server stop generating.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import httpx2

from agentcom import limits
from agentcom.addresses import AddressError, Place, places
from agentcom.model import FailureClass
from agentcom_sidecar.backends.base import (
    CONNECT_S_MAX,
    BackendError,
    Patience,
    ToolSpec,
    clean,
    configuration,
    infrastructure,
    retry_after_s,
)

LINE_BYTES_MAX = 4 * limits.MIB  # a tool call may arrive whole in one line
ANSWER_BYTES_MIN = 16 * limits.MIB  # the bound of an answer; larger where many tokens are allowed
BYTES_PER_TOKEN_MAX = 1024  # a line with one token has about 150
ERROR_BYTES_MAX = 64 * limits.KIB
Classify = Callable[[int, str, Mapping[str, str]], BackendError]


class ModelServer:
    """Where calls of one backend go. `classify` makes an error of a status, the server's words and its headers."""

    def __init__(
        self,
        url: str,
        path: str,
        *,
        first_byte_s: float,
        idle_s: float,
        classify: Classify,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url, self._path = url.rstrip("/"), path
        self._first_byte_s, self._idle_s = first_byte_s, idle_s
        self._classify, self._headers = classify, dict(headers or {})
        # Reading is timed by Patience; what is left to the client is the connection itself.
        timeout = httpx2.Timeout(None, connect=CONNECT_S_MAX)
        self._client = httpx2.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def lines(self, body: dict[str, Any], tokens_max: int) -> AsyncGenerator[bytes, None]:
        """The lines of the answer as they come, empty ones left out. Raises BackendError."""
        patience = Patience(self._first_byte_s, self._idle_s)
        bytes_max = max(ANSWER_BYTES_MIN, tokens_max * BYTES_PER_TOKEN_MAX)
        try:
            response = await self._open(body, patience)
            try:
                if response.status_code != 200:
                    raise await self._refusal(response, patience)
                async for line in split_lines(patience.pieces(response.aiter_raw()), bytes_max):
                    yield line
            finally:
                await response.aclose()
        except httpx2.ConnectError as error:
            raise infrastructure("endpoint_unreachable", f"cannot connect to {self.url}: {error}") from error
        except httpx2.ConnectTimeout as error:
            raise infrastructure("endpoint_unreachable", f"{self.url} does not answer") from error
        except httpx2.RemoteProtocolError as error:
            raise infrastructure("stream_cut", f"{self.url} broke the connection: {error}") from error
        except httpx2.HTTPError as error:
            said = f"{self.url}: {type(error).__name__}: {error}".rstrip(": ")
            raise infrastructure("stream_cut", said) from error
        except httpx2.InvalidURL as error:
            raise configuration("bad_endpoint", f"{self.url}: {error}") from error

    async def _open(self, body: dict[str, Any], patience: Patience) -> httpx2.Response:
        """The response's head, from the first address that takes the connection."""
        *others, last = await patience.wait(_reached(self.url))
        for place in others:
            try:
                return await patience.wait(self._send(place, body))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue  # `localhost` names ::1 and 127.0.0.1; a server may listen on one of them only
        return await patience.wait(self._send(last, body))

    async def _send(self, place: Place, body: dict[str, Any]) -> httpx2.Response:
        request = self._client.build_request(
            "POST",
            place.url + self._path,
            json=body,
            headers={"host": place.host_header, "accept-encoding": "identity", **self._headers},
            extensions={"sni_hostname": place.server_name},
        )
        return await self._client.send(request, stream=True)

    async def _refusal(self, response: httpx2.Response, patience: Patience) -> BackendError:
        raw = bytearray()
        async for chunk in patience.pieces(response.aiter_raw()):
            raw += chunk[: ERROR_BYTES_MAX - len(raw)]
            if len(raw) >= ERROR_BYTES_MAX:
                break
        return self._classify(response.status_code, _error_text(bytes(raw)), response.headers)


async def split_lines(chunks: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    """Whole lines, also a last one without its line end."""
    buffer = bytearray()
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        buffer += chunk
        if total > bytes_max:
            raise bad_answer(f"more than {bytes_max} bytes")
        *whole, rest = buffer.split(b"\n") if b"\n" in chunk else (buffer,)
        for line in whole:
            if line.strip():
                yield bytes(line)
        buffer = bytearray(rest)
        if len(buffer) > LINE_BYTES_MAX:
            raise bad_answer(f"a line of more than {LINE_BYTES_MAX} bytes")
    if buffer.strip():
        yield bytes(buffer)


def parsed(line: bytes) -> dict[str, Any]:
    """A line as a JSON object; BackendError otherwise."""
    try:
        piece = clean(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise bad_answer(f"{line[:80]!r} is no JSON") from error
    if not isinstance(piece, dict):
        raise bad_answer(f"{line[:80]!r} is no JSON object")
    return piece


def bad_answer(what: str) -> BackendError:
    return infrastructure("bad_answer", f"this is no answer of a model's server: {what}")


def text_field(message: dict[str, Any], name: str) -> str:
    value = message.get(name) or ""
    if not isinstance(value, str):
        raise bad_answer(f"{name} is no text")
    return value


async def _reached(url: str) -> list[Place]:
    """As `addresses.places`, with its errors in the words of a failed attempt."""
    try:
        return await places(url)
    except AddressError as error:
        kind = infrastructure if error.code == "endpoint_unreachable" else configuration
        raise kind(error.code, error.message) from error


def _error_text(raw: bytes) -> str:
    """`{"error": TEXT}` of Ollama, `{"error": {"message": TEXT}}` of the others, else what came."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict) and "error" in body:
        error = body["error"]
        return str(error["message"] if isinstance(error, dict) and "message" in error else error)
    return raw.decode("utf-8", "replace").strip()


def trouble_of(status: int, said: str, model: str, headers: Mapping[str, str]) -> BackendError | None:
    """What a status means whichever of these servers gives it; None for what its own driver has to say."""
    if status == 404:
        return infrastructure("model_missing", f"{said} (model {model})")
    if status == 429:
        wait_s = retry_after_s(headers)
        return BackendError(FailureClass.usage_window, "rate_limited", said, retry_after_s=wait_s)
    if status == 503:
        return infrastructure("endpoint_busy", said)
    if status >= 500:
        return infrastructure("endpoint_error", said)
    if 300 <= status < 400:
        return configuration("redirected", f"{said}; give the endpoint's final address")
    return None


def tool_of(tool: ToolSpec) -> dict[str, Any]:
    """A tool as both kinds of servers take it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
