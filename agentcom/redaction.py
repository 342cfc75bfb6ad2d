"""What is taken out of a text before it leaves a process: secrets that the process knows, and what looks like one.

Known are the values of environment variables that are named like secrets, and whatever was read from a private file
(`config.read_private`). The other forms are those that issuers document, with a prefix or a frame of their own, so
that ordinary text stays as it is. Applied at the edges: log lines, an attempt's output, results, errors, prompts,
pull requests. A value without a form that this process has never read cannot be found.

A form costs a search for a few characters unless those are there. Lines that the hub writes for every task hold words
and numbers of its own, and are only asked for what was asked of them before: known values and keys (`redact_keys`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

MARK: Final = "[redacted]"
VALUE_CHARS_MIN: Final = 8  # a shorter value would take ordinary words out of every text
VALUES_MAX: Final = 1000  # the oldest goes
FILE_CHARS_MAX: Final = 64 * 1024  # of a private file; a secret is shorter
FORM_CHARS_MIN: Final = 12  # nothing shorter has a form
KEY_BLOCK_CHARS_MAX: Final = 20_000  # of a private key in a text

_NAME = re.compile(
    r"(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_FILE|_FILES|_PATH|_DIR|_MAX|_URL|_ID|_NAME|TOKENS)$", re.IGNORECASE)
_KEY_NAMES = frozenset({"secret", "token", "password", "key", "api_key", "apiKey"})

_IN_URL = re.compile(r"(?<=://)(?:[^\s/@:'\"\[]{0,200}:[^\s/@'\"]{1,1000}|[^\s/@:'\"\[]{20,1000})@")

# (what must be there for the form to be looked for, the form, what comes in its place)
_FORMS: Final = tuple(
    (markers, re.compile(form), instead)
    for markers, form, instead in (
        (("sk-",), r"(?<![\w-])sk-(?:(?:ant|or|proj|svcacct)-[\w-]{6,}|(?=[\w-]*\d)[\w-]{12,})", MARK),
        (("act_", "acs_", "acl_"), r"(?<![A-Za-z0-9])ac[tsl]_[\w-]{16,}", MARK),
        (("acj1.",), r"(?<![A-Za-z0-9])acj1\.[\w.-]{16,}", MARK),
        (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"(?<![A-Za-z0-9])gh[pousr]_\w{16,}", MARK),
        (("github_pat_",), r"github_pat_\w{20,}", MARK),
        (("glpat-", "glptt-", "glrt-", "gldt-", "glcbt-"), r"(?<!\w)gl(?:pat|ptt|rt|dt|cbt)-[\w-]{16,}", MARK),
        (("AKIA", "ASIA"), r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])", MARK),
        (("AIza",), r"(?<![\w-])AIza[\w-]{35}", MARK),
        (("xox",), r"(?<!\w)xox[abposr]-[A-Za-z0-9-]{10,}", MARK),
        (("k_live_",), r"(?<![A-Za-z0-9])[rs]k_live_[A-Za-z0-9]{16,}", MARK),
        (("npm_",), r"(?<!\w)npm_[A-Za-z0-9]{36}", MARK),
        (("pypi-",), r"(?<![\w-])pypi-[\w-]{50,}", MARK),
        (("hf_",), r"(?<!\w)hf_[A-Za-z0-9]{30,}", MARK),
        (("eyJ",), r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}", MARK),
        (
            ("PRIVATE KEY",),
            r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
            rf"(?:[^-]|-(?!----END)){{0,{KEY_BLOCK_CHARS_MAX}}}"
            r"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----)?",
            MARK,
        ),
        # A password, or a token in the place of a user, before the host of a URL; `ssh://git@host` stays.
        (("://",), _IN_URL.pattern, f"{MARK}@"),
        (
            ("uthoriz", "UTHORIZ", "-key", "-Key", "-KEY", "rivate-", "RIVATE-"),
            r"(?i)\b((?:proxy-)?authorization|x-api-key|private-token)(\"?\s{0,4}[:=]\s{0,4}[\"']?)"
            r"((?:bearer|basic|token|digest)\s{1,4})?(?=[^\s\"',\[]*[\d=])[^\s\"',\[]{6,}",
            rf"\1\2\3{MARK}",
        ),
        (("earer ", "EARER "), r"(?i)\b(bearer\s{1,4})(?=[\w.~+/=-]*\d)[\w.~+/=-]{16,}", rf"\1{MARK}"),
        (
            ("SECRET=", "PASSWORD=", "TOKEN=", "_KEY="),
            r"\b([A-Z][A-Z0-9_]{0,60}?(?:SECRET|PASSWORD|TOKEN|API_KEY|ACCESS_KEY|PRIVATE_KEY)=[\"']?)"
            r"(?=[^\s\"'$\[]*\d)[^\s\"'$\[]{12,}",
            rf"\1{MARK}",
        ),
    )
)  # fmt: skip

_KEYS = re.compile(
    r"sk-(?:ant-[\w-]{6,}|(?=[\w-]*\d)[\w-]{12,})|ac[tsl]_[\w-]{16,}|acj1\.[\w.-]{16,}|gh[pousr]_\w{16,}"
)

_KEY_MARKERS: Final = ("sk-", "act_", "acs_", "acl_", "acj1.", "ghp_", "gho_", "ghu_", "ghs_", "ghr_")

T = TypeVar("T")
_values: dict[
    str, None
] = {}  # every known value and what it looks like when it is quoted, in the order of learning
_longest_first: tuple[str, ...] = ()


def learn(*secrets: str) -> None:
    """Take these out of every text from now on, as they are and as URLs, JSON and Base64 quote them."""
    global _longest_first
    for secret in secrets:
        plain = secret.strip()
        if len(plain) < VALUE_CHARS_MIN or plain in MARK:
            continue
        encoded = base64.b64encode(plain.encode("utf-8", "replace")).decode().rstrip("=")
        for form in (plain, quote(plain, safe="", errors="replace"), json.dumps(plain)[1:-1], encoded):
            _values.setdefault(form)
    while len(_values) > VALUES_MAX:
        del _values[next(iter(_values))]
    _longest_first = tuple(sorted(_values, key=len, reverse=True))


def learn_environment(environment: Mapping[str, str]) -> None:
    """The values of the variables that are named like secrets."""
    learn(
        *(
            value
            for name, value in environment.items()
            if _NAME.search(name) and not _NO_SECRET.search(name) and not value.startswith("/")
        )
    )


def learn_file(content: bytes) -> None:
    """What a private file holds: its lines, or the secrets of a JSON object."""
    try:
        text = content[:FILE_CHARS_MAX].decode()
    except UnicodeDecodeError:
        return
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        learn(*_secrets_of(found))
    elif found is None or isinstance(found, str):
        learn(text, *text.splitlines())


def _secrets_of(found: dict[str, Any]) -> Iterable[str]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _secrets_of(value)
        elif isinstance(value, str) and (name in _KEY_NAMES or _NAME.search(name)):
            yield value


def redact_values(text: str) -> str:
    """`text` without the secrets that this process knows. What only looks like one stays: for what a model reads and
    writes back."""
    for value in _longest_first:
        if value in text:
            text = text.replace(value, MARK)
    return text


def redact_keys(text: str) -> str:
    """`text` without known secrets and the most common keys. 1 us for 300 characters, where `redact_text` takes 25."""
    text = redact_values(text)
    for marker in _KEY_MARKERS:
        if marker in text:
            return _KEYS.sub(MARK, text)
    return text


def redact_text(text: str) -> str:
    """`text` without known secrets and without what looks like one."""
    text = redact_values(text)
    if len(text) < FORM_CHARS_MIN:
        return text
    for markers, form, instead in _FORMS:
        for marker in markers:
            if marker in text:
                text = form.sub(instead, text)
                break
    return text


def redacted(value: T) -> T:
    """A message or record with all its texts redacted; itself where nothing was found."""
    plain = msgspec.to_builtins(value, builtin_types=(bytes,))
    clean = redact_nested(plain)
    if clean == plain:
        return value
    return msgspec.convert(clean, type(value), builtin_types=(bytes,))


def redact_nested(value: Any) -> Any:
    """The texts in lists and dicts, however deep; tuples become lists."""
    if isinstance(value, str):
        return redact_cut(value)
    if isinstance(value, dict):
        return {name: redact_nested(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_nested(each) for each in value]
    return value


GAP: Final = re.compile(r"\n\[\.\.\. \d+ bytes left out \.\.\.\]\n")
PIECE_CHARS_MIN: Final = 6  # of a secret, at the edge of a gap


def redact_cut(text: str) -> str:
    """The same for a text with a gap: what is left of a known secret at its edges goes too."""
    if "bytes left out ...]" not in text:
        return redact_text(text)
    parts = GAP.split(text)
    gaps = GAP.findall(text)
    clean = [redact_text(part) for part in parts]
    for n in range(len(gaps)):
        clean[n] = _without_head(clean[n])
        clean[n + 1] = _without_tail(clean[n + 1])
    return "".join(part + gap for part, gap in zip(clean, [*gaps, ""], strict=True))


def _without_head(text: str) -> str:
    """`text` without the beginning of a known secret at its end."""
    count = max((_overlap(text, value) for value in _longest_first), default=0)
    return text[:-count] + MARK if count >= PIECE_CHARS_MIN else text


def _without_tail(text: str) -> str:
    """`text` without the end of a known secret at its beginning."""
    count = max((_overlap(text[: len(value)][::-1], value[::-1]) for value in _longest_first), default=0)
    return MARK + text[count:] if count >= PIECE_CHARS_MIN else text


# What announces a secret at the end of what came so far.
_LEAD = re.compile(
    r"(?i)(?:(?:authorization|x-api-key|private-token)[\"']?\s{0,4}[:=]?\s{0,4}[\"']?)?"
    r"(?:(?:bearer|basic|token|digest)\s{1,4})?\Z"
)
LEAD_CHARS_MAX: Final = 80
_OPEN_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_CLOSED_KEY = re.compile(r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
HELD_CHARS: Final = 4096  # of a word without an end; a longer one goes on its way in parts


class Stream:
    """Redacts a text that comes in pieces, cut anywhere: what could be part of a secret is held back until the rest is
    there. Holds `KEY_BLOCK_CHARS_MAX` and two words at most."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """What may go, redacted."""
        text = self._held + piece
        at = self._safe_end(text)
        self._held = text[at:]
        if len(self._held) > 2 * HELD_CHARS and not _OPEN_KEY.match(self._held):
            clean = redact_text(self._held)
            self._held = clean[-HELD_CHARS:]
            return redact_text(text[:at]) + clean[:-HELD_CHARS]
        return redact_text(text[:at])

    def end(self) -> str:
        """The rest: no more comes."""
        rest, self._held = self._held, ""
        return redact_text(rest)

    @staticmethod
    def _safe_end(text: str) -> int:
        """Up to where no secret can have begun that is not over."""
        opened, closed_at = text.rfind("-----BEGIN "), 0
        if 0 <= len(text) - opened < KEY_BLOCK_CHARS_MAX and opened >= 0:
            closed = _CLOSED_KEY.search(text, opened)
            if closed is not None:
                closed_at = closed.end()
            elif _OPEN_KEY.match(text, opened) or len(text) - opened < LEAD_CHARS_MAX:
                return opened
        at = len(text)
        while at and not text[at - 1].isspace() and len(text) - at <= 2 * HELD_CHARS:
            at -= 1
        lead = max(0, at - LEAD_CHARS_MAX)
        found = _LEAD.search(text[lead:at])
        if found is not None:
            at = lead + found.start()
        for value in _longest_first:
            if not value.isspace() and len(value.split()) > 1:
                at = _before(value, text, min(at, len(text) - _overlap(text, value)))
        return opened if opened < at < closed_at else at  # not between the words of a key's last line


def _before(value: str, text: str, at: int) -> int:
    """`at`, or where `value` begins, if it stands in `text` on both sides of `at`."""
    start = text.rfind(value, 0, at + len(value) - 1)
    return start if 0 <= start < at < start + len(value) else at


def _overlap(text: str, value: str) -> int:
    """How much of the beginning of `value` stands at the end of `text`."""
    counts = range(min(len(value) - 1, len(text)), 0, -1)
    return next((count for count in counts if text.endswith(value[:count])), 0)
