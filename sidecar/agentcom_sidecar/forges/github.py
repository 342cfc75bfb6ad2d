"""GitHub, and what GitHub's API became elsewhere: `api.github.com`, or `HOST/api/v3`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from agentcom_sidecar.forges.base import Api, Draft, ForgeError, PullRequest


class GitHub:
    """422 means that there is one, or that there is nothing to merge: the caller looks for the open one."""

    taken = (422,)

    def __init__(self, url: str, repository: str, token: str) -> None:
        self.api = Api(url, self.headers(token))
        self.path = f"/repos/{quote(repository)}"

    def headers(self, token: str) -> dict[str, str]:
        return {
            "authorization": f"Bearer {token}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
        }

    async def open_ones(self) -> list[PullRequest]:
        return [
            pull_of(row)
            for row in await self.api.pages(f"{self.path}/pulls?state=open&per_page=100&limit=50")
        ]

    async def has_branch(self, name: str) -> bool:
        status, _ = await self.api.call("GET", f"{self.path}/branches/{quote(name, safe='')}", also=(404,))
        return status != 404

    async def create(self, draft: Draft) -> PullRequest | None:
        status, made = await self.api.call("POST", f"{self.path}/pulls", self.fields(draft), also=self.taken)
        return None if status in self.taken else pull_of(made)

    async def update(self, number: int, draft: Draft) -> None:
        await self.api.call(
            "PATCH", f"{self.path}/pulls/{number}", {"title": draft.title, "body": draft.body}
        )

    def fields(self, draft: Draft) -> dict[str, Any]:
        named = {"title": draft.title, "head": draft.branch, "base": draft.base, "body": draft.body}
        return named | {"draft": draft.is_draft}


def pull_of(row: Any) -> PullRequest:
    """From what the forge says of one; ForgeError where that is something else."""
    try:
        head = row["head"]
        return PullRequest(
            int(row["number"]), str(row["html_url"]), head["ref"], head["sha"], row["body"] or ""
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ForgeError(f"the forge describes no pull request: {error}", code="forge_bad_answer") from error
