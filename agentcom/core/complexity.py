"""How hard a task looks: trivial, standard or complex. Pure; the same text gives the same answer everywhere.

It counts whole points only, so no float decides between tiers; the confidence is derived from the points at the
end. Two rules that people rely on: short is not trivial, only a positive signal is; and a command makes a task
trivial whatever the text says, because then there is nothing for a model to do.
Each signal that counted is named, so that the route can say why.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from msgspec import Struct

TRIVIAL: Final = "trivial"
STANDARD: Final = "standard"
COMPLEX: Final = "complex"

# One phrase of these alone makes a task complex: each names work that goes wrong when done locally.
STRONG: Final = (
    "across all", "across files", "across modules", "across packages", "across services", "across the",
    "all call sites", "all callers", "architecture", "architectural", "backward compatibility",
    "backwards compatibility", "concurrency", "concurrent", "consensus", "cryptographic", "cryptography",
    "data loss", "data race", "deadlock", "deadlocks", "design a", "design an", "design and", "design the",
    "distributed", "entire codebase", "fault tolerance", "fault tolerant", "from scratch", "many files", "memory leak",
    "migrate", "migrating", "migration", "multi tenant", "multiple files", "multiple modules",
    "multiple services", "privilege escalation", "race condition", "race conditions", "re architect", "redesign",
    "refactor across", "rewrite the", "root cause", "scalability", "security", "several files", "several modules",
    "several services", "state machine", "thread safe", "thread safety", "threat model", "vulnerabilities",
    "vulnerability", "whole codebase", "whole project", "zero downtime",
)  # fmt: skip
# Two of these do, or one beside another sign of size.
WEAK: Final = (
    "algorithm", "async", "authentication", "authorization", "benchmark", "cache invalidation", "debug", "design",
    "encryption", "flaky", "integrate", "integration", "intermittent", "investigate", "latency", "optimise",
    "optimize", "performance", "profile", "protocol", "refactor", "refactoring", "restructure", "rewrite", "schema",
    "transaction", "transactions",
)  # fmt: skip
# Work that a single mechanical step does.
MECHANICAL: Final = (
    "add a blank line", "add a newline", "bump", "bump the version", "bump version", "capitalise", "capitalize",
    "change the copyright year", "convert tabs", "copyright year", "delete the file", "fix a typo", "fix spelling",
    "fix the typo", "fix typo", "fix typos", "fix whitespace", "format the code", "lint fix", "move the file",
    "regenerate the lock file", "regenerate the lockfile", "remove the unused import", "remove trailing whitespace",
    "remove unused import", "remove unused imports", "rename", "reformat", "run black", "run gofmt", "run prettier",
    "run rustfmt", "run ruff", "run the formatter", "run the linter", "sort imports", "sort the imports",
    "strip trailing whitespace", "to gitignore", "trailing newline", "typo", "typos", "update the changelog date",
)  # fmt: skip

STRONG_POINTS: Final = 4
WEAK_POINTS: Final = 2
COMPLEX_AT: Final = 4
# A mechanical step named beside a hard word ("fix a typo in the security page") is neither: it lands between.
MECHANICAL_POINTS: Final = 2

# From these counts on a task is large by itself: (at least, points), the first that fits.
WORDS: Final = ((2000, 6), (600, 4), (250, 2))
FILES: Final = ((8, 4), (4, 2))
CRITERIA: Final = ((8, 4), (4, 2))
CHECKS: Final = ((8, 2),)
SIZES: Final = {"words": WORDS, "files": FILES, "criteria": CRITERIA, "checks": CHECKS}
_LARGE: Final = {name: min(at_least for at_least, _ in steps) for name, steps in SIZES.items()}
# Beyond these a mechanical step is no longer the whole task.
TRIVIAL_WORDS_MAX: Final = 40
TRIVIAL_FILES_MAX: Final = 3
TRIVIAL_CRITERIA_MAX: Final = 3

SIGNALS_MAX: Final = 12  # kept with the task; the strongest come first, the rest counts but is not named
# A text longer than this is complex by its length alone, so its rest cannot change the tier and is not read.
# It bounds the time: a few milliseconds at the most.
READ_CHARS_MAX: Final = 16_384
# Scripts without spaces count a word for this many characters; English has six to a word, so it stays as it is.
CHARS_PER_WORD: Final = 8

_WORDS_MOST, _POINTS_MOST = WORDS[0]
assert _WORDS_MOST <= READ_CHARS_MAX // CHARS_PER_WORD
assert _POINTS_MOST - MECHANICAL_POINTS >= COMPLEX_AT

_WORD: Final = re.compile(r"\w+")
_NO_WORD: Final = bytes(n if n < 128 and _WORD.match(chr(n)) else ord(" ") for n in range(256))


class Classification(Struct, frozen=True, gc=False):
    """`tier` is trivial, standard or complex. `confidence`, 0 to 1, is for people to read: nothing orders by it.

    `signals` names what counted: `command`, `strong:deadlock`, `weak:schema`, `mechanical:rename`, `files:9`.
    """

    tier: str
    confidence: float
    signals: tuple[str, ...]


def classify(
    description: str, files: int, checks: int, success_criteria: int, has_command: bool
) -> Classification:
    """The tier that a task's words and counts suggest.

    `files`, `checks` and `success_criteria` are how many the task names. It runs in every submit: about 10
    us for a sentence or two.
    """
    description = description.strip()
    words = _words(description[:READ_CHARS_MAX])
    found = _found(words)
    strong, weak, mechanical = found["strong"], found["weak"], found["mechanical"]
    word_count = max(len(words), len(description) // CHARS_PER_WORD)
    sizes = _sizes(
        ("words", word_count), ("files", files), ("criteria", success_criteria), ("checks", checks)
    )
    points = STRONG_POINTS * len(strong) + WEAK_POINTS * len(weak)
    points += sum([each for _, each in sizes]) if sizes else 0
    is_small = (
        word_count <= TRIVIAL_WORDS_MAX
        and files <= TRIVIAL_FILES_MAX
        and success_criteria <= TRIVIAL_CRITERIA_MAX
    )
    tier, percent = _decide(points, len(mechanical), is_small, has_command)
    command = ["command"] if has_command else []
    signals = [*command, *strong, *(name for name, _ in sizes), *mechanical, *weak]
    return Classification(tier, percent / 100, tuple(signals[:SIGNALS_MAX]))


def _words(text: str) -> list[str]:
    """The words in the text, in lower case. For ASCII by a table: a fifth of what the expression takes."""
    if text.isascii():
        return text.lower().encode().translate(_NO_WORD).decode().split()
    found: list[str] = _WORD.findall(text.casefold())
    return found


def _decide(points: int, mechanical: int, is_small: bool, has_command: bool) -> tuple[str, int]:
    """The tier and how sure it is, in percent."""
    if has_command:
        return TRIVIAL, 95 if points == 0 else 80
    against = MECHANICAL_POINTS if mechanical else 0
    if points - against >= COMPLEX_AT:
        return COMPLEX, min(95, 60 + 5 * (points - against - COMPLEX_AT))
    if mechanical and points == 0 and is_small:
        return TRIVIAL, min(90, 65 + 10 * mechanical)
    if mechanical or points:
        return STANDARD, 50  # signs of both, or too few
    return STANDARD, 60  # no sign of either


class _Phrase(NamedTuple):
    words: list[str]
    kind: str
    signal: str


def _by_first_word() -> dict[str, list[_Phrase]]:
    index: dict[str, list[_Phrase]] = {}
    for kind, phrases in (("strong", STRONG), ("weak", WEAK), ("mechanical", MECHANICAL)):
        for phrase in phrases:
            words = phrase.split()
            index.setdefault(words[0], []).append(_Phrase(words, kind, f"{kind}:{phrase}"))
    for each in index.values():
        each.sort(key=lambda phrase: -len(phrase.words))
    return index


_INDEX: Final = _by_first_word()
_FIRST_WORDS: Final = frozenset(_INDEX)


def _found(words: list[str]) -> dict[str, list[str]]:
    """The signals of each kind, once each, in the order of the text; the longest phrase at a place counts."""
    found: dict[str, list[str]] = {"strong": [], "weak": [], "mechanical": []}
    if _FIRST_WORDS.isdisjoint(words):
        return found
    at = 0
    while at < len(words):
        phrase = _phrase_at(words, at)
        if phrase and phrase.signal not in found[phrase.kind]:
            found[phrase.kind].append(phrase.signal)
        at += len(phrase.words) if phrase else 1
    return found


def _phrase_at(words: list[str], at: int) -> _Phrase | None:
    for phrase in _INDEX.get(words[at], ()):
        if words[at : at + len(phrase.words)] == phrase.words:
            return phrase
    return None


def _sizes(*counts: tuple[str, int]) -> list[tuple[str, int]]:
    """The signal and the points of each count that is large."""
    large = []
    for name, count in counts:
        if count < _LARGE[name]:
            continue
        for at_least, points in SIZES[name]:
            if count >= at_least:
                large.append((f"{name}:{count}", points))
                break
    return large
