"""The documentation says what the code does: nothing that people meet is missing from it, nothing in it is stale.

Codes are found by reading the source: whatever is given to a parameter, a keyword or a field named `code`, and the
word beside a FailureClass in a table.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from agentcom import config, protocol_doc
from agentcom.cli import root as cli_root
from agentcom.core.outlet import KEPT
from agentcom.core.principals import RIGHTS
from agentcom.model import (
    Backend,
    CheckKind,
    CheckReport,
    CheckStatus,
    Iteration,
    JsonObject,
    Judgement,
    ResultStatus,
    Role,
    State,
    TaskResult,
)
from agentcom.operations import EventTopic
from agentcom.results import Found, look_view, result_view, whole_result
from agentcom.second import SecondRecord, SecondVerdict
from agentcom.signed_report import SignedReport

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("*.md"))]
SOURCES = [
    path
    for folder in ("agentcom", "sidecar/agentcom_sidecar", "web/agentcom_web")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
SHARED_OPTIONS = {"--json", "--hub", "--debug", "--help", "--version"}
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# A path of one machine: somebody's home, a temporary folder, a checkout.
MACHINE_PATH = re.compile(r"(?<![\w./:-])/(?:home|Users|root|tmp|work|var|mnt|private)/[\w.-]+")


# --- what stands in the docs ----------------------------------------------------------------------------


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table_rows(text: str) -> list[list[str]]:
    """The cells of each table row, without heads' underlines."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def quoted(cell: str) -> str:
    return cell.strip().strip("`")


def sections(text: str) -> dict[str, str]:
    """Heading to what stands under it, up to the next heading of any level."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {quoted(heading): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- what stands in the code ----------------------------------------------------------------------------


def codes_in_source() -> dict[str, str]:
    """Every error code, with one place where it is made."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    takers: dict[str, set[int]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            for name, place in _takes_code(node):
                takers.setdefault(name, set()).add(place)
    found: dict[str, str] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            for code in _codes_at(node, takers):
                line = getattr(node, "lineno", 0)
                found.setdefault(code, f"{path.relative_to(ROOT)}:{line}")
    return found


