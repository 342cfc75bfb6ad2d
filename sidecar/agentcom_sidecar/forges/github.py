"""GitHub, and what GitHub's API became elsewhere: `api.github.com`, or `HOST/api/v3`.

Only its GraphQL can make an open pull request a draft, or ready: `api.github.com/graphql`, or `HOST/api/graphql`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

from agentcom_sidecar.forges.base import Api, Draft, ForgeError, PullRequest

SAID_CHARS_MAX = 300  # of what a refusal says
MARK = "mutation($id: ID!) {{ {name}(input: {{pullRequestId: $id}}) {{ pullRequest {{ isDraft }} }} }}"


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
        if status in self.taken and draft.is_draft and "draft pull requests are not" in str(made).lower():
            ready = self.fields(replace(draft, is_draft=False))  # its plan has none: better that than nothing
            status, made = await self.api.call("POST", f"{self.path}/pulls", ready, also=self.taken)
        return None if status in self.taken else pull_of(made)

    async def mark(self, ours: PullRequest, *, is_draft: bool) -> None:
        if ours.is_draft == is_draft:
            return
        name = "convertPullRequestToDraft" if is_draft else "markPullRequestReadyForReview"
        asked = {"query": MARK.format(name=name), "variables": {"id": ours.node}}
        graphql = self.api.sibling("/v3", "graphql")
        try:
            _, answer = await graphql.call("POST", "", asked)
            _check(answer, name, graphql.url, is_draft=is_draft)
        except ForgeError:
            # It may be done all the same: where an answer was lost, the second time it has nothing to say.
            _, row = await self.api.call("GET", f"{self.path}/pulls/{ours.number}")
            if pull_of(row).is_draft != is_draft:
                raise

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
        node, is_draft = str(row.get("node_id") or ""), row.get("draft") is True
        number, url = int(row["number"]), str(row["html_url"])
        return PullRequest(number, url, head["ref"], head["sha"], row["body"] or "", is_draft, node)
    except (KeyError, TypeError, ValueError) as error:
        raise ForgeError(f"the forge describes no pull request: {error}", code="forge_bad_answer") from error


def _check(answer: Any, name: str, url: str, *, is_draft: bool) -> None:
    """ForgeError where GraphQL has not done it: it refuses with 200."""
    try:
        if answer["data"][name]["pullRequest"]["isDraft"] is is_draft:
            return
    except (KeyError, TypeError):
        pass
    errors = answer.get("errors") if isinstance(answer, dict) else None
    listed = errors if isinstance(errors, list) else ()
    told = [str(each.get("message")) for each in listed if isinstance(each, dict)]
    said = " ".join("; ".join(told).split())[:SAID_CHARS_MAX] or "it does not say why"
    raise ForgeError(f"{url} refuses {name}: {said}", code="forge_refused")
