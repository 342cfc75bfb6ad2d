"""From one schema version to the next and back, with batches that only the journal has.

The newer program is this one with one more step, in a folder of its own, run as a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agentcom
from agentcom.errors import StoreVersion
from agentcom.store.backup import make_backup
from agentcom.store.check import full_check_here
from agentcom.store.record import SCHEMA_VERSION, key_u64
from agentcom.store.restore import restore
from agentcom.store.segments import segments
from agentcom.store.start import StorePaths, open_store
from tests.contract.homes import MAP_BYTES, crash
from tests.contract.places import batch_of

NEWER = SCHEMA_VERSION + 1
STEPS = "STEPS: Final[tuple[Step, ...]] = ()"
# Opens the home as a hub does, commits so many batches, of which the store gets none, and ends as a crash does.
SCRIPT = """
import json, sys
from pathlib import Path
from tests.contract.test_upgrade import live

print(json.dumps(live(Path(sys.argv[1]), int(sys.argv[2]))))
"""


def live(home: Path, count: int) -> dict[str, Any]:
    opened = open_store(StorePaths.of_home(home), map_bytes=MAP_BYTES, checker=full_check_here)
    try:
        for number in range(opened.journaled.sequence + 1, opened.journaled.sequence + 1 + count):
            opened.journaled.commit(batch_of(("config", key_u64(number), b"task %d" % number)), number)
        rows = [body.decode() for _, body in opened.journaled.scan("config")]
        return {"how": opened.report.how, "rows": rows, "uncertain": list(opened.report.uncertain)}
    finally:
        crash(opened)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose step puts a mark behind each row of `config`."""
    folder = tmp_path_factory.mktemp("newer")
    package = Path(agentcom.__file__).parent
    shutil.copytree(package, folder / "agentcom", ignore=shutil.ignore_patterns("__pycache__", "_core*"))
    (folder / "tests").symlink_to(package.parent / "tests")
    record, steps = folder / "agentcom/store/record.py", folder / "agentcom/store/migrations.py"
    text = record.read_text()
    assert text.count(f"SCHEMA_VERSION: Final = {SCHEMA_VERSION} ") == 1
    record.write_text(text.replace(f"SCHEMA_VERSION: Final = {SCHEMA_VERSION} ", f"SCHEMA_VERSION: Final = {NEWER} "))
    text = steps.read_text()
    assert text.count(STEPS) == 1
    change = "lambda database, key, body: body + b'!' if database == 'config' else body"
    steps.write_text(text.replace(STEPS, f"STEPS: Final[tuple[Step, ...]] = (Step({NEWER}, {change}),)"))
    return folder


def live_newer(newer: Path, home: Path, count: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-c", SCRIPT, str(home), str(count)]
    # What that program runs of itself is no coverage of this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        command, cwd=newer, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_only_the_journal_has_is_carried_over_with_the_store(newer: Path, tmp_path: Path) -> None:
    live(tmp_path, 3)
    assert live_newer(newer, tmp_path)["rows"] == ["task 1!", "task 2!", "task 3!"]


def test_of_both_versions_in_the_journal_each_row_is_carried_over_once(newer: Path, tmp_path: Path) -> None:
    live(tmp_path, 2)
    found = live_newer(newer, tmp_path, 1)
    assert found["rows"] == ["task 1!", "task 2!", "task 3"]
    (tmp_path / "store" / "data.mdb").write_bytes(b"lost" * 4096)
    again = live_newer(newer, tmp_path)
    assert (again["how"], again["rows"], again["uncertain"]) == ("restored", found["rows"], [])


def test_a_restore_in_an_upgrade_carries_over_what_came_after_the_backup(newer: Path, tmp_path: Path) -> None:
    paths = StorePaths.of_home(tmp_path)
    live(tmp_path, 1)
    live(tmp_path, 1)
    make_backup(paths.store, paths.backups)
    live(tmp_path, 1)
    (paths.store / "data.mdb").write_bytes(b"lost" * 4096)
    found = live_newer(newer, tmp_path)
    assert (found["how"], found["rows"]) == ("restored", ["task 1!", "task 2!", "task 3!"])


def test_back_to_the_older_program_goes_without_the_newer_ones_journal(newer: Path, tmp_path: Path) -> None:
    paths = StorePaths.of_home(tmp_path)
    live(tmp_path, 2)
    live(tmp_path, 0)
    backup = make_backup(paths.store, paths.backups)
    live_newer(newer, tmp_path, 2)
    with pytest.raises(StoreVersion, match="restore NAME --without-journal"):
        live(tmp_path, 0)
    with pytest.raises(StoreVersion, match=f"records of format {NEWER}.*--without-journal"):
        restore(paths.store, paths.backups, paths.journal, chosen=backup.path, map_bytes=MAP_BYTES)
    report = restore(paths.store, paths.backups, paths.journal, chosen=backup.path, replay=False, map_bytes=MAP_BYTES)
    assert "what the journal has is not in the store" in report.uncertain[0]
    assert segments(paths.journal) == []
    assert len(list(paths.journal.glob("*.set-aside-*"))) == 2
    found = live(tmp_path, 1)
    assert (found["rows"], found["uncertain"]) == (["task 1", "task 2", "task 3"], [])
