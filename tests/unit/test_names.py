"""Names that are given, names that are allowed, and slugs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcom.limits import NAME_CHARS_MAX
from agentcom.names import SHIPS, agent_name, is_valid_name, slug


def test_there_are_ships_enough_for_a_full_host_and_none_twice() -> None:
    assert len(SHIPS) >= 65
    assert len(set(SHIPS)) == len(SHIPS)


@pytest.mark.parametrize("ship", SHIPS)
def test_every_ship_is_a_valid_name_written_as_people_type_it(ship: str) -> None:
    assert is_valid_name(ship + "-999")
    assert slug(ship, NAME_CHARS_MAX) == ship


def test_the_seed_picks_the_ship() -> None:
    assert agent_name([], 0) == SHIPS[0]
    assert agent_name([], 5) == agent_name([], 5) == SHIPS[5]
    assert agent_name([], len(SHIPS) + 2) == SHIPS[2]
    assert agent_name([], -1) == SHIPS[-1]
    assert agent_name([], 2**70) in SHIPS


def test_a_taken_ship_gives_way_to_the_next_free_one() -> None:
    assert agent_name({SHIPS[3], SHIPS[4].upper()}, 3) == SHIPS[5]
    assert agent_name([SHIPS[-1]], len(SHIPS) - 1) == SHIPS[0]


def test_when_all_ships_are_taken_they_are_numbered() -> None:
    taken = list(SHIPS)
    assert agent_name(taken, 1) == f"{SHIPS[1]}-2"
    taken += [f"{ship}-2" for ship in SHIPS]
    assert agent_name(taken, 1) == f"{SHIPS[1]}-3"


def test_a_fleet_of_any_size_gets_names_that_differ() -> None:
    taken: list[str] = []
    for _ in range(3 * len(SHIPS)):
        taken.append(agent_name(taken, 17))
    assert len(set(taken)) == 3 * len(SHIPS)
    assert all(is_valid_name(name) for name in taken)


@pytest.mark.parametrize(
    "name", ["a", "7", "so-much-for-subtlety", "gpu_box.2", "Ann's laptop", "x" * NAME_CHARS_MAX]
)
def test_a_name_may_have_letters_digits_spaces_and_some_marks(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name",
    ["", " a", "-a", ".a", "'a", "_a", "a\n", "a/b", "a\tb", "ä", "a:b", "a" * (NAME_CHARS_MAX + 1), "a\0"],
)
def test_any_other_name_is_refused(name: str) -> None:
    assert not is_valid_name(name)


@pytest.mark.parametrize(
    ("text", "chars_max", "expected"),
    [
        ("Fix the login page", 40, "fix-the-login-page"),
        ("  Don't -- panic!!  ", 40, "dont-panic"),
        ("Crème brûlée für Übung", 40, "creme-brulee-fur-ubung"),
        ("../../etc/passwd", 40, "etc-passwd"),
        ("naïve—twice", 40, "naive-twice"),
        ("It\u2019s İstanbul", 40, "its-istanbul"),
        ("refs/heads/x.lock", 40, "refs-heads-x-lock"),
        ("修复登录页面", 40, "task"),
        ("", 40, "task"),
        ("---", 3, "tas"),
        ("one two three", 9, "one-two"),
        ("one two three", 7, "one-two"),
        ("one two three", 8, "one-two"),
        ("a supercalifragilistic word", 10, "a-supercal"),
        ("supercalifragilistic", 5, "super"),
        ("a b", 2, "a"),
        ("line\none", 40, "line-one"),
        ("\u2028x" * 10, 5, "x-x-x"),
    ],
)
def test_a_slug_is_short_plain_and_readable(text: str, chars_max: int, expected: str) -> None:
    assert slug(text, chars_max) == expected


def test_a_slug_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 is the least"):
        slug("text", 0)


@given(st.text(), st.integers(1, 80))
def test_any_text_has_a_slug_that_can_stand_in_a_branch_name(text: str, chars_max: int) -> None:
    made = slug(text, chars_max)
    assert 1 <= len(made) <= chars_max
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", made)


@given(st.text(max_size=80))
def test_what_is_valid_is_what_the_pattern_says(text: str) -> None:
    plain = bool(text) and text[0].isascii() and text[0].isalnum() and len(text) <= NAME_CHARS_MAX
    assert is_valid_name(text) == (plain and all(c.isascii() and (c.isalnum() or c in " ._'-") for c in text))
