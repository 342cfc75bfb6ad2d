"""What a host signs of a result, and whether what it signed is what the result says. Shared by host, hub and client.

The statement is JSON with sorted keys, without spaces, in ASCII. It binds the report to task, attempt, host, commit and
tree, and has of every check how it ended and the SHA-256 of its output. It names its fields one by one: a field that
results get later changes no statement that was signed before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from agentcom.model import CheckReport, Iteration, JsonObject, ResultStatus, TaskResult
from agentcom.signed_report import SignedReport, fingerprint, is_genuine

VERSION: Final = 1
TARGET_CHARS_MAX: Final = 100  # longer ones, and such that are not ASCII, stand as their SHA-256
JUDGED: Final = frozenset({ResultStatus.verified, ResultStatus.already_done, ResultStatus.partial_pass})


class Fault(NamedTuple):
    """Why a result is not believed: a code of its own for each reason, and words."""

    code: str
    message: str


def needs_signature(result: TaskResult) -> bool:
    """Whether there is something to prove: a commit, or the verdict of a check."""
    return (
        result.commit is not None
        or result.status in JUDGED
        or bool(result.iterations and result.iterations[-1].checks)
    )


def statement_of(result: TaskResult, *, task: int, attempt: int, host: str, signed_at: str) -> str:
    """The text that is signed. What others can compare with the result is in it as it stands there."""
    return _canonical({**_claims(result, task=task, attempt=attempt, host=host), "signed_at": signed_at})


def describes(signed: SignedReport, result: TaskResult, *, task: int, attempt: int, host: str) -> bool:
    """Whether the statement says of this result what one that was made now would."""
    return _said(signed, _claims(result, task=task, attempt=attempt, host=host)) is None


def fault_of(result: TaskResult, *, key: str, task: int, attempt: int, host: str) -> Fault | None:
    """Why the result is not proved to be that host's, of that attempt; None where it is, or has nothing to prove.
    `key` is the one that the host is known to have, empty where none is known."""
    signed = result.signed
    if signed is None:
        if key and needs_signature(result):
            return Fault("report_unsigned", f"{host} has a signing key and has not signed this report")
        return None
    if signed.key != key:
        known = f"that of {host} is {fingerprint(key)}" if key else f"no key of {host} is known"
        return Fault("report_wrong_key", f"it is signed with the key {fingerprint(signed.key)}; {known}")
    if not is_genuine(signed):
        return Fault("report_bad_signature", f"the signature is not one of the key of {host} over this statement")
    return _said(signed, _claims(result, task=task, attempt=attempt, host=host))


def signed_fields(signed: SignedReport) -> JsonObject:
    """The statement's fields; empty where it is not one."""
    try:
        found = json.loads(signed.statement)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _said(signed: SignedReport, claims: JsonObject) -> Fault | None:
    """The first difference between what was signed and what the result says."""
    found = signed_fields(signed)
    for name, value in claims.items():
        if found.get(name) != value:
            return _fault(name, f"what was signed is not this result: {_difference(name, found.get(name), value)}")
    extra = sorted(found.keys() - claims.keys() - {"signed_at"})
    if extra or _canonical(found) != signed.statement:
        return Fault("report_malformed", "what was signed is not a statement as this version writes it")
    return None


def _fault(name: str, said: str) -> Fault:
    if name == "report":
        return Fault("report_malformed", said)
    if name in ("task", "attempt", "spec_sha256"):
        return Fault("report_other_task", said)
    if name == "host":
        return Fault("report_other_host", said)
    if name in ("commit", "tree", "base"):
        return Fault("report_other_commit", said)
    return Fault("report_altered", said)


def _difference(name: str, signed: Any, value: Any) -> str:
    if name != "checks" or not isinstance(signed, list) or len(signed) != len(value):
        return f"{name} is {_short(value)}, signed was {_short(signed)}"
    at = next(n for n, (one, other) in enumerate(zip(signed, value, strict=True)) if one != other)
    return f"check {at + 1} ({value[at]['kind']}) is another, or ended otherwise"


def _short(value: Any) -> str:
    return _canonical(value)[:80]


def _claims(result: TaskResult, *, task: int, attempt: int, host: str) -> JsonObject:
    """What a statement about the result says, in the order in which it is compared."""
    last = result.iterations[-1].checks if result.iterations else ()
    return {
        "report": VERSION,
        "task": task,
        "attempt": attempt,
        "host": host,
        "spec_sha256": result.spec_sha256,
        "commit": result.commit,
        "tree": result.tree,
        "base": result.base,
        "status": str(result.status),
        "evidence": str(result.evidence) if result.evidence is not None else None,
        "sandbox": result.sandbox,
        "checks": _lines(last),
        "iterations": [_round(each) for each in result.iterations],
        "tampered": len(result.tampered),
        "tampered_sha256": _digest(_canonical(list(result.tampered))),
    }


def _round(iteration: Iteration) -> JsonObject:
    """A model's opinion is part of what was reported, and stands in it only where there is one."""
    digest = _digest(_canonical(_lines(iteration.checks)))
    found: JsonObject = {"n": iteration.n, "status": iteration.status, "checks_sha256": digest}
    judged = iteration.judgement
    if judged is not None:
        said = [judged.verdict, judged.model, list(judged.reasons), judged.note]
        found["judgement_sha256"] = _digest(_canonical(said))
    return found


def _lines(checks: Sequence[CheckReport]) -> list[JsonObject]:
    return [
        {
            "kind": str(each.kind),
            "target": _target(each.target),
            "status": str(each.status),
            "before": str(each.before) if each.before is not None else None,
            "with_base": str(each.with_base) if each.with_base is not None else None,
            "source": each.source,
            "output_sha256": _digest(each.output),
        }
        for each in checks
    ]


def _target(target: str) -> str:
    is_plain = len(target) <= TARGET_CHARS_MAX and target.isascii() and target.isprintable()
    return target if is_plain else f"sha256:{_digest(target)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def signature_view(signed: SignedReport | None, *, is_verified: bool) -> JsonObject | None:
    """Who has signed a result and when, in short; None: it is not signed."""
    if signed is None:
        return None
    said = signed_fields(signed)
    return {
        "host": said.get("host"),
        "key": fingerprint(signed.key),
        "signed_at": said.get("signed_at"),
        "verified": is_verified,
    }


def result_of(found: JsonObject) -> TaskResult:
    """A result from its JSON, as people keep it. Raises msgspec.ValidationError."""
    return msgspec.convert(found, TaskResult)
