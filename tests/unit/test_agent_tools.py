"""The tools that a model has: what each does, and that none leaves the worktree or raises for what a model sent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom_sidecar.agentic import file_tools
from agentcom_sidecar.agentic.command_tools import CommandTools
from agentcom_sidecar.agentic.file_tools import FileTools
from agentcom_sidecar.agentic.tools import RESULT_CHARS_MAX, Toolbox, encoded, result_chars_max
from agentcom_sidecar.backends.base import BackendError, ToolCall, configuration
from agentcom_sidecar.command import CommandResult, Outcome

FILE_TOOLS = ("read_file", "write_file", "edit_file", "list_directory")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("canary")
    root = tmp_path / "work"
    (root / "src").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git/config").write_text("canary")
    (root / "src/a.py").write_text("one\ntwo\ntwo\nthree\n")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "picture").write_bytes(b"\x89PNG\xff")
    return root


def said(root: Path, name: str, chars_max: int = RESULT_CHARS_MAX, **arguments: Any) -> dict[str, Any]:
    box = Toolbox(FileTools(root, chars_max))
    observation: dict[str, Any] = msgspec.json.decode(
        encoded(asyncio.run(box.run(ToolCall("1", name, arguments))))
    )
    return observation


def test_read_file_shows_lines_and_where_to_go_on(root: Path) -> None:
    assert said(root, "read_file", path="src/a.py", first_line=2, lines=2) == {
        "status": "read",
        "path": "src/a.py",
        "first_line": 2,
        "lines": 2,
        "content": "two\ntwo\n",
        "next_line": 4,
    }
    whole = said(root, "read_file", path="src/a.py")
    assert (whole["lines"], "next_line" in whole) == (4, False)
    assert said(root, "read_file", path="src/a.py", first_line=9)["code"] == "not_found"


def test_read_file_shows_as_much_as_fits_also_of_one_long_line(root: Path) -> None:
    (root / "long").write_text("x" * 50_000 + "\nend\n")
    first = said(root, "read_file", 1_000, path="long")
    assert (len(first["content"]), first["next_line"]) == (1_000, 2)
    assert said(root, "read_file", 1_000, path="long", first_line=2)["content"] == "end\n"


def test_an_empty_file_reads_as_nothing(root: Path) -> None:
    (root / "empty").touch()
    assert said(root, "read_file", path="empty") == {
        "status": "read",
        "path": "empty",
        "first_line": 1,
        "lines": 0,
        "content": "",
    }


def test_edit_file_replaces_what_stands_there_exactly_once(root: Path) -> None:
    assert said(root, "edit_file", path="src/a.py", old_text="one\n", new_text="1\n")["status"] == "edited"
    assert (root / "src/a.py").read_text() == "1\ntwo\ntwo\nthree\n"


def test_edit_file_says_where_a_text_stands_that_is_not_unique(root: Path) -> None:
    found = said(root, "edit_file", path="src/a.py", old_text="two", new_text="2")
    assert (found["code"], "2 times, at lines 2, 3" in found["message"]) == ("not_unique", True)
    assert "replace_all" in found["remedy"]
    assert (root / "src/a.py").read_text() == "one\ntwo\ntwo\nthree\n"
    done = said(root, "edit_file", path="src/a.py", old_text="two", new_text="2", replace_all=True)
    assert (done["replaced"], (root / "src/a.py").read_text()) == (2, "one\n2\n2\nthree\n")


@pytest.mark.parametrize(
    ("content", "old", "remedy"),
    [
        ("a\r\nb\r\n", "a\nb", "\\r\\n"),
        ("a  b", "a b", "white space"),
        ("a", "z", "copy the lines"),
    ],
)
def test_edit_file_says_why_a_text_does_not_match(root: Path, content: str, old: str, remedy: str) -> None:
    (root / "b").write_bytes(content.encode())
    found = said(root, "edit_file", path="b", old_text=old, new_text="")
    assert (found["code"], remedy in found["remedy"]) == ("no_match", True)


def test_what_is_no_text_is_neither_read_nor_edited(root: Path) -> None:
    assert said(root, "read_file", path="picture")["code"] == "not_text"
    assert said(root, "edit_file", path="picture", old_text="P", new_text="Q")["code"] == "not_text"
    assert said(root, "edit_file", path="src/a.py", old_text="P", new_text="P")["code"] == "unchanged"


def test_list_directory_shows_kinds_and_leaves_out_gits_own(root: Path) -> None:
    entries = said(root, "list_directory", depth=2)["entries"]
    assert [(each["path"], each.get("kind", "file")) for each in entries] == [
        ("out", "link"),
        ("picture", "file"),
        ("src", "directory"),
        ("src/a.py", "file"),
    ]
    assert said(root, "list_directory", path="nowhere")["code"] == "not_found"
    assert said(root, "list_directory", path="src/a.py")["code"] == "not_found"


def test_list_directory_counts_what_it_does_not_show(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tools, "ENTRIES_MAX", 2)
    listed = said(root, "list_directory", depth=2)
    assert (len(listed["entries"]), listed["left_out"]) == (2, 2)


@pytest.mark.parametrize(
    "path", ["../secret/key", "/etc/passwd", "out/key", "out", ".git/config", ".GIT", "a\0b", "src/../../x"]
)
@pytest.mark.parametrize("name", FILE_TOOLS)
def test_no_tool_leaves_the_worktree(root: Path, tmp_path: Path, name: str, path: str) -> None:
    given = {"path": path, "content": "x", "old_text": "canary", "new_text": "x"}
    found = said(root, name, **given)
    assert (found["status"], found["code"]) == ("failed", "path_refused")
    assert (tmp_path / "secret/key").read_text() == "canary"
    assert (root / ".git/config").read_text() == "canary"


@given(
    st.sampled_from([*FILE_TOOLS, "search_files", "run_command", "finish", "x"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda each: (
            st.lists(each) | st.dictionaries(st.sampled_from(["path", "content", "depth", "z"]), each)
        ),
        max_leaves=8,
    ),
)
@settings(deadline=None, max_examples=20)
def test_no_arguments_make_a_tool_raise(
    tmp_path_factory: pytest.TempPathFactory, name: str, arguments: Any
) -> None:
    root = tmp_path_factory.mktemp("any")
    box = Toolbox(FileTools(root, 2_000))
    assert "status" in msgspec.json.decode(encoded(asyncio.run(box.run(ToolCall("1", name, arguments)))))


def commands(
    root: Path, ended: CommandResult | BackendError, why_not: str | None = None
) -> tuple[Toolbox, list[Any]]:
    asked: list[Any] = []

    async def run(argv: tuple[str, ...], timeout_s: float, _is_logged: bool) -> CommandResult:
        asked.append((argv, timeout_s))
        if isinstance(ended, BackendError):
            raise ended
        return ended

    return Toolbox(FileTools(root, 1_000), CommandTools(root, run, why_not, 1_000)), asked


def command_result(output: bytes, exit_code: int = 0, outcome: Outcome = Outcome.EXITED) -> CommandResult:
    return CommandResult(
        exit_code=exit_code, signal=None, output=output, truncated_bytes=0, duration_ms=5, outcome=outcome
    )


def told(box: Toolbox, name: str, **arguments: Any) -> dict[str, Any]:
    observation: dict[str, Any] = msgspec.json.decode(
        encoded(asyncio.run(box.run(ToolCall("1", name, arguments))))
    )
    return observation


def test_what_a_command_prints_is_cut_in_the_middle(root: Path) -> None:
    box, asked = commands(root, command_result(b"begin" + b"x" * 5_000 + b"end", exit_code=2))
    found = told(box, "run_command", command="make", timeout_s=7)
    assert asked == [(("sh", "-c", "make"), 7)]
    assert (found["status"], found["exit_code"]) == ("executed", 2)
    assert found["output"].startswith("begin")
    assert found["output"].endswith("end")
    assert len(found["output"]) < 1_100
    assert found["output_left_out_bytes"] > 4_000


def test_where_a_models_commands_are_refused_the_tool_is_not_offered(root: Path) -> None:
    box, _ = commands(root, command_result(b""), why_not="nothing is isolated on this host")
    assert "run_command" not in box.names
    assert "search_files" in box.names
    assert told(box, "run_command", command="ls")["code"] == "unknown_tool"


def test_a_host_that_cannot_run_it_is_an_observation(root: Path) -> None:
    box, _ = commands(root, configuration("sandbox_unavailable", "no bubblewrap"))
    assert told(box, "run_command", command="ls") == {
        "status": "failed",
        "code": "refused",
        "message": "no bubblewrap",
        "remedy": "do the task without commands",
    }


def test_a_search_is_words_of_grep_and_never_of_a_shell(root: Path) -> None:
    box, asked = commands(root, command_result(b"./src/a:b.py\x003:x = '; rm'\nrubbish\n"))
    found = told(box, "search_files", pattern="; rm -rf", path="src", file_names="*.py")
    argv = asked[0][0]
    assert argv[-4:] == ("-e", "; rm -rf", "--", "./src")
    assert "--include=*.py" in argv
    assert "-F" in argv
    assert found == {"status": "found", "matches": [{"path": "src/a:b.py", "line": 3, "text": "x = '; rm'"}]}
    assert told(box, "search_files", pattern="x", path="out")["code"] == "path_refused"
    assert told(box, "search_files", pattern="x", path="gone")["code"] == "not_found"


def test_a_search_that_took_too_long_says_that_there_may_be_more(root: Path) -> None:
    box, _ = commands(root, command_result(b"./a\x001:x\n", outcome=Outcome.TIMED_OUT))
    found = told(box, "search_files", pattern="x")
    assert (len(found["matches"]), found["is_cut"]) == (1, True)


def test_what_a_tool_shows_fits_a_small_models_context() -> None:
    assert result_chars_max(8_192) == 6_144
    assert (result_chars_max(512), result_chars_max(None)) == (2_000, RESULT_CHARS_MAX)
