"""An origin as people have one: a bare repository that a forge serves over https, git and pull requests on one port."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fake_hub_web import self_signed
from tests.standins.forge import TOKEN
from tests.standins.starter import StandIn


@dataclass
class Origin:
    """A bare repository and the forge that serves it. `certificate` is the CA of its https."""

    folder: Path
    bare: Path
    certificate: Path
    forge: StandIn

    @property
    def url(self) -> str:
        return f"https://localhost:{self.forge.port}/team/project.git"

    def entry(self, token_file: Path, kind: str = "github", api: str = "") -> str:
        """Of `git.forges`."""
        port = self.forge.port
        return f"localhost:{port}/team {kind} https://localhost:{port}{api} {token_file}"

    def token_file(self, folder: Path, token: str = TOKEN) -> Path:
        """The token in a file of a host's own."""
        file = folder / "forge.token"
        file.write_text(f"{token}\n")
        file.chmod(0o600)
        return file

    def git(self, *arguments: str) -> str:
        """In the bare repository."""
        who = {f"GIT_{role}_{what}": "them@forge" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(
            ["git", *arguments], cwd=self.bare, env={**os.environ, **who}, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def branches(self) -> set[str]:
        return set(self.git("branch", "--format=%(refname:short)").split())

    def requests(self) -> list[dict[str, Any]]:
        """The pull requests."""
        found: list[dict[str, Any]] = self.forge.state()["requests"]
        return found

    def asked(self, service: str) -> list[dict[str, Any]]:
        """What came for a service of git."""
        return [each for each in self.forge.log() if service in each["path"] + each["query"]]


@contextlib.contextmanager
def origin_of(checkout: Path, folder: Path) -> Iterator[Origin]:
    """Serves a bare clone of `checkout`, below `folder`."""
    bare = folder / "served" / "team" / "project.git"
    bare.parent.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", str(checkout), str(bare)], check=True, capture_output=True)
    certificate, key = self_signed(folder)
    options = ("--repository", str(bare), "--cert", str(certificate), "--key", str(key))
    forge = StandIn("forge", None, *options)
    try:
        yield Origin(folder, bare, certificate, forge)
    finally:
        forge.kill()
