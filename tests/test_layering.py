"""Who may import whom, and how large a file and a function may be. Read from the source, not by importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "agentcom": ROOT / "agentcom",
    "agentcom_sidecar": ROOT / "sidecar" / "agentcom_sidecar",
    "agentcom_web": ROOT / "web" / "agentcom_web",
}
MODULE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
FORBIDDEN_TO_CORE = {
    "asyncio", "flask", "lmdb", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "signal", "socket", "subprocess", "threading", "uuid", "zmq",
}  # fmt: skip
# The clock's module reads time; the core takes only the value that it returns.
TIME_AS_A_VALUE = {"agentcom.clock"}
SHARED_WITH_SIDECAR = {
    "agentcom", "agentcom.auth", "agentcom.clock", "agentcom.config", "agentcom.errors", "agentcom.limits",
    "agentcom.lifeline", "agentcom.logs", "agentcom.messages", "agentcom.model", "agentcom.names",
    "agentcom.addresses", "agentcom.endpoint_keys", "agentcom.figures", "agentcom.operations",
    "agentcom.agent_programs", "agentcom.facts", "agentcom.probe_endpoint", "agentcom.redaction", "agentcom.repos",
    "agentcom.report_statement", "agentcom.second", "agentcom.signed_report", "agentcom.worktrees",
}  # fmt: skip
NOT_FOR_OTHERS = ("agentcom.core", "agentcom.store", "agentcom.broker")
SOCKET_OWNERS = {
    "agentcom.broker", "agentcom.feed", "agentcom.gate", "agentcom.intake", "agentcom.wire",
    # The callers' side: one DEALER each.
    "agentcom.caller", "agentcom.client", "agentcom.connection", "agentcom.enrolment",
    # No socket: keys are made by the same library, and its version is shown.
    "agentcom.auth", "agentcom.cli.doctor",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports when it runs; what is for type checkers only does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(module: str) -> dict[str, str]:
    """All that a module imports, directly or through our own modules; each with who imports it."""
    found: dict[str, str] = {}
    queue = [module]
    while queue:
        current = queue.pop()
        for name in imports(MODULES[current]):
            if name not in found:
                found[name] = current
                if name in MODULES:
                    queue.append(name)
    return found


CORE = sorted(name for name in MODULES if name.startswith("agentcom.core"))


def test_the_reader_of_imports_finds_what_is_there() -> None:
    assert {"zmq", "agentcom.core.hub", "agentcom.core.hub.Hub"} <= set(imports(MODULES["agentcom.broker"]))
    assert "agentcom.core.lanes" in reached("agentcom.broker")
    assert "agentcom.core.hub" not in set(
        imports(MODULES["agentcom.core.requests"])
    )  # for type checkers only
    assert len(CORE) > 10


@pytest.mark.parametrize("module", CORE)
def test_the_core_reaches_no_socket_disk_thread_or_randomness(module: str) -> None:
    for name, importer in reached(module).items():
        top = name.partition(".")[0]
        if importer.startswith("agentcom.core") or top in {"lmdb", "flask", "zmq"}:
            assert top not in FORBIDDEN_TO_CORE | {"time"}, f"{importer} imports {name}"
        assert not name.startswith(("agentcom.store", "agentcom.broker", "agentcom.cli")), (
            f"{importer}: {name}"
        )


@pytest.mark.parametrize("module", CORE)
def test_the_core_takes_of_a_module_that_reads_the_clock_or_files_only_values(module: str) -> None:
    """Now, and the sections of settings: plain values that the shell made."""
    allowed = {
        "agentcom.clock": {"Now", "rfc3339"},
        "agentcom.config": {"ModelSettings", "ScoringSettings", "Settings"},
        "agentcom.auth": set(),
    }
    for name in imports(MODULES[module]):
        owner, _, what = name.rpartition(".")
        if owner in allowed:
            assert what in allowed[owner], f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_sockets_are_owned_by_the_few(module: str) -> None:
    if module.startswith("agentcom.") and "zmq" in {n.partition(".")[0] for n in imports(MODULES[module])}:
        assert module in SOCKET_OWNERS


@pytest.mark.parametrize("module", sorted(n for n in MODULES if n.startswith("agentcom_sidecar")))
def test_the_sidecar_imports_only_what_is_shared(module: str) -> None:
    for name in imports(MODULES[module]):
        if name in MODULES and name.partition(".")[0] != "agentcom_sidecar":
            assert name in SHARED_WITH_SIDECAR, f"{module} imports {name}"
    for name, importer in reached(module).items():
        assert not name.startswith(NOT_FOR_OTHERS), f"{importer} imports {name}"


@pytest.mark.parametrize("module", sorted(n for n in MODULES if n.startswith("agentcom_web")))
def test_the_web_opens_no_store_and_decides_nothing(module: str) -> None:
    for name, importer in reached(module).items():
        assert not name.startswith(NOT_FOR_OTHERS), f"{importer} imports {name}"
        assert not name.startswith("agentcom_sidecar"), f"{importer} imports {name}"


@pytest.mark.parametrize("module", sorted(n for n in MODULES if n.partition(".")[0] == "agentcom"))
def test_the_hub_imports_neither_sidecar_nor_web(module: str) -> None:
    """The command line starts them, and imports them where it does."""
    if module.startswith("agentcom.cli") or module == "agentcom.supervisor":
        return
    for name in imports(MODULES[module]):
        assert name.partition(".")[0] not in ("agentcom_sidecar", "agentcom_web"), f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_and_its_functions_can_be_read_at_a_sitting(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MODULE_LINES_MAX, f"{module} has {lines} lines: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{module}.{node.name} has {length} lines: split it"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_says_what_it_is_for(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), f"{module} has no docstring"
