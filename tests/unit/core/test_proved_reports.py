"""Reports and signing keys at the hub: a key is held to, a report that is not proved counts for nothing."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.core.effects import key_u64x2
from agentcom.core.evidence import LATE
from agentcom.core.hub import Hub
from agentcom.loading import load
from agentcom.model import CheckKind, CheckReport, CheckStatus, Iteration, ResultStatus, TaskResult
from agentcom.report_statement import statement_of
from agentcom.signed_report import fingerprint, public_half, sign
from tests.core_rig import HostEnd, Rig
from tests.factories import result, shell_task

SEED, OTHER_SEED = b"\1" * 32, b"\2" * 32
KEY, OTHER_KEY = public_half(SEED), public_half(OTHER_SEED)
COMMIT = "c" * 40


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def box(rig: Rig) -> HostEnd:
    return rig.host("box", signing_key=KEY)


def checked(**fields: Any) -> TaskResult:
    check = CheckReport(kind=CheckKind.test_passes, target="pytest", status=CheckStatus.passed, output="1 passed")
    rounds = (Iteration(n=1, status="pass", checks=(check,)),)
    found = result(status=ResultStatus.verified, iterations=rounds, commit=COMMIT, tree="d" * 40)
    return msgspec.structs.replace(found, **fields)


def signed(assign: m.Assign, found: TaskResult, *, seed: bytes = SEED, **place: Any) -> TaskResult:
    at = {"task": assign.task, "attempt": assign.attempt, "host": assign.route.host, **place}
    said = statement_of(found, signed_at="2026-11-26T08:00:00.000Z", **at)
    return msgspec.structs.replace(found, signed=sign(said, seed))


def other_commit(assign: m.Assign) -> TaskResult:
    return msgspec.structs.replace(signed(assign, checked(commit="e" * 40)), commit=COMMIT)


def altered_check(assign: m.Assign) -> TaskResult:
    failed = CheckReport(kind=CheckKind.test_passes, target="pytest", status=CheckStatus.failed, output="1 passed")
    before = checked(iterations=(Iteration(n=1, status="fail", checks=(failed,)),))
    return msgspec.structs.replace(signed(assign, before), iterations=checked().iterations)


NOT_PROVED = {
    "report_unsigned": lambda assign: checked(),
    "report_wrong_key": lambda assign: signed(assign, checked(), seed=OTHER_SEED),
    "report_other_task": lambda assign: signed(assign, checked(), task=assign.task + 1),
    "report_other_host": lambda assign: signed(assign, checked(), host="den"),
    "report_other_commit": other_commit,
    "report_altered": altered_check,
}


def test_a_signed_report_is_accepted_kept_as_it_was_signed_and_shown_with_its_signer(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    sent = signed(assign, checked())
    box.send(box.ended(assign, "completed", sent))
    assert [ack.verdict for ack in rig.sent(m.ResultAck)] == ["accepted"]
    assert rig.admin.state(number) == "completed"
    kept = rig.store.get("reports", key_u64x2(number, 1))
    assert kept is not None
    assert msgspec.msgpack.decode(kept, type=TaskResult).signed == sent.signed
    shown = rig.admin.ask(m.TaskGet(task=number))["result"]
    assert shown["signature"] == {
        "host": "box",
        "key": fingerprint(KEY),
        "signed_at": "2026-11-26T08:00:00.000Z",
        "verified": True,
    }
    assert "signed" not in shown
    (report,) = rig.admin.ask(m.TaskReports(task=number))["attempts"]
    assert sent.signed is not None
    assert report["result"]["signed"]["statement"] == sent.signed.statement
    assert report["host_key"] == KEY


@pytest.mark.parametrize("code", NOT_PROVED)
def test_a_report_that_is_not_proved_is_refused_told_and_counted_and_the_task_goes_on(code: str, rig: Rig) -> None:
    box = rig.host("box", signing_key=KEY)
    number = rig.admin.submit(shell_task())
    assign = box.take()
    box.send(box.ended(assign, "completed", NOT_PROVED[code](assign)))
    assert [ack.verdict for ack in rig.sent(m.ResultAck)] == ["refused"]
    (told,) = [each for each in rig.published("task") if each["event"] == "report_refused"]
    assert (told["task"], told["attempt"], told["host"], told["code"]) == (number, 1, "box", code)
    shown = rig.admin.ask(m.TaskGet(task=number))
    assert (shown["state"], shown["retries_used"], shown["error"]["class"]) == ("delayed", 0, "infrastructure")
    assert (shown["error"]["code"], shown["result"]) == (code, None)
    assert rig.admin.ask(m.QueueStats())["reports_refused"] == {code: 1}
    events = [entry["event"] for entry in rig.admin.ask(m.TaskStory(task=number))["entries"]]
    assert "report_refused" in events
    # It lies beside the attempt as evidence, and nobody takes it for verified.
    (report,) = rig.admin.ask(m.TaskReports(task=number))["attempts"]
    assert (report["outcome"], report["late_outcome"], report["result"]) == ("failed", "refused", None)
    assert rig.store.get("reports", key_u64x2(number, 1) + LATE) is not None
    assert not (report["late_result"]["signature"] or {}).get("verified")


def test_a_refused_report_that_is_sent_again_changes_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    refused = box.ended(assign, "completed", checked())
    box.send(refused)
    before = rig.admin.ask(m.TaskReports(task=number))
    box.send(refused)
    assert [ack.verdict for ack in rig.sent(m.ResultAck)] == ["duplicate"]
    assert rig.admin.ask(m.TaskReports(task=number)) == before


def test_a_task_whose_report_was_refused_completes_with_one_that_is_proved(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.send(box.ended(box.take(), "completed", checked()))
    rig.advance(5_000)
    again = box.take()
    assert again.attempt == 2
    box.send(box.ended(again, "completed", signed(again, checked())))
    assert rig.admin.state(number) == "completed"


def test_reports_that_are_refused_again_and_again_end_in_a_dead_letter_with_the_reason(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    for _ in range(rig.settings.queue.max_infrastructure + 1):
        box.send(box.ended(box.take(), "completed", checked()))
        rig.advance(10 * 60_000)
        box.beat()
    shown = rig.admin.ask(m.TaskGet(task=number))
    assert (shown["state"], shown["error"]["code"]) == ("dead", "infrastructure_exhausted")
    assert "has not signed" in shown["error"]["message"]


def test_a_partial_result_of_a_failed_attempt_is_held_to_the_same(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    assign = box.take()
    box.send(box.ended(assign, "failed", checked()))
    assert [ack.verdict for ack in rig.sent(m.ResultAck)] == ["refused"]


def test_what_has_nothing_to_prove_is_accepted_unsigned_and_shown_so(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.send(box.ended(box.take(), "completed", result()))
    assert rig.admin.ask(m.TaskGet(task=number))["result"]["signature"] is None


def test_a_host_without_a_key_goes_on_as_before(rig: Rig) -> None:
    old = rig.host("old")
    number = rig.admin.submit(shell_task())
    old.send(old.ended(old.take(), "completed", checked()))
    assert rig.admin.ask(m.TaskGet(task=number))["result"]["signature"] is None
    assert rig.admin.state(number) == "completed"


# --- keys -----------------------------------------------------------------------------------------------


def refused_hello(box: HostEnd) -> m.Error:
    hello = m.Hello(protocol=limits.PROTOCOL_VERSION, process=box.process, host=box.offer)
    return box.refusal(hello)


def test_the_first_key_that_a_host_offers_is_held_to_and_survives_a_restart(rig: Rig, box: HostEnd) -> None:
    (host,) = rig.admin.ask(m.HostList())["hosts"]
    assert host["signing_key"] == fingerprint(KEY)
    rig.start()
    box.offer = msgspec.structs.replace(box.offer, signing_key=OTHER_KEY)
    error = refused_hello(box)
    assert (error.code, error.field) == ("signing_key_changed", "host.signing_key")
    assert f"agentcom host accept-key box {OTHER_KEY}" in error.message


def test_a_host_with_another_key_gets_no_work_until_a_person_accepts_it(rig: Rig, box: HostEnd) -> None:
    box.offer = msgspec.structs.replace(box.offer, signing_key=OTHER_KEY)
    rig.start()
    rig.admin.hello()
    refused_hello(box)
    (told,) = rig.published("host")
    assert (told["event"], told["host"]) == ("signing_key_refused", "box")
    assert (told["known"], told["offered"]) == (fingerprint(KEY), fingerprint(OTHER_KEY))
    refused_hello(box)
    assert rig.published("host") == []  # it is told once
    rig.admin.ask(m.HostAcceptKey(host="box", key=OTHER_KEY))
    (known,) = rig.published("host")
    assert (known["event"], known["key"], known["by"]) == ("signing_key_known", fingerprint(OTHER_KEY), "admin")
    box.hello()
    number = rig.admin.submit(shell_task())
    assign = box.take()
    box.send(box.ended(assign, "completed", signed(assign, checked(), seed=OTHER_SEED)))
    assert rig.admin.state(number) == "completed"


def test_a_host_with_a_known_key_cannot_go_on_without_it(rig: Rig, box: HostEnd) -> None:
    box.offer = msgspec.structs.replace(box.offer, signing_key=None)
    assert refused_hello(box).code == "signing_key_missing"


def test_a_core_that_takes_over_holds_hosts_to_their_keys(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    heir = Hub(rig.settings, random.Random(7), "heir", rig.boot)
    heir.load(load(rig.store), rig.clock.now(), rig.hub)
    rig.hub = rig.queries.hub = heir
    box.send(box.ended(assign, "completed", checked()))
    assert [ack.verdict for ack in rig.sent(m.ResultAck)] == ["refused"]
    assert rig.admin.state(number) == "delayed"