def _takes_code(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Callables with a parameter or a field `code`: their name and which positional argument it is."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
        if "code" in names:
            yield node.name, names.index("code") - (names[0] in ("self", "cls"))
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                yield from ((node.name, place) for _, place in _takes_code(method))
        fields = [
            each.target.id
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        ]
        if "code" in fields:
            yield node.name, fields.index("code")


def _codes_at(node: ast.AST, takers: dict[str, set[int]]) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for place in takers.get(name, ()):
            if place < len(node.args):
                yield from _words(node.args[place])
        for keyword in node.keywords:
            if keyword.arg == "code":
                yield from _words(keyword.value)
    elif isinstance(node, ast.Assign):
        yield from _assigned(node)
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        if isinstance(node.target, ast.Name) and node.target.id == "code":
            yield from _words(node.value)
    elif isinstance(node, ast.Tuple):
        for left, right in zip(node.elts, node.elts[1:], strict=False):
            if isinstance(left, ast.Attribute) and getattr(left.value, "id", "") == "FailureClass":
                yield from _words(right)


def _assigned(node: ast.Assign) -> Iterator[str]:
    for target in node.targets:
        if isinstance(target, ast.Name) and target.id == "code":
            yield from _words(node.value)
        if isinstance(target, ast.Name) and target.id == "CODE_OF_STATUS":
            assert isinstance(node.value, ast.Dict)
            for value in node.value.values:
                yield from _words(value)
        if isinstance(target, ast.Tuple):
            names = [getattr(each, "id", "") for each in target.elts]
            if "code" in names:
                for value in _branches(node.value):
                    if isinstance(value, ast.Tuple):
                        yield from _words(value.elts[names.index("code")])


def _branches(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.IfExp):
        yield from _branches(value.body)
        yield from _branches(value.orelse)
    else:
        yield value


def _words(value: ast.expr) -> Iterator[str]:
    for each in _branches(value):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value:
            yield each.value


def leaf_commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            yield from leaf_commands(child, f"{path} {name}")
    else:
        yield path, command


def tag_of(operation: type) -> str:
    described = msgspec.inspect.type_info(operation)
    assert isinstance(described, msgspec.inspect.StructType)
    return str(described.tag)


COMMANDS = dict(leaf_commands(cli_root, "agentcom"))
CODES = codes_in_source()


# --- the tests ------------------------------------------------------------------------------------------


def test_the_protocol_page_is_the_one_that_the_messages_give() -> None:
    assert page("protocol.md") == protocol_doc.document(), "run `make docs`"


def test_every_setting_stands_in_the_docs_with_its_default_and_its_variable() -> None:
    documented = {quoted(row[0]): row for row in table_rows(page("settings.md")) if len(row) == 5}
    documented.pop("setting")
    expected = {
        f"{name}.{setting.name}": (
            msgspec.json.encode(setting.default).decode(),
            f"AGENTCOM_{name}_{setting.name}".upper(),
        )
        for name, section in config.SECTIONS.items()
        for setting in msgspec.structs.fields(section)
    }
    found = {name: (quoted(row[1]), quoted(row[3])) for name, row in documented.items()}
    assert found == expected


def test_the_reader_of_codes_finds_each_way_in_which_they_are_written() -> None:
    """An argument, a class's own, a keyword, one of two in an unpacked tuple, a table of failures."""
    assert {"forbidden", "store_locked", "held_by_user", "held_too_long", "ttl", "disk_full"} <= CODES.keys()


def test_every_error_code_stands_in_the_docs() -> None:
    documented = {quoted(row[0]) for row in table_rows(page("errors.md")) if len(row) == 3} - {"code"}
    missing = {code: place for code, place in CODES.items() if code not in documented}
    assert missing == {}, "add them to docs/errors.md"
    assert sorted(documented - CODES.keys()) == [], "docs/errors.md names codes that are made nowhere"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_docs_with_its_options(command: str) -> None:
    documented = sections(page("cli.md"))
    assert command in documented, f"docs/cli.md has no section `{command}`"
    own = {
        option
        for parameter in COMMANDS[command].params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", documented[command]))
    assert named - SHARED_OPTIONS == own - SHARED_OPTIONS


def test_the_docs_name_no_command_that_is_not_there() -> None:
    headings = {heading for heading in sections(page("cli.md")) if heading.startswith("agentcom ")}
    groups = {command.rsplit(" ", 1)[0] for command in COMMANDS} - {"agentcom"}
    assert headings == COMMANDS.keys() | groups


def test_the_options_of_all_commands_stand_in_the_docs() -> None:
    shared = sections(page("cli.md"))["What all commands share"]
    assert {option for option in SHARED_OPTIONS if f"`{option}" not in shared} == set()


def test_every_dependency_stands_in_the_docs_with_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    wanted = {re.split(r"[<>=\[ ]", each)[0] for group in groups for each in group}
    wanted |= {re.split(r"[<>=\[ ]", each)[0] for each in project["build-system"]["requires"]}
    rows = [row for row in table_rows(page("dependencies.md")) if row[0] != "package"]
    assert {quoted(row[0]) for row in rows} == wanted
    assert [row[0] for row in rows if not row[1]] == []


def test_the_roles_page_shows_the_rights_that_the_hub_enforces() -> None:
    rows = [row for row in table_rows(page("roles.md")) if len(row) == 1 + len(Role)]
    roles = [quoted(cell) for cell in rows[0][1:]]
    shown = {
        quoted(row[0]): {role for role, cell in zip(roles, row[1:], strict=True) if cell == "yes"}
        for row in rows[1:]
    }
    kept = {tag_of(op): {role.value for role in who} for op, who in RIGHTS.items()}
    assert shown == kept


def test_every_event_that_is_kept_stands_in_the_docs_and_is_made_somewhere() -> None:
    documented = {quoted(row[0]) for row in table_rows(page("events.md")) if len(row) == 4} - {"event"}
    assert documented == KEPT
    makers = [path for path in SOURCES if path.name != "outlet.py"]
    written = "".join(path.read_text(encoding="utf-8") for path in makers)
    assert {name for name in KEPT if f'"{name}"' not in written} == set()


def test_the_topics_of_kept_events_are_those_that_can_be_asked_for() -> None:
    rows = [row for row in table_rows(page("events.md")) if len(row) == 4]
    assert {row[1] for row in rows} - {"topic"} == {topic.value for topic in EventTopic}


def shown_result() -> tuple[JsonObject, JsonObject, JsonObject | None]:
    """A result with all that one can have, as `task show` and as reports have it, and what it waited for."""
    signed = SignedReport(statement="{}", signature="0" * 128, key="0" * 64)
    judged = Judgement(verdict="pass", model="m")
    check = CheckReport(kind=CheckKind.git_clean, target="", status=CheckStatus.passed)
    work = TaskResult(
        status=ResultStatus.verified,
        backend=Backend.shell,
        model="none",
        signed=signed,
        iterations=(Iteration(n=1, status="pass", checks=(check,), judgement=judged),),
    )
    second = msgspec.structs.replace(work, second=SecondVerdict(attempt=1, verdict="agrees"))
    shown = result_view(Found(work, second, 2, "box"), State.completed)
    return shown, whole_result(second, is_taken=True), look_view(SecondRecord(task=1, attempt=1))


def test_every_field_of_a_result_that_is_shown_stands_in_the_docs() -> None:
    documented = {
        heading: {quoted(row[0]) for row in table_rows(text) if len(row) == 2} - {"field"}
        for heading, text in sections(page("verification.md")).items()
    }
    shown, reported, waited_for = shown_result()
    [iteration] = msgspec.to_builtins(shown["iterations"])
    [check] = iteration["checks"]
    assert waited_for is not None
    tables = {
        "What a result holds": {*shown, *reported},
        "An iteration": {*iteration},
        "A check of it": {*check},
        "A judgement": {*iteration["judgement"]},
        "A signature": {*shown["signature"]},
        "What a second host found": {*shown["second_host"]},
        "While a second host is waited for": {*waited_for},
    }
    assert {heading: documented.get(heading) for heading in tables} == tables
    assert {*shown["second_host"]["checks"][0]} == {*check}
    assert {*shown["second_host"]["signature"]} == {*shown["signature"]}
    assert {*shown["second_host"]} >= {*msgspec.structs.asdict(SecondVerdict(attempt=1, verdict="agrees"))}


def test_what_only_reports_or_only_task_show_has_is_marked_so() -> None:
    shown, reported, _ = shown_result()
    rows = table_rows(sections(page("verification.md"))["What a result holds"])
    only_reported = {quoted(row[0]) for row in rows if row[1].startswith("only in reports")}
    only_shown = {quoted(row[0]) for row in rows if row[1].startswith("only in `task show`")}
    assert only_reported == reported.keys() - shown.keys()
    assert only_shown == shown.keys() - reported.keys()


def test_every_role_is_explained() -> None:
    explained = {quoted(row[0]) for row in table_rows(page("roles.md")) if len(row) == 2}
    assert {role.value for role in Role} <= explained


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_link_is_broken(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    broken = []
    for match in LINK.finditer(text):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        pointed = (path.parent / file).resolve() if file else path
        is_whole = pointed.exists() and (not anchor or anchor in anchors(pointed.read_text(encoding="utf-8")))
        broken += [] if is_whole else [target]
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_path_of_one_machine_appears(path: Path) -> None:
    assert MACHINE_PATH.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_more_is_promised_than_is_kept(path: Path) -> None:
    """Execution is at least once; there is one hub."""
    text = path.read_text(encoding="utf-8").lower()
    assert "exactly once" not in text
    assert "exactly-once" not in text
    assert "highly available" not in text
