"""Names: what agents are called when nobody says, and what people may call things.

Agents are named after ships of Iain M. Banks' Culture novels, written as people type them. Nothing here is
random: a seed passed in picks, so the same host gives the same names again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Final

from agentcom.limits import NAME_CHARS_MAX

SHIPS: Final = (
    "anticipation-of-a-new-lovers-arrival",
    "arbitrary",
    "attitude-adjuster",
    "bad-for-business",
    "beats-working",
    "but-whos-counting",
    "cantankerous",
    "cargo-cult",
    "charitable-view",
    "charming-but-irrational",
    "congenital-optimist",
    "contents-may-differ",
    "dramatic-exit",
    "displacement-activity",
    "eight-rounds-rapid",
    "empiricist",
    "eschatologist",
    "ethics-gradient",
    "experiencing-a-significant-gravitas-shortfall",
    "falling-outside-the-normal-moral-constraints",
    "fate-amenable-to-change",
    "flexible-demeanour",
    "frank-exchange-of-views",
    "full-refund",
    "funny-it-worked-last-time",
    "germane-riposte",
    "grey-area",
    "gunboat-diplomat",
    "hand-me-the-gun-and-ask-me-again",
    "hidden-income",
    "honest-mistake",
    "i-blame-the-parents",
    "in-one-ear",
    "its-character-forming",
    "jaundiced-outlook",
    "just-passing-through",
    "just-read-the-instructions",
    "just-testing",
    "killing-time",
    "lapsed-pacifist",
    "lasting-damage",
    "lightly-seared-on-the-reality-grill",
    "limiting-factor",
    "little-rascal",
    "liveware-problem",
    "long-view",
    "lucid-nonsense",
    "me-im-counting",
    "mistake-not",
    "nervous-energy",
    "no-fixed-abode",
    "not-invented-here",
    "now-we-try-it-my-way",
    "of-course-i-still-love-you",
    "only-slightly-bent",
    "poke-it-with-a-stick",
    "pressure-drop",
    "prosthetic-conscience",
    "pure-big-mad-boat-man",
    "quietly-confident",
    "reasonable-excuse",
    "reformed-nice-guy",
    "serious-callers-only",
    "size-isnt-everything",
    "sleeper-service",
    "smile-tolerantly",
    "so-much-for-subtlety",
    "sober-counsel",
    "subtle-shift-in-emphasis",
    "sweet-and-full-of-grace",
    "tactical-grace",
    "total-internal-reflection",
    "unfortunate-conflict-of-evidence",
    "very-little-gravitas-indeed",
    "wisdom-like-silence",
    "youthful-indiscretion",
    "zero-gravitas",
)
APOSTROPHES: Final = "'\u2019"
SLUG_OF_NOTHING: Final = "task"
# A slug needs the head of a text only; the rest of a long description is not even looked at.
SLUG_SOURCE_CHARS_MAX: Final = 4096

_VALID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._'-]*")
_NOT_IN_A_SLUG: Final = re.compile(r"[^a-z0-9]+")


def agent_name(taken: Collection[str], seed: int) -> str:
    """A name not in `taken` (upper and lower case are one): the seed's ship, or the next one that is free.

    When every ship is taken the same order is tried again with -2, then -3, and so on.
    """
    used = {name.casefold() for name in taken}
    first = seed % len(SHIPS)
    ships = SHIPS[first:] + SHIPS[:first]
    free = next((ship for ship in ships if ship not in used), None)
    number = 1
    while free is None:  # ends: each round offers new names, and `taken` is finite
        number += 1
        free = next((each for ship in ships if (each := f"{ship}-{number}") not in used), None)
    return free


def slug(text: str, chars_max: int) -> str:
    """Lower-case ASCII words joined by single dashes, at most `chars_max` (1 or more) characters long.

    Never empty, and no dash at either end, so it can stand in a branch name or a path. Accents are dropped;
    a text without one Latin letter or digit becomes `task`. A long text is cut between words where it can be.
    """
    if chars_max < 1:
        raise ValueError(f"a slug of {chars_max} characters is asked for; 1 is the least")
    marked = unicodedata.normalize("NFKD", text[:SLUG_SOURCE_CHARS_MAX]).lower()
    plain = "".join(each for each in marked if not unicodedata.combining(each) and each not in APOSTROPHES)
    whole = _NOT_IN_A_SLUG.sub("-", plain).strip("-")
    return _cut(whole or SLUG_OF_NOTHING, chars_max)


def _cut(whole: str, chars_max: int) -> str:
    if len(whole) <= chars_max:
        return whole
    words, _, _ = whole[: chars_max + 1].rpartition("-")
    if 2 * len(words) >= chars_max:  # else too much is lost: one long word
        return words
    return whole[:chars_max].rstrip("-")


def is_valid_name(text: str) -> bool:
    """Whether an agent, host, endpoint or repository may be called that."""
    return len(text) <= NAME_CHARS_MAX and _VALID.fullmatch(text) is not None
