"""A forge: one origin that serves git itself over smart HTTP (`git http-backend`, below `--root`) and the pull requests
of one repository (`--repository`), as GitHub (at the root or, as GitHub Enterprise, below `/api/v3`), Gitea (`/api/v1`)
and GitLab (`/api/v4`) show them.

Whether one is a draft its title says on Gitea and GitLab. On GitHub it is set when it is opened, no PATCH changes it,
and two mutations of GraphQL do (`/graphql`, `/api/graphql`), which refuse with errors in an answer of 200 and have
nothing to say (`null`) of one that is as they want it.

The branches are those of the real bare repository, so what was never pushed cannot be merged, and its hooks run. Who
asks is known by token, as Basic for git and as each API wants it: `TOKEN` may write, `READ_TOKEN` only read,
`BLIND_TOKEN` sees no repository at all. With `--cert` and `--key` the same port answers https too.

Faults are scripted by path (`routes`), for the next calls of the API (`{"next": [{"status", "headers"?, "hang"?,
"mib"?}]}`), or for the next ones of git by its service (`{"git": {"git-receive-pack": [{"status", "headers"?, "text"?,
"hang"?}]}}`). `{"lose": 1}`: the next pull request is made, and its answer is lost; `{"lose_mark": 1}` likewise for
what GraphQL does. `{"drafts": false}`: the repository's plan has no drafts.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.standins.serving import Application, Exchange, JsonObject, Refusal, command_line, serve

TOKEN = "a-token-of-the-test"
READ_TOKEN = "a-token-that-only-reads"
BLIND_TOKEN = "a-token-that-sees-nothing"
RIGHTS = {TOKEN: ("read", "write"), READ_TOKEN: ("read",), BLIND_TOKEN: ()}
GIT_ROUTE = re.compile(r"^/(.+\.git)/(info/refs|git-upload-pack|git-receive-pack)$")
GRAPHQL_ROUTES = ("/graphql", "/api/graphql")
MUTATION = re.compile(
    r"^mutation\(\$id: ID!\) \{ (convertPullRequestToDraft|markPullRequestReadyForReview)"
    r"\(input: \{pullRequestId: \$id\}\) \{ pullRequest \{ isDraft \} \} \}$"
)
DRAFT_TITLE = {"gitea": ("WIP:", "[WIP]"), "gitlab": ("Draft:", "[Draft]", "(Draft)")}
RECEIVE = "git-receive-pack"
GIT_S_MAX = 60


class ForgeStandIn(Application):
    name = "forge"

    def __init__(self, repository: Path, root: Path) -> None:
        super().__init__()
        self.repository, self.root = repository, root
        self.requests: list[JsonObject] = []
        self.next: list[JsonObject] = []
        self.git: dict[str, list[JsonObject]] = {}
        self.lose = self.lose_mark = 0
        self.has_drafts = True

    def load_script(self, script: JsonObject) -> None:
        super().load_script(script)
        self.next = list(script.get("next", self.next))
        self.git = {name: list(faults) for name, faults in script.get("git", self.git).items()}
        self.lose = int(script.get("lose", self.lose))
        self.lose_mark = int(script.get("lose_mark", self.lose_mark))
        self.has_drafts = bool(script.get("drafts", self.has_drafts))
        if "body" in script:  # somebody edits the only one
            self.requests[0]["body"] = script["body"]

    def state(self) -> JsonObject:
        return super().state() | {"requests": [self._shown(each) for each in self.requests]}

    def answer(self, exchange: Exchange) -> None:
        if found := GIT_ROUTE.match(exchange.route):
            self._serve_git(exchange, found[1], found[2])
        else:
            self._serve_api(exchange)

    # git

    def _serve_git(self, exchange: Exchange, name: str, what: str) -> None:
        query = urlsplit(exchange.path).query
        service = parse_qs(query).get("service", [what])[0]
        if faults := self.git.get(service):
            fault = faults.pop(0)
            if fault.get("hang"):
                exchange.hang()
            exchange.send_text(fault["status"], fault.get("text", "scripted"), fault.get("headers"))
            return
        rights = RIGHTS.get(_basic(exchange.headers.get("authorization", "")))
        if rights is None:
            realm = {"www-authenticate": 'Basic realm="forge"'}
            exchange.send_text(401, "Invalid username or token.", realm)
        elif "read" not in rights or not (self.root / name).is_dir():
            exchange.send_text(404, "Repository not found.")
        elif service == RECEIVE and "write" not in rights:
            exchange.send_text(403, f"Permission to {name} denied to agent.")
        else:
            self._run_backend(exchange, query)

    def _run_backend(self, exchange: Exchange, query: str) -> None:
        headers = exchange.headers
        done = subprocess.run(
            ["git", "http-backend"],
            input=exchange.raw,
            capture_output=True,
            timeout=GIT_S_MAX,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_PROTOCOL": headers.get("git-protocol", ""),
                "PATH_INFO": exchange.route,
                "QUERY_STRING": query,
                "REQUEST_METHOD": exchange.command,
                "CONTENT_TYPE": headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(exchange.raw)),
                "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
                "REMOTE_USER": "agent",
                "REMOTE_ADDR": "127.0.0.1",
            },
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        said = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(said.get("Status", "200 OK" if head else "500").split()[0])
        exchange.send_raw(status, body, said.get("Content-Type", "text/plain"))

    # pull requests

    def _serve_api(self, exchange: Exchange) -> None:
        if self.next:
            fault = self.next.pop(0)
            if fault.get("hang"):
                exchange.hang()
            if "mib" in fault:
                exchange.send_text(fault["status"], "x" * (fault["mib"] << 20))
                return
            raise Refusal(fault["status"], {"message": "scripted"}, fault.get("headers"))
        is_gitlab = exchange.route.startswith("/api/v4/")
        given = exchange.headers.get("private-token" if is_gitlab else "authorization", "")
        rights = RIGHTS.get(given.rpartition(" ")[2])
        if rights is None:
            raise Refusal(401, {"message": "Bad credentials"})
        if exchange.route in GRAPHQL_ROUTES:
            self._mutate(exchange, rights)
            return
        if "read" not in rights:
            raise Refusal(404, {"message": "Not Found"})
        if exchange.command != "GET" and "write" not in rights:
            raise Refusal(403, {"message": "Resource not accessible by personal access token"})
        what = exchange.route.rstrip("/").split("/")
        if what[-2:-1] == ["branches"]:
            if self._commit(unquote(what[-1])) is None:
                raise Refusal(404, {"message": "Branch not found"})
            exchange.send_answer(200, {"name": unquote(what[-1])})
        elif exchange.command == "GET" and what[-1].isdigit():
            exchange.send_answer(200, self._shown(next(r for r in self.requests if r["number"] == int(what[-1]))))
        elif exchange.command == "GET":
            page = "page=1" in exchange.path.replace("per_page=1", "")
            exchange.send_answer(200, [self._shown(r) for r in self.requests] if page else [])  # type: ignore[arg-type]
        elif exchange.command == "POST":
            kind = "gitlab" if is_gitlab else "gitea" if exchange.route.startswith("/api/v1/") else "github"
            self._create(exchange, kind)
        else:
            found = next(r for r in self.requests if r["number"] == int(what[-1]))
            found |= {
                "title": exchange.body["title"],
                "body": exchange.body.get("body", exchange.body.get("description")),
            }
            exchange.send_answer(200, self._shown(found))

    def _create(self, exchange: Exchange, kind: str) -> None:
        body: Any = exchange.body
        branch = body["source_branch" if kind == "gitlab" else "head"]
        taken = any(each["branch"] == branch for each in self.requests)
        if taken or self._commit(branch) is None:
            status = 409 if taken and kind != "github" else 422
            raise Refusal(status, {"message": "Validation Failed", "errors": [{"code": "custom"}]})
        is_draft = kind == "github" and body.get("draft") is True
        if is_draft and not self.has_drafts:
            raise Refusal(422, {"message": "Draft pull requests are not supported in this repository."})
        made = {
            "kind": kind,
            "number": len(self.requests) + 1,
            "branch": branch,
            "title": body["title"],
            "body": body["description" if kind == "gitlab" else "body"],
            "draft": is_draft,
        }
        self.requests.append(made)
        if self.lose:
            self.lose -= 1
            exchange.cut()
            return
        exchange.send_answer(201, self._shown(made))

    def _mutate(self, exchange: Exchange, rights: tuple[str, ...]) -> None:
        asked = MUTATION.match(exchange.body["query"])
        node = exchange.body["variables"]["id"]
        if asked is None:
            exchange.send_answer(200, {"errors": [{"message": "Parse error"}]})
            return
        name, is_draft = asked[1], asked[1] == "convertPullRequestToDraft"
        found = next((r for r in self.requests if node == _node(r) and "read" in rights), None)
        answer: JsonObject = {"data": {name: None}}
        if found is None:
            said = f"Could not resolve to a node with the global id of '{node}'"
            answer["errors"] = [{"type": "NOT_FOUND", "path": [name], "message": said}]
        elif found["draft"] is is_draft:
            pass
        elif "write" not in rights or (is_draft and not self.has_drafts):
            said = f"agent does not have permission to convert the pull request {node} to draft."
            answer["errors"] = [{"type": "FORBIDDEN", "path": [name], "message": said}]
        else:
            found["draft"] = is_draft
            answer["data"][name] = {"pullRequest": {"isDraft": is_draft}}
            if self.lose_mark:
                self.lose_mark -= 1
                exchange.cut()
                return
        exchange.send_answer(200, answer)

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
        titles = DRAFT_TITLE.get(request["kind"])
        return request | {
            "draft": request["title"].startswith(titles) if titles else request["draft"],
            "node_id": _node(request),
            "iid": request["number"],
            "html_url": url,
            "web_url": url,
            "head": {"ref": request["branch"], "sha": commit},
            "source_branch": request["branch"],
            "sha": commit,
            "description": request["body"],
        }


def _node(request: JsonObject) -> str:
    """Its name in GraphQL."""
    return f"PR_kwDOAAAAAc4AAAA{request['number']}"


def _basic(header: str) -> str:
    """The password of Basic credentials: forges take a token there, under any name."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def main() -> None:
    parser = command_line("forge")
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--root", type=Path, help="what git serves; by default what holds the repository's folder")
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    options = parser.parse_args()
    root = options.root or options.repository.parent.parent
    tls = None
    if options.cert is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.cert, options.key)
    serve(lambda: ForgeStandIn(options.repository, root), options, tls)


if __name__ == "__main__":
    main()
