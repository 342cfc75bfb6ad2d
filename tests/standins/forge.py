"""A forge: the pull requests of one repository, as GitHub, Gitea (`/api/v1`) and GitLab (`/api/v4`) show them.

Branches are those of a real bare repository (`--repository`), so what was never pushed cannot be merged. The token is
`TOKEN`. Faults are scripted by path (`routes`), or for the next calls (`{"next": [{"status", "headers"?}]}`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.standins.serving import Application, Exchange, JsonObject, Refusal, command_line, serve

TOKEN = "a-token-of-the-test"


class ForgeStandIn(Application):
    name = "forge"

    def __init__(self, repository: Path) -> None:
        super().__init__()
        self.repository = repository
        self.requests: list[JsonObject] = []
        self.next: list[JsonObject] = []

    def load_script(self, script: JsonObject) -> None:
        super().load_script(script)
        self.next = list(script.get("next", self.next))
        if "body" in script:  # somebody edits the only one
            self.requests[0]["body"] = script["body"]

    def state(self) -> JsonObject:
        return super().state() | {"requests": [self._shown(each) for each in self.requests]}

    def answer(self, exchange: Exchange) -> None:
        if self.next:
            fault = self.next.pop(0)
            raise Refusal(fault["status"], {"message": "scripted"}, fault.get("headers"))
        is_gitlab = exchange.route.startswith("/api/v4/")
        given = exchange.headers.get("private-token" if is_gitlab else "authorization", "")
        if given.rpartition(" ")[2] != TOKEN:
            raise Refusal(401, {"message": "Bad credentials"})
        what = exchange.route.rstrip("/").split("/")
        if what[-2:-1] == ["branches"]:
            if self._commit(unquote(what[-1])) is None:
                raise Refusal(404, {"message": "Branch not found"})
            exchange.send_answer(200, {"name": unquote(what[-1])})
        elif exchange.command == "GET":
            page = "page=1" in exchange.path.replace("per_page=1", "")
            exchange.send_answer(200, [self._shown(r) for r in self.requests] if page else [])  # type: ignore[arg-type]
        elif exchange.command == "POST":
            self._create(exchange, is_gitlab, is_gitea=exchange.route.startswith("/api/v1/"))
        else:
            found = next(r for r in self.requests if r["number"] == int(what[-1]))
            found |= {
                "title": exchange.body["title"],
                "body": exchange.body.get("body", exchange.body.get("description")),
            }
            exchange.send_answer(200, self._shown(found))

    def _create(self, exchange: Exchange, is_gitlab: bool, *, is_gitea: bool) -> None:
        body: Any = exchange.body
        branch = body["source_branch" if is_gitlab else "head"]
        taken = any(each["branch"] == branch for each in self.requests)
        if taken or self._commit(branch) is None:
            status = 409 if taken and (is_gitlab or is_gitea) else 422
            raise Refusal(status, {"message": "Validation Failed", "errors": [{"code": "custom"}]})
        number = len(self.requests) + 1
        text = body["description" if is_gitlab else "body"]
        made = {
            "number": number,
            "branch": branch,
            "title": body["title"],
            "body": text,
            "draft": body.get("draft"),
        }
        self.requests.append(made)
        exchange.send_answer(201, self._shown(made))

    def _commit(self, branch: str) -> str | None:
        call = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}"],
            cwd=self.repository,
            capture_output=True,
            text=True,
        )
        return call.stdout.strip() or None

    def _shown(self, request: JsonObject) -> JsonObject:
        """With the fields of all three forges."""
        url = f"https://forge.example/team/project/pull/{request['number']}"
        commit = self._commit(request["branch"])
        return request | {
            "iid": request["number"],
            "html_url": url,
            "web_url": url,
            "head": {"ref": request["branch"], "sha": commit},
            "source_branch": request["branch"],
            "sha": commit,
            "description": request["body"],
        }


def main() -> None:
    parser = command_line("forge")
    parser.add_argument("--repository", type=Path, required=True)
    options = parser.parse_args()
    serve(lambda: ForgeStandIn(options.repository), options)


if __name__ == "__main__":
    main()
