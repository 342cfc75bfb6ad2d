"""I21: secrets of this machine, and what looks like one, reach no output of a real `agentcom up`, wherever they come
from. Each place has a secret of its own, so that a hit says which way it took."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.standins import standin
from tests.standins.forge import TOKEN
from tests.standins.origin import Origin, origin_of
from tests.world import World, eventually, make_repository

KEY = "sk-ant-api03-theKeyOfThisHost0123"
IN_ENVIRONMENT = "swordfish,of the deploy/job&77"  # has no form: known by value alone
IN_FILE = "Zx81-endpoint-credential-Qm"
PRINTED = "ghp_0123456789abcdefABCDEF0123456789abcd"
SPLIT = "glpat-Ab12Cd34Ef56Gh78Ij90"
CHECKED = "xoxb-210987654321-abcdefGHIJKL"
SAID = "AKIAQ3EGRIXZ5TNBW7UV"
IN_URL = "hunter2-of-the-proxy"
SECRETS = (KEY, IN_ENVIRONMENT, IN_FILE, PRINTED, SPLIT, CHECKED, SAID, IN_URL, TOKEN)


def assembled(secret: str) -> str:
    """A shell command that prints it, and does not contain it: a task's own text is kept as it was given."""
    return f"printf '%s%s\\n' '{secret[:9]}' '{secret[9:]}'"


def hits(text: str | bytes) -> list[str]:
    raw = text.encode() if isinstance(text, str) else text
    return [secret for secret in SECRETS if secret.encode() in raw]


def test_i21_no_secret_leaves(world: World, tmp_path: Path) -> None:
    key_file = tmp_path / "endpoint.key"
    key_file.write_text(f"{IN_FILE}\n")
    key_file.chmod(0o600)
    script = {"replies": [{"content": f"I saw {SAID}, {IN_FILE} and {KEY}.", "tokens_in": 9, "tokens_out": 9}]}
    make_repository(tmp_path / "theirs", {"README.md": "hello\n"})
    with (
        standin("anthropic", script, key=KEY) as server,
        standin("ollama", {"models": []}) as local,
        origin_of(tmp_path / "theirs", tmp_path) as origin,
    ):
        up = world.start(
            "home", "up", "--json", "--http", "127.0.0.1:0", "--hub-port", "0",
            ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=server.url, DEPLOY_PASSWORD=IN_ENVIRONMENT,
            AGENTCOM_ENDPOINTS_DISCOVER=local.url, AGENTCOM_ENDPOINTS_KEY_FILES=f"{local.url}={key_file}",
            AGENTCOM_LOG_LEVEL="debug", HOME=str(tmp_path), GIT_SSL_CAINFO=str(origin.certificate),
            AGENTCOM_GIT_FORGES=origin.entry(origin.token_file(tmp_path)),
        )  # fmt: skip
        token = Path(up.ready["token_file"]).read_text().strip()
        feed = listening(up.ready["http"], token)
        eventually("the key file was read", lambda: local.log("/api/version") or local.log("/api/tags"))
        shell = "; ".join(
            (
                f"cat {key_file}",  # as any command of a host without isolation could
                f"tr '\\0' '\\n' < /proc/{up.pid}/environ | grep -e PASSWORD -e ANTHROPIC",
                assembled(PRINTED),
                f"printf '%s%s\\n' 'cannot read https://user:{IN_URL[:9]}' '{IN_URL[9:]}@example.org/x.git'",
                f"printf '%s' '{SPLIT[:12]}'; sleep 0.4; printf '%s\\n' '{SPLIT[12:]}'",
                "false",
            )
        )
        done = four_tasks(world, origin, shell, key_file)
        found = {f"the pull request's {place}": hits(text) for place, text in brought_to(origin)}
        refused = world.run("home", "submit", "fetch it", "--repo", f"https://user:{IN_URL}@example.org/x.git")
        assert "credentials_in_url" in refused.stderr

    tasks = [json.loads(each.stdout) for each in done]
    assert tasks[3]["result"]["pull_request"], tasks[3]
    assert "[redacted]" in tasks[0]["error"]["message"]
    assert "[redacted]" in tasks[1]["result"]["iterations"][0]["checks"][0]["output"]
    assert tasks[2]["result"]["output"] == "I saw [redacted], [redacted] and [redacted]."

    found |= {f"submit {n}": hits(each.stdout) for n, each in enumerate(done)}
    log = world.run("home", "task", "log", str(tasks[0]["id"]))
    assert "[redacted]" in log.stdout
    found["task log"] = hits(log.stdout)
    assert world.run("home", "backup", "now").returncode == 0
    found |= answers(up.ready["http"], token, [task["id"] for task in tasks])
    doctor = world.run("home", "doctor", "--json")
    found["doctor"] = hits(doctor.stdout + doctor.stderr)
    assert up.stop() == 0
    found["logs of all processes"] = hits(up.log.read_bytes())
    for file in sorted(world.home("home").rglob("*")):
        if file.is_file():
            found[str(file.relative_to(world.home("home")))] = hits(file.read_bytes())
    assert b"event: log" in feed, "the live feed tells of logs too"
    assert b"[redacted]" in feed
    found["the live feed"] = hits(bytes(feed))
    assert any("store" in place for place in found)
    assert any("backups" in place for place in found)
    assert {place: secrets for place, secrets in found.items() if secrets} == {}


