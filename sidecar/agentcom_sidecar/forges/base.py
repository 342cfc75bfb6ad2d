"""What every forge does for us, and the one way to ask it: JSON over HTTPS, with a token that goes nowhere else.

Rules it keeps:
* The token comes from a 0600 file of this host's own, is sent to the API address that stands beside it in this host's
  settings and to no other (no redirects, no proxy of the environment), and stands in no message.
* A server that is away or has closed its rate limit for a short while is asked again, TRIES times in all.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2

from agentcom import limits
from agentcom.errors import AgentComError

TRIES = 3
ANSWER_S_MAX = 20.0
WAIT_S_MAX = 20.0  # a rate limit that opens later than this is not waited for
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


class Forge(Protocol):
    """One repository on one forge."""

    async def open_ones(self) -> list[PullRequest]: ...
    async def has_branch(self, name: str) -> bool: ...
    async def create(self, draft: Draft) -> PullRequest | None:
        """None: the forge says that there is one already."""
        ...

    async def update(self, number: int, draft: Draft) -> None: ...


class Api:
    """Calls of one forge's API."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url = url.rstrip("/")
        self._client = httpx2.AsyncClient(
            headers=headers, timeout=ANSWER_S_MAX, trust_env=False, follow_redirects=False
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, also: tuple[int, ...] = ()
    ) -> tuple[int, Any]:
        """Status and JSON of the answer: 2xx, or one of `also`. ForgeError for all others."""
        for left in reversed(range(TRIES)):
            wait_s = 1.0
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    answer = await self._client.request(method, f"{self.url}{path}", json=body)
            except (httpx2.HTTPError, TimeoutError) as error:
                told = ForgeError(
                    f"{self.url} does not answer ({type(error).__name__})", code="forge_unreachable"
                )
            else:
                if answer.is_success or answer.status_code in also:
                    return answer.status_code, _json(answer, self.url)
                told = _refusal(answer, self.url)
                wait_s = _opens_in_s(answer)
            if (
                not left
                or told.code not in ("forge_unreachable", "forge_rate_limited")
                or wait_s > WAIT_S_MAX
            ):
                raise told
            await asyncio.sleep(wait_s)
        raise AssertionError("the loop above returns or raises")

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


def _json(answer: httpx2.Response, url: str) -> Any:
    try:
        if len(answer.content) > ANSWER_BYTES_MAX:
            raise ValueError("too long")
        return answer.json() if answer.content else None
    except ValueError as error:
        raise ForgeError(
            f"{url} answers with no JSON: is this the address of its API?", code="forge_bad_answer"
        ) from error


def _opens_in_s(answer: httpx2.Response) -> float:
    after, reset = answer.headers.get("retry-after", ""), answer.headers.get("x-ratelimit-reset", "")
    if after.isdigit():
        return float(after)
    return max(1.0, float(reset) - time.time()) if reset.isdigit() else 1.0


def _refusal(answer: httpx2.Response, url: str) -> ForgeError:
    status = answer.status_code
    said = f"{url} answers {status}: {' '.join(answer.text[:300].split())}"
    is_limit = status == 429 or (
        status == 403
        and (answer.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in answer.headers)
    )
    if is_limit:
        return ForgeError(f"{said}; its rate limit opens later", code="forge_rate_limited")
    if status in (401, 403):
        return ForgeError(
            f"{said}; the token may not do this: renew it, or give it that right", code="forge_denied"
        )
    if status == 404:
        return ForgeError(f"{said}; no such repository, or the token may not see it", code="forge_missing")
    if status >= 500:
        return ForgeError(said, code="forge_unreachable")
    return ForgeError(said, code="forge_refused")
