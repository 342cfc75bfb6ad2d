"""What a module to compile looks up again and again and that never changes, looked up once, when it is imported.

`State.ready` asks the enum's class each time, in 900 instructions; `m.Request` the module's dict and then that of
`messages`, in 400. In a compiled module a name that is `Final` is a variable of C. So the members of enums, and classes
and constants from modules that are not compiled, become such names, and so do the module's own tables. The sources stay
as they are, and so does what they mean: none of these is ever bound anew.
"""

from __future__ import annotations

import ast
import importlib
import re
import types
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from enum import EnumType
from itertools import accumulate
from typing import Final, NamedTuple

CONSTANTS: Final = (tuple, dict, frozenset, re.Pattern, types.BuiltinMethodType)
COLD: Final = (ast.Raise, ast.Subscript)  # errors, and types that are named in the middle of code
TYPES: Final = ("annotation", "returns", "decorator_list", "pattern", "type")  # fields of nodes: not values


class Edit(NamedTuple):
    """Bytes of the source from `start` to `end`, and what comes in their place."""

    start: int
    end: int
    text: bytes


class Source:
    """A module's text, by the positions of its syntax tree, which counts bytes."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self._content = text.encode()
        sizes = (len(line) for line in self._content.splitlines(keepends=True))
        self._starts = list(accumulate(sizes, initial=0))

    def start(self, node: ast.stmt | ast.expr) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.stmt | ast.expr) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def edited(self, edits: list[Edit]) -> str:
        content = self._content
        for edit in sorted(edits, reverse=True):
            content = content[: edit.start] + edit.text + content[edit.end :]
        return content.decode()


def with_statics(text: str, module: str, compiled: Collection[str]) -> str:
    """The source of the module, which is imported to see what its names are; mypyc knows those of `compiled` ones."""
    source = Source(text)
    names = vars(importlib.import_module(module))
    origins = _origins(source.tree, names)
    made: dict[str, bool] = {}  # what is looked up once, and whether the module itself makes it
    edits = []
    for node in _uses(source.tree):
        of = ast.unparse(node)
        if _is_constant(node, names, origins, compiled):
            made[of] = of.partition(".")[0] not in origins
            edits.append(Edit(source.start(node), source.end(node), _static(of)))
    edits += _finals(source, names)
    if not edits:
        return text
    imported = "".join(f"{_static(of).decode()}: _Final = {of}\n" for of, is_own in made.items() if not is_own)
    own = "".join(f"{_static(of).decode()}: _Final = {of}\n" for of, is_own in made.items() if is_own)
    place = source.end(_last_import(source.tree))
    edits.append(Edit(place, place, f"\nfrom typing import Final as _Final\n{imported}".encode()))
    return source.edited(edits) + own


def _static(of: str) -> bytes:
    return f"_static_{of.replace('.', '_')}".encode()


def _last_import(tree: ast.Module) -> ast.stmt:
    return [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)][-1]


def _origins(tree: ast.Module, names: Mapping[str, object]) -> dict[str, str]:
    """The names that the module imports when it runs, and from where."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for each in node.names:
                name = each.asname or each.name
                if name in names:
                    found[name] = (node.module or "") if isinstance(node, ast.ImportFrom) else each.name
    return found


def _uses(tree: ast.Module) -> Iterator[ast.Name | ast.Attribute]:
    """Names of the module, and attributes of them, that functions read as values."""
    places: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for function in [one for place in places for one in place.body if isinstance(one, ast.FunctionDef)]:
        bound = {one.arg for one in ast.walk(function) if isinstance(one, ast.arg)}
        bound |= {one.id for one in ast.walk(function) if isinstance(one, ast.Name) and not _is_read(one)}
        bound |= {one.name for one in ast.walk(function) if isinstance(one, ast.FunctionDef)}
        for statement in function.body:
            yield from (node for node, base in _reads(statement) if base not in bound)


def _is_read(node: ast.Name | ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Load)


def _reads(node: ast.AST) -> Iterator[tuple[ast.Name | ast.Attribute, str]]:
    """With the name at the beginning of each."""
    if isinstance(node, ast.Name | ast.Attribute) and _is_read(node):
        base = node.value if isinstance(node, ast.Attribute) else node
        if isinstance(base, ast.Name):
            yield node, base.id
            return
    for field, value in ast.iter_fields(node):
        if isinstance(node, COLD) and not (isinstance(node, ast.Subscript) and field == "value"):
            continue
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, ast.AST) and field not in TYPES:
                yield from _reads(one)


def _is_constant(
    node: ast.Name | ast.Attribute, names: Mapping[str, object], origins: Mapping[str, str], compiled: Collection[str]
) -> bool:
    base = node.value if isinstance(node, ast.Attribute) else node
    assert isinstance(base, ast.Name)
    found = names.get(base.id)
    if isinstance(node, ast.Attribute):
        if isinstance(found, EnumType):
            return node.attr in found.__members__
        is_module = isinstance(found, types.ModuleType) and found.__name__ not in compiled
        return is_module and isinstance(getattr(found, node.attr, None), type)
    if origins.get(base.id, "") in ("", *compiled):
        return False
    is_error = isinstance(found, type) and issubclass(found, BaseException)
    return isinstance(found, type | tuple | dict | frozenset) and not is_error


def _finals(source: Source, names: Mapping[str, object]) -> Iterator[Edit]:
    """The module's own tables, which it binds once."""
    targets = [(node, _target(node)) for node in source.tree.body]
    counts = Counter(name for _, name in targets)
    for node, name in targets:
        if not name or counts[name] > 1 or not isinstance(names.get(name), CONSTANTS):
            continue
        if isinstance(node, ast.Assign):
            end = source.end(node.targets[0])
            yield Edit(end, end, b": _Final")
        elif isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("Final"):
            start, end = source.start(node.annotation), source.end(node.annotation)
            yield Edit(start, end, f"_Final[{ast.unparse(node.annotation)}]".encode())


def _target(node: ast.stmt) -> str:
    """The one name that a statement of the module binds."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""