def four_tasks(world: World, origin: Origin, shell: str, key_file: Path) -> list[subprocess.CompletedProcess[str]]:
    """A command that fails, a check that fails, an answer of a model, work that is pushed."""
    given = ("--wait", "--json")
    return [
        world.run("home", "submit", "look around", "--command", shell, "--max-retries=0", *given),
        world.run(
            "home", "submit", "look closer", "--command", "true", *given,
            "--check", f"command_succeeds={assembled(CHECKED)}; cat {key_file}; false",
        ),
        world.run("home", "submit", "judge the design", "--tier", "complex", *given),
        world.run(
            "home", "submit", "bring it", "--repo", origin.url, *given,
            "--command", f"echo hi > hi.txt; {assembled(PRINTED)}; cat {key_file}",
            "--check", f"command_succeeds={assembled(CHECKED)}; cat {key_file}",
        ),
    ]  # fmt: skip


def answers(base: str, token: str, tasks: list[int]) -> dict[str, list[str]]:
    """What the HTTP server says, of everything and of each task, and the page with its scripts."""
    listed = "tasks agents hosts endpoints config dead snapshot stats events/history worktrees repos budgets queue"
    paths = [f"/api/v1/{each}" for each in (*listed.split(), "backups", "openapi.json")]
    paths += [f"/api/v1/tasks/{task}/{each}" for task in tasks for each in ("story", "reports", "log", "why")]
    scripts = ("app.js", "dom.js", "endpoints.js", "worktrees.js", "hosts.js")
    paths += ["/metrics", "/", *(f"/static/{name}" for name in scripts)]
    return {f"GET {path}": hits(get(base, path, token)) for path in paths}


def get(base: str, path: str, token: str) -> bytes:
    request = urllib.request.Request(base + path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def listening(base: str, token: str) -> bytearray:
    """What the page would be told meanwhile, logs of all tasks too; it ends with the hub."""
    heard = bytearray()
    request = urllib.request.Request(f"{base}/api/v1/events", headers={"Authorization": f"Bearer {token}"})

    def listen() -> None:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30) as stream:
            while line := stream.readline():
                heard.extend(line)

    threading.Thread(target=listen, daemon=True).start()
    eventually("the feed has begun", lambda: b"event: snapshot" in heard)
    return heard


def brought_to(origin: Origin) -> Iterator[tuple[str, str]]:
    """All that a forge was given: the request's texts, the commits and their messages."""
    [request] = origin.requests()
    yield "texts", json.dumps(request)
    assert "command_succeeds" in request["body"], "it tells of the check that printed secrets"
    yield "commits", origin.git("log", "--patch", "--format=raw", request["branch"])
