"""/repos: the registered repositories."""

from __future__ import annotations

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom_web.forwarding import answer, body, described, query

repos = Blueprint("repos", __name__)


@repos.get("/repos")
@described("view, submit, operate, admin")
def listed() -> Response:
    """All registered repositories with their checks, hosts and default branch."""
    return answer(query(m.RepoList))


@repos.post("/repos")
@described("operate, admin", body=(m.RepoAdd,), status=201)
def add() -> Response:
    """Register a repository: its checks run for every task in it, its hosts may work on it."""
    return answer(body(m.RepoAdd), status=201)


@repos.get("/repos/<repo>")
@described("view, submit, operate, admin")
def show(repo: str) -> Response:
    """One registered repository, by its name."""
    return answer(query(m.RepoShow, repo=repo))


@repos.patch("/repos/<repo>")
@described("operate, admin", body=(m.RepoUpdate,), fixed=("repo",))
def update(repo: str) -> Response:
    """Change what is given; lists are replaced."""
    return answer(body(m.RepoUpdate, repo=repo))


@repos.delete("/repos/<repo>")
@described("operate, admin", query=m.RepoRemove, fixed=("repo",))
def remove(repo: str) -> Response:
    """Forget a repository; force=true: also while tasks of it are not over."""
    return answer(query(m.RepoRemove, repo=repo))
