"""A fake agent program: what any program has to do, and what a test tells it to.

`install(folder, name, *runs)` writes an executable that does what the runs say, one after the other, the last for ever.
A run has `events` (JSON objects, a line each), `text`, `files` (in the worktree), `result` (for the result file),
`before_s` and `after_s` (waits), `child` (seconds that a child sleeps on in a session of its own) and `exit`. What it
was given is in HOME/seen-N.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SOURCE = """
import json, os, pathlib, subprocess, sys, time

home = pathlib.Path(os.environ["HOME"])
number = len(list(home.glob("iteration-*")))
run = RUNS[min(number, len(RUNS)) - 1]
seen = {
    "argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd(), "stdin": sys.stdin.read(),
    "prompt": pathlib.Path(os.environ["AGENTCOM_PROMPT_FILE"]).read_text(),
    "task": json.loads(pathlib.Path(os.environ["AGENTCOM_TASK_JSON_FILE"]).read_text()),
    "is_leader": os.getsid(0) == os.getpid() or os.getpgrp() == os.getpid(),
}
(home / f"seen-{number}.json").write_text(json.dumps(seen))
time.sleep(run.get("before_s", 0))
if "child" in run:
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({run['child']})"], start_new_session=True)
for path, content in run.get("files", {}).items():
    pathlib.Path(path).write_text(content)
if "text" in run:
    print(run["text"], flush=True)
for event in run.get("events", ()):
    print(json.dumps(event), flush=True)
if "result" in run:
    pathlib.Path(os.environ["AGENTCOM_RESULT_FILE"]).write_text(json.dumps(run["result"]))
time.sleep(run.get("after_s", 0))
sys.exit(run.get("exit", 0))
"""


def install(folder: Path, name: str, *runs: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(
        f"#!{sys.executable}\nimport json\nRUNS = json.loads({json.dumps(json.dumps(runs))})\n{SOURCE}"
    )
    path.chmod(0o755)
    return path


def seen(scratch: Path, number: int) -> dict[str, Any]:
    """What the program was given in that run."""
    return dict(json.loads((scratch / f"seen-{number}.json").read_text()))


def claude_events(
    text: str,
    session: str = "5e55",
    tokens_in: int = 100,
    tokens_out: int = 10,
    cost_usd: float = 0.01,
    **more: Any,
) -> list[dict[str, Any]]:
    """What Claude Code prints with stream-json."""
    usage = {"input_tokens": tokens_in, "cache_read_input_tokens": 7, "output_tokens": tokens_out}
    tool = {"type": "tool_use", "name": "Edit", "input": {"file_path": "calc.py"}}
    return [
        {"type": "system", "subtype": "init", "session_id": session, "model": "claude-sonnet-5-5"},
        {"type": "assistant", "message": {"content": [tool, {"type": "text", "text": text}]}},
        {
            "type": "result", "subtype": "success", "is_error": False, "result": text, "session_id": session,
            "usage": usage, "total_cost_usd": cost_usd, **more,
        },
    ]  # fmt: skip
