"""Gitea and Forgejo: GitHub's paths below `/api/v1`, 409 for one that is there, drafts by their title."""

from __future__ import annotations

from typing import Any

from agentcom_sidecar.forges.base import Draft, PullRequest
from agentcom_sidecar.forges.github import GitHub


class Gitea(GitHub):
    taken = (409,)

    def headers(self, token: str) -> dict[str, str]:
        return {"authorization": f"token {token}", "accept": "application/json"}

    def fields(self, draft: Draft) -> dict[str, Any]:
        title = f"WIP: {draft.title}" if draft.is_draft else draft.title
        return {"title": title, "head": draft.branch, "base": draft.base, "body": draft.body}

    async def mark(self, ours: PullRequest, *, is_draft: bool) -> None:
        """Its title says so."""

    async def update(self, number: int, draft: Draft) -> None:
        fields = self.fields(draft)
        await self.api.call(
            "PATCH", f"{self.path}/pulls/{number}", {name: fields[name] for name in ("title", "body")}
        )
