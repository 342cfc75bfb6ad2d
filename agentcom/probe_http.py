"""What every health check shares: one bounded GET or POST to an address that was looked at before.

Used by the hub and by sidecars. No redirects, no proxies, no credentials of the environment; an answer is read up
to a bound, and whatever a server says, `Unusable` tells it in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import msgspec

from agentcom import limits
from agentcom.addresses import Place
from agentcom.model import EndpointModel

VERSION_BYTES_MAX = 64 * 1024


class Unusable(Exception):
    """The server's answer cannot be used; the text says why, `status` is that of HTTP (0: it came to none)."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Server:
    """One endpoint during one check. `key` is sent as a bearer token, and never said in words. Of its addresses the
    first that takes a connection is used: `localhost` names ::1 and 127.0.0.1, and a server may listen on one only."""

    def __init__(self, client: httpx2.AsyncClient, places: Sequence[Place], key: str = "") -> None:
        self._client, self._places = client, list(places)
        self._headers = {"host": places[0].host_header, "accept-encoding": "identity"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    async def get(self, path: str, bytes_max: int = limits.PROBE_ANSWER_BYTES_MAX) -> tuple[int, bytes]:
        """Status and body, whatever the status is."""
        return await self._call("GET", path, None, bytes_max)

    async def get_object(
        self, path: str, bytes_max: int = limits.PROBE_ANSWER_BYTES_MAX
    ) -> dict[str, Any]:
        status, body = await self.get(path, bytes_max)
        if status != 200:
            raise Unusable(f"{path} answered {status}", status)
        return as_object(path, body)

    async def post_object(
        self, path: str, sent: Mapping[str, Any], bytes_max: int = limits.PROBE_ANSWER_BYTES_MAX
    ) -> dict[str, Any]:
        status, body = await self._call("POST", path, sent, bytes_max)
        if status != 200:
            raise Unusable(f"{path} answered {status}: {error_text(body)}", status)
        return as_object(path, body)

    async def _call(
        self, method: str, path: str, sent: Mapping[str, Any] | None, bytes_max: int
    ) -> tuple[int, bytes]:
        while True:
            try:
                response = await self._send(method, path, sent)
                break
            except httpx2.ConnectError:
                if len(self._places) == 1:
                    raise
                del self._places[0]
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > bytes_max:
                    raise Unusable(f"{path} answered more than {bytes_max} bytes", response.status_code)
        finally:
            await response.aclose()
        return response.status_code, bytes(body)

    async def _send(self, method: str, path: str, sent: Mapping[str, Any] | None) -> httpx2.Response:
        place = self._places[0]
        request = self._client.build_request(
            method,
            place.url + path,
            json=sent,
            headers=self._headers,
            extensions={"sni_hostname": place.server_name},
        )
        return await self._client.send(request, stream=True)


def make_client() -> httpx2.AsyncClient:
    """A client for checks. How long one may take is its caller's affair."""
    return httpx2.AsyncClient(
        trust_env=False, follow_redirects=False, timeout=None, headers={"Accept": "application/json"}
    )


def as_object(path: str, body: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(f"{path} did not answer with JSON: {error}") from error
    if not isinstance(answer, dict):
        raise Unusable(f"{path} did not answer with a JSON object")
    return answer


def error_text(body: bytes) -> str:
    """What a server says of its own fault: `{"error": TEXT}` or `{"error": {"message": TEXT}}`, else its words."""
    try:
        said = msgspec.json.decode(body)
        said = said["error"] if isinstance(said, dict) and "error" in said else said
        said = said["message"] if isinstance(said, dict) and "message" in said else said
        text = said if isinstance(said, str) else ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:200].decode("utf-8", "replace")
    return " ".join(text.split())[:200] or "no reason given"


def entries_of(path: str, answer: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """The objects of a list in an answer; a server that has none may say null."""
    found = answer.get(field)
    if found is None:
        return []
    if not isinstance(found, list):
        raise Unusable(f"{path}: `{field}` is not a list")
    return [each for each in found if isinstance(each, dict)]


def object_of(entry: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = entry.get(field)
    return value if isinstance(value, dict) else {}


def text_of(entry: Mapping[str, Any], field: str, chars_max: int = 400) -> str:
    value = entry.get(field)
    return value[:chars_max] if isinstance(value, str) else ""


def count_of(entry: Mapping[str, Any], field: str) -> int:
    value = entry.get(field)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**62
    return value if is_count and isinstance(value, int) else 0


def words_of(entry: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """A list of short words, such as capabilities; others are left out."""
    value = entry.get(field)
    if not isinstance(value, list):
        return ()
    words = [word for word in value if isinstance(word, str) and 0 < len(word) <= limits.WORD_CHARS_MAX]
    return tuple(dict.fromkeys(words))[: limits.MODEL_CAPABILITIES_MAX]


def named(models: list[EndpointModel | None]) -> tuple[tuple[EndpointModel, ...], str]:
    """Those that have a name, each name once, up to the bound; and what there is to say where that leaves some out."""
    found: dict[str, EndpointModel] = {}
    for model in models:
        if model is not None:
            found.setdefault(model.name, model)
    kept = tuple(found.values())[: limits.MODELS_PER_ENDPOINT_MAX]
    fault = f"the first {len(kept)} of its {len(found)} models are kept" if len(kept) < len(found) else ""
    return kept, fault
