"""What a host signs of a result, and how each thing that is not as it was signed is told from the others."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom.auth import signing_seed
from agentcom.errors import ConfigError
from agentcom.model import (
    Backend,
    CheckKind,
    CheckReport,
    CheckStatus,
    Evidence,
    Iteration,
    Judgement,
    ResultStatus,
    SignedReport,
    TaskResult,
)
from agentcom.report_statement import fault_of, needs_signature, signed_fields
from agentcom.signed_report import fingerprint, is_genuine, public_half, sign
from agentcom_sidecar.outbox import Entry, Outbox
from agentcom_sidecar.signer import Signer

SEED = bytes(range(32))
KEY = public_half(SEED)
PLACE: dict[str, Any] = {"task": 7, "attempt": 2, "host": "box"}


def report(kind: CheckKind = CheckKind.test_passes, status: CheckStatus = CheckStatus.passed) -> CheckReport:
    return CheckReport(kind=kind, target="pytest -q", status=status, output="3 passed", before=CheckStatus.failed)


def verified(**changes: Any) -> TaskResult:
    return msgspec.structs.replace(
        TaskResult(
            status=ResultStatus.verified,
            backend=Backend.ollama,
            model="m",
            base="b" * 40,
            commit="c" * 40,
            tree="d" * 40,
            evidence=Evidence.red_to_green,
            spec_sha256="e" * 64,
            iterations=(
                Iteration(n=1, status="fail", checks=(report(status=CheckStatus.failed),)),
                Iteration(n=2, status="pass", checks=(report(), report(CheckKind.git_clean))),
            ),
        ),
        **changes,
    )


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    path = tmp_path / "host_signing.key"
    path.write_text(SEED.hex())
    path.chmod(0o600)
    return Signer(path)


def test_a_signed_result_is_proved_whatever_crosses_the_wire(signer: Signer) -> None:
    sent = msgspec.msgpack.encode(signer.signed(verified(), **PLACE))
    received = msgspec.msgpack.decode(sent, type=TaskResult)
    assert fault_of(received, key=KEY, **PLACE) is None
    assert received.signed is not None
    said = signed_fields(received.signed)
    assert (said["task"], said["attempt"], said["host"]) == (7, 2, "box")
    assert (said["commit"], said["tree"], said["base"]) == ("c" * 40, "d" * 40, "b" * 40)
    assert [(each["kind"], each["status"], each["before"]) for each in said["checks"]] == [
        ("test_passes", "pass", "fail"),
        ("git_clean", "pass", "fail"),
    ]


def first_check(result: TaskResult, n: int, **changes: Any) -> TaskResult:
    """The result with the first check of its nth iteration changed after it was signed."""
    rounds = list(result.iterations)
    changed = msgspec.structs.replace(rounds[n].checks[0], **changes)
    rounds[n] = msgspec.structs.replace(rounds[n], checks=(changed, *rounds[n].checks[1:]))
    return msgspec.structs.replace(result, iterations=tuple(rounds))


def judged(result: TaskResult) -> TaskResult:
    *before, last = result.iterations
    said = Judgement(verdict="pass", model="m")
    return msgspec.structs.replace(result, iterations=(*before, msgspec.structs.replace(last, judgement=said)))


ALTERED = {
    "commit": ("report_other_commit", lambda r: msgspec.structs.replace(r, commit="f" * 40)),
    "tree": ("report_other_commit", lambda r: msgspec.structs.replace(r, tree="f" * 40)),
    "base": ("report_other_commit", lambda r: msgspec.structs.replace(r, base="f" * 40)),
    "spec": ("report_other_task", lambda r: msgspec.structs.replace(r, spec_sha256="f" * 64)),
    "status": ("report_altered", lambda r: msgspec.structs.replace(r, status=ResultStatus.already_done)),
    "evidence": ("report_altered", lambda r: msgspec.structs.replace(r, evidence=Evidence.green_to_green)),
    "tampered": ("report_altered", lambda r: msgspec.structs.replace(r, tampered=("tests/test_a.py",))),
    "verdict": ("report_altered", lambda r: first_check(r, 1, status=CheckStatus.failed)),
    "output": ("report_altered", lambda r: first_check(r, 1, output="4 passed")),
    "before": ("report_altered", lambda r: first_check(r, 1, before=None)),
    "with_base": ("report_altered", lambda r: first_check(r, 1, with_base=CheckStatus.passed)),
    "round": ("report_altered", lambda r: first_check(r, 0, status=CheckStatus.passed)),
    "opinion": ("report_altered", lambda r: judged(r)),
    "fewer": ("report_altered", lambda r: msgspec.structs.replace(r, iterations=r.iterations[:1])),
    "nothing": ("report_unsigned", lambda r: msgspec.structs.replace(r, signed=None)),
}


@pytest.mark.parametrize("what", ALTERED)
def test_what_was_changed_after_it_was_signed_is_refused_with_a_reason_of_its_own(what: str, signer: Signer) -> None:
    code, alter = ALTERED[what]
    fault = fault_of(alter(signer.signed(verified(), **PLACE)), key=KEY, **PLACE)
    assert fault is not None
    assert fault.code == code


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ({"task": 8}, "report_other_task"),
        ({"attempt": 3}, "report_other_task"),
        ({"host": "den"}, "report_other_host"),
    ],
)
def test_the_report_of_another_task_attempt_or_host_is_refused(
    place: dict[str, Any], code: str, signer: Signer
) -> None:
    fault = fault_of(signer.signed(verified(), **{**PLACE, **place}), key=KEY, **PLACE)
    assert fault is not None
    assert fault.code == code


def test_a_report_signed_with_another_key_is_refused_and_both_keys_are_named(signer: Signer) -> None:
    other = public_half(bytes(32))
    fault = fault_of(signer.signed(verified(), **PLACE), key=other, **PLACE)
    assert fault is not None
    assert fault.code == "report_wrong_key"
    assert fingerprint(other) in fault.message
    assert fingerprint(KEY) in fault.message
    unknown = fault_of(signer.signed(verified(), **PLACE), key="", **PLACE)
    assert unknown is not None
    assert unknown.code == "report_wrong_key"


def test_a_signature_over_something_else_and_a_statement_that_is_none_are_refused(signer: Signer) -> None:
    signed = signer.signed(verified(), **PLACE).signed
    assert signed is not None
    forged = msgspec.structs.replace(signed, statement=signed.statement.replace('"pass"', '"fail"'))
    assert not is_genuine(forged)
    fault = fault_of(verified(signed=forged), key=KEY, **PLACE)
    assert fault is not None
    assert fault.code == "report_bad_signature"
    for said in ("no json", "[1]", "{}", json.dumps({**signed_fields(signed), "report": 2}), signed.statement + " "):
        fault = fault_of(verified(signed=sign(said, SEED)), key=KEY, **PLACE)
        assert fault is not None
        assert fault.code == "report_malformed", said


def test_a_key_that_is_no_point_of_the_curve_is_refused_not_a_crash() -> None:
    assert not is_genuine(SignedReport(statement="{}", signature="00" * 64, key="ff" * 32))


def test_a_result_with_nothing_to_prove_needs_no_signature(signer: Signer) -> None:
    plain = TaskResult(status=ResultStatus.unchecked, backend=Backend.shell, model="none")
    assert not needs_signature(plain)
    assert signer.signed(plain, **PLACE) is plain
    assert fault_of(plain, key=KEY, **PLACE) is None
    for proved in (
        msgspec.structs.replace(plain, commit="c" * 40),
        msgspec.structs.replace(plain, status=ResultStatus.verified),
        msgspec.structs.replace(plain, iterations=(Iteration(n=1, status="fail", checks=(report(),)),)),
    ):
        assert needs_signature(proved)


def test_a_report_is_signed_once_and_anew_only_where_it_has_changed_since(signer: Signer) -> None:
    once = signer.signed(verified(), **PLACE)
    later = msgspec.structs.replace(once, pull_request="https://forge/1", branch="b-2", warnings=("w",))
    assert signer.signed(later, **PLACE).signed is once.signed
    cut = first_check(once, 1, output="")
    assert signer.signed(cut, **PLACE).signed != once.signed
    assert fault_of(signer.signed(cut, **PLACE), key=KEY, **PLACE) is None


def test_the_largest_statement_fits_its_bound(signer: Signer) -> None:
    worst = CheckReport(kind=CheckKind.command_succeeds, target='"' * 100, status=CheckStatus.no_evidence)
    worst = msgspec.structs.replace(
        worst, before=CheckStatus.no_evidence, with_base=CheckStatus.no_evidence, source="repository"
    )
    checks = (worst,) * (limits.CHECKS_MAX + limits.REPO_CHECKS_MAX)
    rounds = tuple(Iteration(n=n + 1, status="fail", checks=checks) for n in range(limits.FIX_ATTEMPTS_MAX + 1))
    signed = signer.signed(verified(iterations=rounds), **PLACE).signed
    assert signed is not None
    assert len(signed.statement) <= limits.STATEMENT_CHARS_MAX


def test_the_outbox_signs_what_it_sends_without_secrets_and_cut_to_fit(tmp_path: Path, signer: Signer) -> None:
    outbox = Outbox(tmp_path / "outbox")
    outbox.load()
    checks = tuple(
        msgspec.structs.replace(report(), output=f"token ghp_{'a1B2' * 9} {n} " + "x" * 8000) for n in range(50)
    )
    result = verified(iterations=(Iteration(n=1, status="pass", checks=checks),), output="y" * 60_000)
    outbox.put(
        Entry(task=7, attempt=2, outcome="completed", result=result), lambda found: signer.signed(found, **PLACE)
    )
    (kept,) = outbox.due(1)
    assert kept.result is not None
    assert "ghp_" not in kept.result.iterations[0].checks[0].output
    assert fault_of(kept.result, key=KEY, **PLACE) is None
    assert len(msgspec.msgpack.encode(kept.result)) <= limits.RESULT_BYTES_MAX


def test_a_key_is_made_for_its_owner_alone_and_a_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "host_signing.key"
    seed = signing_seed(path)
    assert (path.stat().st_mode & 0o777, len(seed)) == (0o600, 32)
    assert signing_seed(path) == seed
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        signing_seed(path)
    path.chmod(0o600)
    path.write_text("abcd")
    with pytest.raises(ConfigError, match="holds 2 bytes, not 32"):
        signing_seed(path)


def test_anybody_can_check_a_signature_with_openssl_alone(tmp_path: Path, signer: Signer) -> None:
    signed = signer.signed(verified(), **PLACE).signed
    assert signed is not None
    (tmp_path / "statement").write_text(signed.statement)
    (tmp_path / "signature").write_bytes(bytes.fromhex(signed.signature))
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100" + signed.key))
    checked = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin"]
    try:
        done = subprocess.run(
            [*checked, "-in", "statement", "-sigfile", "signature"], cwd=tmp_path, capture_output=True, check=False
        )
    except FileNotFoundError:
        assert os.environ.get("AGENTCOM_REQUIRE_SANDBOX") != "1", "CI installs openssl"
        pytest.skip("openssl is not installed")
    assert done.returncode == 0, done.stderr
