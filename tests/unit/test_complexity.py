"""The tier heuristic: labelled examples, its two promises, and its bounds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcom.core import complexity
from agentcom.core.complexity import SIGNALS_MAX, Classification, classify
from agentcom.model import Tier

TRIVIAL = [
    "Fix typo in README",
    "fix a typo in the docstring of parse()",
    "Bump version to 1.4.2",
    "Bump lodash",
    "Rename the variable `cnt` to `count` in stats.py",
    "run the formatter",
    "Run black on src/",
    "Run prettier.",
    "Remove trailing whitespace from all markdown pages",
    "Sort the imports in app.py",
    "Add *.log to .gitignore",
    "Remove unused imports",
    "Update the copyright year in LICENSE",
    "DELETE THE FILE old_notes.txt",
]
STANDARD = [
    "Fix the bug",
    "hi",
    "?",
    "Add a login page",
    "Write unit tests for the date parser",
    "The export button does nothing when the list is empty; make it show a message",
    "Add pagination to the list of orders",
    "Implement a retry with backoff in the HTTP client",
    "Document the environment variables in the README",
    "Refactor the parser",
    "Optimize the query on the start page",
    "Investigate why the nightly build is red",
    "Add a dark mode switch",
    "Validate the e-mail address in the sign-up form",
    "Fix a typo in the security section of the handbook",
    "rename the migration helper in utils.py",
    "Improve error messages",
    "Make the button blue",
    "修复登录页面的错误",
    "Füge eine Suche zur Kundenliste hinzu",
]
COMPLEX = [
    "Refactor across the payment and billing packages so that both use one ledger",
    "Design a plugin system for the importer",
    "Propose an architecture for offline mode",
    "Migrate from SQLAlchemy 1.4 to 2.0",
    "There is a race condition between the writer and the compactor; find and fix it",
    "Audit the upload endpoint for security problems",
    "Fix the deadlock in the worker pool",
    "Add concurrency limits to the crawler",
    "Change the config format; several files need to follow",
    "Make the cache thread-safe",
    "Find the root cause of the crash on start",
    "Rename the User class across the codebase and migrate the database",
    "Rewrite the scheduler from scratch",
    "Optimize the flaky integration suite",
    "Move to zero-downtime deployments",
    "Patch the vulnerability in the XML reader",
]


def tier_of(description: str, files: int = 0, checks: int = 0, criteria: int = 0) -> str:
    return classify(description, files, checks, criteria, has_command=False).tier


@pytest.mark.parametrize("description", TRIVIAL)
def test_a_mechanical_step_is_trivial(description: str) -> None:
    assert tier_of(description) == "trivial"


@pytest.mark.parametrize("description", STANDARD)
def test_ordinary_work_is_standard_however_short_its_text(description: str) -> None:
    assert tier_of(description) == "standard"


@pytest.mark.parametrize("description", COMPLEX)
def test_work_that_goes_wrong_when_done_locally_is_complex(description: str) -> None:
    assert tier_of(description) == "complex"


def test_the_tiers_are_those_of_the_model() -> None:
    assert {complexity.TRIVIAL, complexity.STANDARD, complexity.COMPLEX} == set(Tier)


@pytest.mark.parametrize("description", ["make test", "Design the architecture", "", "x " * 5000])
def test_a_command_makes_any_task_trivial(description: str) -> None:
    found = classify(description, 50, 20, 20, has_command=True)
    assert found.tier == "trivial"
    assert found.signals[0] == "command"


@pytest.mark.parametrize(
    ("files", "checks", "criteria", "tier"),
    [
        (0, 0, 0, "standard"),
        (7, 0, 0, "standard"),
        (8, 0, 0, "complex"),
        (200, 0, 0, "complex"),
        (0, 0, 7, "standard"),
        (0, 0, 8, "complex"),
        (4, 0, 4, "complex"),
        (4, 0, 3, "standard"),
        (0, 50, 0, "standard"),
        (4, 8, 0, "complex"),
    ],
)
def test_many_files_or_criteria_make_a_task_complex(
    files: int, checks: int, criteria: int, tier: str
) -> None:
    assert tier_of("Add the export", files, checks, criteria) == tier


@pytest.mark.parametrize(("words", "tier"), [(249, "standard"), (599, "standard"), (600, "complex")])
def test_a_long_description_makes_a_task_complex(words: int, tier: str) -> None:
    assert tier_of("word " * words) == tier


@pytest.mark.parametrize("rest", ["x", "Design the architecture", "fix typo"])
def test_what_stands_beyond_the_part_that_is_read_cannot_change_the_tier(rest: str) -> None:
    assert tier_of("Fix typo " * complexity.READ_CHARS_MAX + rest) == "complex"


def test_a_long_description_without_spaces_counts_as_long() -> None:
    assert tier_of("修复登录页面的错误并" * 480) == "complex"


@pytest.mark.parametrize(
    ("files", "criteria", "more"), [(4, 0, ""), (0, 4, ""), (0, 0, " and then something else" * 15)]
)
def test_a_mechanical_step_in_a_larger_task_is_not_trivial(files: int, criteria: int, more: str) -> None:
    assert tier_of("Fix typo" + more) == "trivial" or more
    assert tier_of("Fix typo" + more, files, 0, criteria) == "standard"


@pytest.mark.parametrize(
    "description", ["prototype", "renamed", "insecurity", "bumpy road", "designate", "typography"]
)
def test_a_signal_is_a_whole_word(description: str) -> None:
    assert classify(description, 0, 0, 0, has_command=False) == Classification("standard", 0.6, ())


@pytest.mark.parametrize(
    "description", ["RACE CONDITION", "race  condition", "race\ncondition", "race-condition!"]
)
def test_case_space_and_punctuation_do_not_hide_a_signal(description: str) -> None:
    assert classify(description, 0, 0, 0, has_command=False).signals == ("strong:race condition",)


def test_every_signal_that_counted_is_named_the_strongest_first() -> None:
    found = classify("Rename it, fix the race condition, optimize the schema", 9, 8, 4, has_command=False)
    assert found.tier == "complex"
    assert found.signals == (
        "strong:race condition",
        "files:9",
        "criteria:4",
        "checks:8",
        "mechanical:rename",
        "weak:optimize",
        "weak:schema",
    )


def test_a_phrase_inside_a_longer_one_counts_once() -> None:
    assert classify("fix a typo", 0, 0, 0, has_command=False).signals == ("mechanical:fix a typo",)


def test_signs_of_both_are_less_sure_than_one_clear_sign() -> None:
    both = classify("Fix a typo in the security section", 0, 0, 0, has_command=False)
    clear = classify("Fix a typo", 0, 0, 0, has_command=False)
    assert both.confidence < clear.confidence


def test_no_phrase_is_listed_twice_and_each_can_be_found() -> None:
    phrases = [*complexity.STRONG, *complexity.WEAK, *complexity.MECHANICAL]
    assert len(set(phrases)) == len(phrases)
    for phrase in phrases:
        signals = classify(phrase, 0, 0, 0, has_command=False).signals
        assert any(signal.endswith(f":{phrase}") for signal in signals), phrase


def test_the_largest_description_names_a_bounded_number_of_signals() -> None:
    everything = " ".join([*complexity.STRONG, *complexity.WEAK, *complexity.MECHANICAL]) + " "
    largest = (everything * (256 * 1024 // len(everything) + 1))[: 256 * 1024]
    found = classify(largest, 200, 50, 100, has_command=False)
    assert found.tier == "complex"
    assert len(found.signals) == SIGNALS_MAX
    assert found.confidence == 0.95


@given(st.text(), *itertools.repeat(st.integers(0, 300), 3), st.booleans())
def test_any_text_gets_a_tier_a_confidence_and_the_same_answer_again(
    description: str, files: int, checks: int, criteria: int, has_command: bool
) -> None:
    found = classify(description, files, checks, criteria, has_command)
    assert found == classify(description, files, checks, criteria, has_command)
    assert found.tier in set(Tier)
    assert 0.5 <= found.confidence <= 0.95


@given(st.text(), st.integers(0, 300), st.integers(0, 300))
def test_only_a_positive_signal_makes_a_task_trivial(description: str, files: int, criteria: int) -> None:
    found = classify(description, files, 0, criteria, has_command=False)
    assert found.tier != "trivial" or any(each.startswith("mechanical:") for each in found.signals)


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=200))
def test_words_of_ascii_are_those_that_any_text_has(text: str) -> None:
    assert complexity._words(text) == complexity._WORD.findall(text.casefold())
