"""What every forge does for us, and the one way to ask it: JSON over HTTPS, with a token that goes nowhere else.

Rules it keeps:
* The token comes from a 0600 file of this host's own, is sent to the server of the API address that stands beside it in
  this host's settings and to no other (no redirects, no proxy of the environment), and stands in no message.
* A server that is away, answers 5xx or does not answer at all is asked again, TRIES times in all. One that has closed
  its rate limit is asked again when that opens, by what its headers say, within WAIT_S_MAX for the whole call.
* Certificates are those that git trusts here too: SSL_CERT_FILE, SSL_CERT_DIR and GIT_SSL_CAINFO name a private CA.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import httpx2

from agentcom import limits
from agentcom.errors import AgentComError

TRIES = 3
ANSWER_S_MAX = 20.0
AWAY_S = 1.0  # before a server that is away is asked again, times the tries so far
WAIT_S_MAX = 120.0  # a rate limit that opens later than this is not waited for: less than a worker may be quiet
ANSWER_BYTES_MAX = 4 * limits.MIB
PAGES_MAX = 10  # of open pull requests, a hundred each


class ForgeError(AgentComError):
    """There is no pull request; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A pull request as it is to be."""

    branch: str
    base: str
    title: str
    body: str
    is_draft: bool


@dataclass(frozen=True, slots=True)
class PullRequest:
    """One that is open."""

    number: int
    url: str
    branch: str
    commit: str
    body: str
    is_draft: bool = False
    node: str = ""  # its name in an API that does not go by numbers


class Forge(Protocol):
    """One repository on one forge."""

    async def open_ones(self) -> list[PullRequest]: ...
    async def has_branch(self, name: str) -> bool: ...
    async def create(self, draft: Draft) -> PullRequest | None:
        """None: the forge says that there is one already."""
        ...

    async def mark(self, ours: PullRequest, *, is_draft: bool) -> None:
        """It becomes a draft, or ready, where its title does not say so. ForgeError: it stays as it is."""
        ...

    async def update(self, number: int, draft: Draft) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a forge's API said."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Api:
    """Calls of one forge's API."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url = url.rstrip("/")
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=ANSWER_S_MAX,
            trust_env=False,
            follow_redirects=False,
            verify=_certificates() if self.url.startswith("https:") else True,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    def sibling(self, ending: str, name: str) -> Api:
        """The API called `name` that stands beside this one, whose address ends in `ending` on some servers."""
        other = copy.copy(self)
        other.url = f"{self.url.removesuffix(ending)}/{name}"
        return other

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, also: tuple[int, ...] = ()
    ) -> tuple[int, Any]:
        """Status and JSON of the answer: 2xx, or one of `also`. ForgeError for all others."""
        waited_s = 0.0
        for number in range(1, TRIES + 1):
            try:
                answer = await self._ask(method, path, body)
                if 200 <= answer.status < 300 or answer.status in also:
                    return answer.status, _json(answer, self.url)
                told = _refusal(answer, self.url)
                wait_s = _opens_in_s(answer.headers, time.time()) or AWAY_S * number
            except ForgeError as error:
                told, wait_s = error, AWAY_S * number
            is_passing = told.code in ("forge_unreachable", "forge_rate_limited")
            waited_s += wait_s
            if number == TRIES or not is_passing or waited_s > WAIT_S_MAX:
                raise told
            await asyncio.sleep(wait_s)
        raise AssertionError("the loop above returns or raises")

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Answer:
        content = bytearray()
        try:
            async with (
                asyncio.timeout(ANSWER_S_MAX),
                self._client.stream(method, f"{self.url}{path}", json=body) as answer,
            ):
                async for part in answer.aiter_bytes():
                    content += part
                    if len(content) > ANSWER_BYTES_MAX:
                        said = f"{self.url} answers with more than {ANSWER_BYTES_MAX // limits.MIB} MiB"
                        raise ForgeError(f"{said}: is this the address of its API?", code="forge_bad_answer")
        except (httpx2.HTTPError, TimeoutError) as error:
            why = f"within {ANSWER_S_MAX:g} s" if isinstance(error, TimeoutError) else f"({type(error).__name__})"
            raise ForgeError(
                f"{self.url} does not answer {why}: look at the network between this host and there, and at the "
                "address in git.forges",
                code="forge_unreachable",
            ) from error
        return Answer(answer.status_code, answer.headers, bytes(content))

    async def pages(self, path: str) -> list[dict[str, Any]]:
        """The rows of all pages, PAGES_MAX at most."""
        rows: list[dict[str, Any]] = []
        for page in range(1, PAGES_MAX + 1):
            _, found = await self.call("GET", f"{path}&page={page}")
            if not isinstance(found, list):
                raise ForgeError(
                    f"{self.url} answers with something else than a list", code="forge_bad_answer"
                )
            rows += [row for row in found if isinstance(row, dict)]
            if len(found) < 50:  # the smallest page that a server makes of a hundred
                break
        return rows


def _json(answer: Answer, url: str) -> Any:
    try:
        return json.loads(answer.content) if answer.content else None
    except (ValueError, RecursionError) as error:
        raise ForgeError(
            f"{url} answers with no JSON: is this the address of its API?", code="forge_bad_answer"
        ) from error


def _certificates() -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    own = os.environ.get("GIT_SSL_CAINFO")
    try:
        if own:
            context.load_verify_locations(own)
    except OSError as error:
        raise ForgeError(f"GIT_SSL_CAINFO names {own}: {error}", code="forge_unreachable") from error
    return context


def _opens_in_s(headers: Mapping[str, str], now_s: float) -> float:
    """Seconds until the forge wants to be asked again, as its answer says; 0 where it does not."""
    after = headers.get("retry-after", "")
    if after.isdigit():
        return float(after)
    if after:
        try:
            return max(0.0, parsedate_to_datetime(after).timestamp() - now_s)
        except ValueError:
            return 0.0
    if headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining", "0")) != "0":
        return 0.0  # another limit than the one whose reset is told
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", ""))
    return max(0.0, float(reset) - now_s) if reset.isdigit() else 0.0


def _refusal(answer: Answer, url: str) -> ForgeError:
    status = answer.status
    said = f"{url} answers {status}: {' '.join(answer.content[:300].decode('utf-8', 'replace').split())}"
    is_limit = status == 429 or (
        status == 403
        and (
            answer.headers.get("x-ratelimit-remaining") == "0"
            or "retry-after" in answer.headers
            or "rate limit" in said.lower()
        )
    )
    if is_limit:
        opens_s = _opens_in_s(answer.headers, time.time())
        when = f"in {opens_s:.0f} s" if opens_s else "later"
        return ForgeError(
            f"{said}; its rate limit opens {when}: do it by hand then", code="forge_rate_limited"
        )
    if status in (401, 403):
        return ForgeError(
            f"{said}; the token may not do this: renew it, or give it that right", code="forge_denied"
        )
    if status == 404:
        return ForgeError(f"{said}; no such repository, or the token may not see it", code="forge_missing")
    if status >= 500:
        return ForgeError(f"{said}; it was asked {TRIES} times: do it by hand later", code="forge_unreachable")
    return ForgeError(said, code="forge_refused")
