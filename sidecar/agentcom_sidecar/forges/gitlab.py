"""GitLab: merge requests below `/api/v4`, 409 for one that is there, drafts by their title. It takes a request for
a branch that is not there: the caller asks for it first."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from agentcom_sidecar.forges.base import Api, Draft, ForgeError, PullRequest

TAKEN = 409


class GitLab:
    def __init__(self, url: str, repository: str, token: str) -> None:
        self.api = Api(url, {"private-token": token, "accept": "application/json"})
        self.path = f"/projects/{quote(repository, safe='')}"

    async def open_ones(self) -> list[PullRequest]:
        rows = await self.api.pages(f"{self.path}/merge_requests?state=opened&per_page=100")
        return [_request_of(row) for row in rows]

    async def has_branch(self, name: str) -> bool:
        path = f"{self.path}/repository/branches/{quote(name, safe='')}"
        status, _ = await self.api.call("GET", path, also=(404,))
        return status != 404

    async def create(self, draft: Draft) -> PullRequest | None:
        fields = _fields(draft) | {"source_branch": draft.branch, "target_branch": draft.base}
        status, made = await self.api.call("POST", f"{self.path}/merge_requests", fields, also=(TAKEN,))
        return None if status == TAKEN else _request_of(made)

    async def mark(self, ours: PullRequest, *, is_draft: bool) -> None:
        """Its title says so."""

    async def update(self, number: int, draft: Draft) -> None:
        await self.api.call("PUT", f"{self.path}/merge_requests/{number}", _fields(draft))


def _fields(draft: Draft) -> dict[str, Any]:
    title = f"Draft: {draft.title}" if draft.is_draft else draft.title
    return {"title": title, "description": draft.body}


def _request_of(row: Any) -> PullRequest:
    try:
        text = row["description"] or ""
        return PullRequest(int(row["iid"]), str(row["web_url"]), row["source_branch"], row["sha"] or "", text)
    except (KeyError, TypeError, ValueError) as error:
        raise ForgeError(f"the forge describes no merge request: {error}", code="forge_bad_answer") from error
