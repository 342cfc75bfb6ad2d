"""The wire as another language sees it: bytes made and read by the msgpack package, over real sockets.

What is wrong is refused with a code, the path of the field and the reason; the connection goes on, and so does
everybody else's work. Identity is the key that the connection proved and the token that belongs to it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import KeyPair
from agentcom.connection import Connection
from agentcom.errors import Refused
from agentcom.model import Role
from tests import factories
from tests.factories import shell_task, task
from tests.fake_client import NO_TOKEN, FakeClient
from tests.fake_sidecar import FakeSidecar
from tests.live_hub import LiveHub, live_hub

KIB = 1024


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    # A lease longer than this file takes on a slow machine: its busy host beats only when it is asked to.
    settings = factories.settings(lease_s=600.0)
    with live_hub(tmp_path_factory.mktemp("wire"), settings) as made:
        yield made


@pytest.fixture(scope="module")
def ann(hub: LiveHub) -> FakeClient:
    return hub.admin()


class Busy:
    """A host in the middle of a task, while others talk nonsense."""

    def __init__(self, hub: LiveHub, ann: FakeClient) -> None:
        self.box: FakeSidecar = hub.host("busy")
        self.number = ann.submit(shell_task(needs=("host:busy",)))
        self.assign = self.box.take()

    def goes_on(self) -> bool:
        return self.box.beat(self.assign).kill == () and self.box.received == []


@pytest.fixture(scope="module")
def busy(hub: LiveHub, ann: FakeClient) -> Busy:
    return Busy(hub, ann)


def packed(message: Any) -> bytes:
    return bytes(msgpack.packb(message))


def request(token: bytes, op: Any, number: Any = 77) -> bytes:
    return packed({"type": "request", "session": token, "id": number, "op": op})


def submit(token: bytes, **fields: Any) -> bytes:
    return request(token, {"op": "submit", "tasks": [{"description": "x", **fields}]})


def raw(client: FakeClient) -> dict[str, Any]:
    """The next message, read by the other library."""
    assert client.socket.poll(10_000), "no answer"
    message = msgpack.unpackb(client.socket.recv())
    assert isinstance(message, dict)
    return message


# --- the protocol, by another library -------------------------------------------------------------------


def test_a_person_in_another_language_submits_and_reads_a_task(hub: LiveHub) -> None:
    ann = hub.connect(hub.broker.keys.admin)
    ann.send_frames(packed({"type": "hello", "protocol": 1, "process": "another-language"}))
    welcome = raw(ann)
    assert welcome["type"] == "welcome"
    assert (welcome["name"], welcome["role"], len(welcome["session"])) == ("admin", "admin", 16)
    assert {"epoch", "software", "heartbeat_s", "lease_s", "feed", "feed_key"} <= welcome.keys()
    ann.send_frames(submit(welcome["session"], needs=["nowhere"], lane="high", files=[{"path": "a/b"}]))
    reply = raw(ann)
    assert (reply["type"], reply["id"]) == ("reply", 77)
    number = reply["value"]["tasks"][0]["id"]
    assert reply["value"]["tasks"] == [{"id": number, "state": "ready", "tier": "standard", "created": True}]
    ann.send_frames(request(welcome["session"], {"op": "task_get", "task": number}, 2**62))
    reply = raw(ann)
    assert (reply["id"], reply["value"]["lane"], reply["value"]["needs"]) == (2**62, "high", ["nowhere"])
    assert reply["value"]["files"] == [{"path": "a/b", "reason": ""}]


def test_a_host_in_another_language_takes_a_task_and_reports_it(hub: LiveHub, ann: FakeClient) -> None:
    box = hub.connect(hub.enrolled(Role.host, "foreign"))
    offer = {"name": "foreign", "agents": [{"name": "one", "backends": ["shell"]}]}
    box.send_frames(packed({"type": "hello", "protocol": 1, "process": "another-host", "host": offer}))
    welcome = raw(box)
    token = welcome["session"]
    assert (welcome["names"], welcome["verdicts"]) == ({"one": "one"}, [])
    number = ann.submit(shell_task("echo hi", needs=("agent:one",)))
    assign = raw(box)
    assert {k: assign[k] for k in ("type", "task", "attempt", "agent", "tier")} == {
        "type": "assign",
        "task": number,
        "attempt": 1,
        "agent": "one",
        "tier": "trivial",
    }
    assert assign["spec"] == {"description": "Run echo hi", "command": "echo hi", "needs": ["agent:one"]}
    place = {"session": token, "task": number, "attempt": 1}
    box.send_frames(packed({"type": "accept", **place}))
    box.send_frames(packed({"type": "heartbeat", "session": token, "beat": 1, "attempts": [[number, 1, 5]]}))
    beat = raw(box)
    assert beat == {
        "type": "beat", "beat": 1, "kill": [], "probe": [], "kinds": {}, "asks": [], "pace": None,
    }  # fmt: skip
    box.send_frames(packed({"type": "log", **place, "offset": 0, "text": "hi\n"}))
    result = {"status": "unchecked", "backend": "shell", "model": "none", "cost_usd": 0, "output": "hi\n"}
    report = packed({"type": "result", **place, "outcome": "completed", "result": result})
    box.send_frames(report)
    assert raw(box) == {"type": "result_ack", "task": number, "attempt": 1, "verdict": "accepted"}
    box.send_frames(report)
    assert raw(box)["verdict"] == "duplicate"
    found = ann.task(number)
    assert (found["state"], found["result"]["output"]) == ("completed", "hi\n")
    assert ann.ask(m.TaskLog(task=number))["text"] == "hi\n"


def test_fields_that_the_hub_does_not_know_are_ignored_outside_a_task(ann: FakeClient) -> None:
    op = {"op": "whoami", "colour": "red"}
    body = {"type": "request", "session": ann.token, "id": 8, "op": op, "trace": {"deep": [1]}}
    ann.send_frames(packed(body))
    assert ann.answer(8) == {"name": "admin", "role": "admin"}


def test_a_text_comes_back_byte_for_byte(ann: FakeClient) -> None:
    text = "Größe ✓ \U0001f680 \u200b\ttabs\r\nlines\x1b[0m \\ \" ' \x7f end "
    spec = task(text, needs=("nowhere",), success_criteria=(text,), labels=("é" * 128,))
    found = ann.task(ann.submit(spec))
    assert (found["success_criteria"], found["labels"]) == ([text], ["é" * 128])
    assert found["description"] == text


# --- bad input ------------------------------------------------------------------------------------------

DEEP = b"\x91" * 100_000 + b"\xc0"
BAD: dict[str, tuple[Callable[[bytes], bytes], str, str | None]] = {
    "nothing": (lambda t: b"", "malformed", None),
    "noise": (lambda t: b"\xc1\xff\x00", "malformed", None),
    "text": (lambda t: b'{"type": "request"}', "invalid", None),
    "cut": (lambda t: request(t, {"op": "whoami"})[:-3], "malformed", None),
    "more behind it": (lambda t: request(t, {"op": "whoami"}) + b"\x00", "malformed", None),
    "too deep": (lambda t: DEEP, "invalid", None),
    "too deep in what is ignored": (lambda t: b"\x82\xa4type\xa7request\xa1x" + DEEP, "malformed", None),
    "too deep in an operation": (lambda t: b"\x82\xa4type\xa7request\xa2op" + DEEP, "invalid", "op"),
    "a list": (lambda t: packed([1, 2]), "invalid", None),
    "a number": (lambda t: packed(5), "invalid", None),
    "no type": (lambda t: packed({"session": t}), "invalid", None),
    "type is a number": (lambda t: packed({"type": 5}), "invalid", "type"),
    "unknown type": (lambda t: packed({"type": "drop"}), "unknown_type", "type"),
    "a type of the hub": (lambda t: packed({"type": "welcome"}), "unknown_type", "type"),
    "unknown operation": (lambda t: request(t, {"op": "drop"}), "unknown_type", "op"),
    "no operation": (lambda t: packed({"type": "request", "session": t, "id": 77}), "invalid", None),
    "no session": (lambda t: packed({"type": "request", "id": 77, "op": {"op": "whoami"}}), "invalid", None),
    "session is text": (lambda t: request("x" * 16, {"op": "whoami"}), "invalid", "session"),  # type: ignore[arg-type]
    "short session": (lambda t: request(t[:15], {"op": "whoami"}), "invalid", "session"),
    "long session": (lambda t: request(t + b"x", {"op": "whoami"}), "invalid", "session"),
    "negative id": (lambda t: request(t, {"op": "whoami"}, -1), "invalid", "id"),
    "text id": (lambda t: request(t, {"op": "whoami"}, "1"), "invalid", "id"),
    "no tasks": (lambda t: request(t, {"op": "submit", "tasks": []}), "invalid", "tasks"),
    "too many tasks": (
        lambda t: request(t, {"op": "submit", "tasks": [{"description": "x"}] * 1001}),
        "invalid",
        "tasks",
    ),
    "one of many": (
        lambda t: request(t, {"op": "submit", "tasks": [{"description": "x"}, {"description": 5}]}),
        "invalid",
        "tasks[1].description",
    ),
    "no description": (
        lambda t: request(t, {"op": "submit", "tasks": [{"lane": "low"}]}),
        "invalid",
        "tasks[0]",
    ),
    "empty description": (lambda t: submit(t, description=""), "invalid", "tasks[0].description"),
    "blank description": (lambda t: submit(t, description=" \n"), "invalid", "tasks[0].description"),
    "long description": (
        lambda t: submit(t, description="x" * (limits.DESCRIPTION_CHARS_MAX + 1)),
        "invalid",
        "tasks[0].description",
    ),
    "description of 1 MB": (lambda t: submit(t, description="x" * 1_000_000), "too_large", None),
    "unknown lane": (lambda t: submit(t, lane="asap"), "invalid", "tasks[0].lane"),
    "unknown tier": (lambda t: submit(t, tier="huge"), "invalid", "tasks[0].tier"),
    "unknown check": (
        lambda t: submit(t, checks=[{"kind": "vibes"}]),
        "unknown_check",
        "tasks[0].checks[0].kind",
    ),
    "negative retries": (lambda t: submit(t, max_retries=-1), "invalid", "tasks[0].max_retries"),
    "too many retries": (lambda t: submit(t, max_retries=101), "invalid", "tasks[0].max_retries"),
    "retries are text": (lambda t: submit(t, max_retries="3"), "invalid", "tasks[0].max_retries"),
    "no time at all": (lambda t: submit(t, timeout_s=0), "invalid", "tasks[0].timeout_s"),
    "misspelt field": (lambda t: submit(t, max_retry=3), "invalid", "tasks[0]"),
    "path outside": (
        lambda t: submit(t, files=[{"path": "../../etc/passwd"}]),
        "path_outside",
        "tasks[0].files[0].path",
    ),
    "checked path outside": (
        lambda t: submit(t, checks=[{"kind": "file_exists", "target": "/etc/passwd"}]),
        "path_outside",
        "tasks[0].checks[0].target",
    ),
    "trivial without a command": (
        lambda t: submit(t, tier="trivial"),
        "command_required",
        "tasks[0].command",
    ),
    "too many labels": (lambda t: submit(t, labels=["x"] * 33), "invalid", "tasks[0].labels"),
    "a text that is no UTF-8": (
        lambda t: submit(t, lane="low").replace(b"low", b"\xff\xfe\xfd"),
        "malformed",
        None,
    ),
    "infinite wait": (
        lambda t: request(t, {"op": "task_wait", "task": 1, "timeout_s": float("inf")}),
        "invalid",
        "timeout_s",
    ),
    "no number of seconds": (
        lambda t: request(t, {"op": "task_wait", "task": 1, "timeout_s": float("nan")}),
        "invalid",
        "timeout_s",
    ),
    "task zero": (lambda t: request(t, {"op": "task_get", "task": 0}), "invalid", "task"),
    "task beyond all": (lambda t: request(t, {"op": "task_get", "task": 2**63}), "invalid", "task"),
    "a page too long": (lambda t: request(t, {"op": "task_list", "limit": 501}), "invalid", "limit"),
    "one byte too many": (
        lambda t: b"\xc0" * (limits.REQUEST_BYTES_MAX + 1),
        "too_large",
        None,
    ),
    "257 KiB": (lambda t: submit(t, description="x" * 257 * KIB), "too_large", None),
    "3.9 MiB": (lambda t: b"\x00" * (limits.FRAME_BYTES_MAX - KIB), "too_large", None),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_by_code_and_field_and_everything_goes_on(
    ann: FakeClient, busy: Busy, name: str
) -> None:
    make, code, field = BAD[name]
    before = ann.ask(m.QueueStats())["tasks_total"]
    body = make(ann.token)
    ann.send_frames(body)
    refused = ann.expect(m.Error)
    assert (refused.code, refused.field) == (code, field)
    assert len(refused.message) > 8
    assert refused.id == m.request_id_of(body)
    assert ann.ask(m.QueueStats())["tasks_total"] == before
    assert ann.received == []
    assert busy.goes_on()


def test_a_refusal_that_belongs_to_a_request_says_which(ann: FakeClient) -> None:
    for body in (submit(ann.token, lane="asap"), submit(ann.token, description="x" * 300 * KIB)):
        ann.send_frames(body)
        with pytest.raises(Refused):
            ann.answer(77)


def test_the_limit_stands_in_the_refusal_of_what_is_too_large(ann: FakeClient) -> None:
    ann.send_frames(b"\xc0" * (limits.REQUEST_BYTES_MAX + 1))
    assert str(limits.REQUEST_BYTES_MAX) in ann.expect(m.Error).message


def test_the_largest_message_that_is_allowed_is_taken_and_one_byte_more_is_not(ann: FakeClient) -> None:
    def batch(chars: int) -> bytes:
        texts = ("x" * limits.DESCRIPTION_CHARS_MAX, "x" * chars)
        tasks = [{"description": one, "needs": ["nowhere"]} for one in texts]
        return request(ann.token, {"op": "submit", "tasks": tasks})

    room = limits.REQUEST_BYTES_MAX - len(batch(70_000)) + 70_000
    assert len(batch(room)) == limits.REQUEST_BYTES_MAX
    ann.send_frames(batch(room))
    assert len(ann.answer(77)["tasks"]) == 2
    ann.send_frames(batch(room + 1))
    with pytest.raises(Refused) as refused:
        ann.answer(77)
    assert refused.value.code == "too_large"


@pytest.mark.parametrize(
    "frames",
    [
        (b"", b""),
        (b"", request(b"x" * 16, {"op": "whoami"})),
        (b"a", b"b", b"c"),
        tuple(bytes([n % 256]) for n in range(500)),
    ],
    ids=["empty", "as a REQ socket sends it", "three", "five hundred"],
)
def test_a_message_of_several_frames_is_refused_whole_and_none_of_it_is_read_as_another(
    ann: FakeClient, busy: Busy, frames: tuple[bytes, ...]
) -> None:
    ann.send_frames(*frames)
    assert ann.expect(m.Error).code == "multi_frame"
    assert ann.is_silent()
    assert busy.goes_on()


def test_a_frame_may_hold_many_messages_which_are_answered_in_order(hub: LiveHub) -> None:
    bob = hub.member(Role.submit, "many-asked")
    asked = [bob.request(m.Whoami()), bob.request(m.Submit(tasks=(shell_task(),))), bob.request(m.Whoami())]
    bob.send_frames(packed({"type": "many", "messages": [msgpack.unpackb(m.encode(each)) for each in asked]}))
    assert [raw(bob)["id"] for _ in asked] == [each.id for each in asked]


def test_the_answers_of_a_tick_come_in_one_frame_to_a_caller_who_takes_many(hub: LiveHub) -> None:
    bob = hub.member(Role.view, "many-taken")
    bob.hello(takes_many=True)
    asked = [bob.request(m.Whoami()) for _ in range(3)]
    bob.send_frames(packed({"type": "many", "messages": [msgpack.unpackb(m.encode(each)) for each in asked]}))
    answer = raw(bob)
    assert answer["type"] == "many"
    assert [each["id"] for each in answer["messages"]] == [each.id for each in asked]
    # What stands alone comes alone, as to anybody.
    bob.send(bob.request(m.Whoami()))
    assert raw(bob)["type"] == "reply"


def test_many_messages_of_which_one_is_wrong_are_refused_together(hub: LiveHub) -> None:
    bob = hub.member(Role.submit, "many-wrong")
    good = msgpack.unpackb(m.encode(bob.request(m.Submit(tasks=(shell_task(),)))))
    bob.send_frames(packed({"type": "many", "messages": [good, {"type": "nonsense"}]}))
    refused = raw(bob)
    assert (refused["type"], refused["code"], refused.get("id")) == ("error", "unknown_type", None)
    assert bob.ask(m.TaskList())["tasks"] == []


@pytest.mark.parametrize("count", [0, limits.MANY_MAX + 1])
def test_none_and_too_many_messages_in_a_frame_are_refused(hub: LiveHub, count: int) -> None:
    bob = hub.member(Role.view, f"many-{count}")
    each = msgpack.unpackb(m.encode(bob.request(m.Whoami())))
    bob.send_frames(packed({"type": "many", "messages": [each] * count}))
    refused = raw(bob)
    assert (refused["code"], refused["field"]) == ("invalid", "messages")


def test_a_message_of_two_frames_cannot_speak_for_another_peer(hub: LiveHub, busy: Busy) -> None:
    """Read as two messages, the second frame would have been taken for an address and the third for its message."""
    bob = hub.member(Role.view, "two-frames")
    forged = m.encode(m.Bye(session=busy.box.token))
    bob.send_frames(b"x", b"any-address", forged)
    assert bob.expect(m.Error).code == "multi_frame"
    assert busy.goes_on()


def test_above_the_frame_limit_the_connection_ends_and_the_others_go_on(
    hub: LiveHub, ann: FakeClient, busy: Busy
) -> None:
    bob = hub.member(Role.view, "far-too-large")
    bob.send_frames(b"\x00" * (5 * limits.MIB))
    bob.await_event(zmq.EVENT_DISCONNECTED)
    assert ann.is_silent()
    assert busy.goes_on()


def test_a_flood_of_nonsense_does_not_stop_the_work_of_others(
    hub: LiveHub, ann: FakeClient, busy: Busy
) -> None:
    bob = hub.member(Role.view, "flood")
    for _ in range(2_000):
        bob.send_frames(b"\xc1")
    assert busy.goes_on()
    assert ann.ask(m.Whoami())["name"] == "admin"
    for _ in range(2_000):
        assert bob.expect(m.Error).code == "malformed"


def test_a_caller_that_reads_nothing_slows_nobody_and_is_dropped_at_its_bound(
    hub: LiveHub, ann: FakeClient
) -> None:
    bob = hub.member(Role.view, "deaf")
    big = ann.submit(task("x" * 100_000, needs=("nowhere",)))
    asked = m.encode(bob.request(m.TaskGet(task=big)))
    deadline = time.monotonic() + 30
    while len(hub.broker.hub.sessions.of_principal(hub.broker.hub.principals.by_name["deaf"].id)):
        assert time.monotonic() < deadline, "the deaf caller keeps its session"
        for _ in range(100):
            bob.send_frames(asked)
        assert ann.ask(m.Whoami())["name"] == "admin"


# --- identity -------------------------------------------------------------------------------------------

TO_HUB: dict[str, Callable[[bytes], m.ToHub]] = {
    "bye": lambda t: m.Bye(session=t),
    "heartbeat": lambda t: m.Heartbeat(session=t, beat=1),
    "accept": lambda t: m.Accept(session=t, task=1, attempt=1),
    "decline": lambda t: m.Decline(session=t, task=1, attempt=1, code="no"),
    "log": lambda t: m.Log(session=t, task=1, attempt=1, offset=0, text="x"),
    "result": lambda t: m.Result(
        session=t, task=1, attempt=1, outcome="completed", result=factories.result()
    ),
    "endpoints": lambda t: m.Endpoints(session=t, sightings=(factories.sighting(),)),
    "worktrees": lambda t: m.Worktrees(session=t),
    "pong": lambda t: m.Pong(session=t, agent="busy-1"),
    "request": lambda t: m.Request(session=t, id=5, op=m.Submit(tasks=(task(),))),
}


def test_every_message_to_the_hub_stands_in_the_matrix() -> None:
    tags = {t.__struct_config__.tag for t in m.ToHub.__args__}
    assert tags == {*TO_HUB, "hello", "enrol"}


@pytest.fixture(scope="module")
def mallory(hub: LiveHub) -> FakeClient:
    """An enrolled key, that of a host even."""
    return hub.host("mallory", agents=0)


@pytest.mark.parametrize("kind", TO_HUB)
@pytest.mark.parametrize("token", ["of a host", "of an admin", "never given", "ended"])
def test_a_token_that_does_not_belong_to_the_key_is_refused_for_every_message(
    hub: LiveHub, ann: FakeClient, busy: Busy, mallory: FakeClient, kind: str, token: str
) -> None:
    before = ann.ask(m.Snapshot(tasks=0))
    own = mallory.token
    if token == "ended":
        mallory.process = f"process-{kind}"
        mallory.send(m.Bye(session=own))
        assert isinstance(mallory, FakeSidecar)
        mallory.hello()
    tokens = {"of a host": busy.box.token, "of an admin": ann.token, "never given": NO_TOKEN, "ended": own}
    mallory.send(TO_HUB[kind](tokens[token]))
    assert mallory.expect(m.Error).code == "no_session"
    assert mallory.is_silent()
    assert busy.goes_on()
    assert ann.is_silent()
    after = ann.ask(m.Snapshot(tasks=0))
    for shown in (before, after):
        shown["counts"].pop("retention")  # a host that leaves and comes is an event that is kept
    assert (after["counts"], after["endpoints"]) == (before["counts"], before["endpoints"])


@pytest.mark.parametrize("kind", [kind for kind in TO_HUB if kind not in ("bye", "request")])
@pytest.mark.parametrize("role", [Role.view, Role.submit, Role.operate, Role.admin])
def test_a_persons_key_says_nothing_of_what_a_host_says(
    hub: LiveHub, busy: Busy, persons: dict[Role, FakeClient], kind: str, role: Role
) -> None:
    person = persons[role]
    person.send(TO_HUB[kind](person.token))
    assert person.expect(m.Error).code == "forbidden"
    assert busy.goes_on()


@pytest.fixture(scope="module")
def persons(hub: LiveHub) -> dict[Role, FakeClient]:
    return {
        role: hub.member(role, f"person-{role}")
        for role in (Role.view, Role.submit, Role.operate, Role.admin)
    }


def test_a_person_cannot_say_hello_as_a_host_nor_a_host_as_a_person(hub: LiveHub, ann: FakeClient) -> None:
    impostor = hub.connect(hub.enrolled(Role.admin, "impostor"))
    impostor.send(m.Hello(protocol=1, process="process-1", host=factories.host_offer("busy")))
    assert impostor.expect(m.Error).code == "invalid"
    host = hub.connect(hub.enrolled(Role.host, "plain"))
    host.send(m.Hello(protocol=1, process="process-1"))
    assert host.expect(m.Error).code == "invalid"


def test_a_one_time_key_may_only_enrol(hub: LiveHub, ann: FakeClient) -> None:
    once = KeyPair.make()
    ann.ask(m.HostInvite(key=once.public))
    joining = hub.connect(once)
    joining.send(m.Hello(protocol=1, process="process-1"))
    assert joining.expect(m.Error).code == "not_enrolled"
    for make in TO_HUB.values():
        joining.send(make(ann.token))
        assert joining.expect(m.Error).code == "no_session"


def test_an_enrolled_key_may_not_enrol(ann: FakeClient, hub: LiveHub) -> None:
    for enrolled in (ann, hub.member(Role.operate, "cannot-enrol")):
        enrolled.send(m.Enrol(name="more", key=KeyPair.make().public))
        assert enrolled.expect(m.Error).code == "invite_unknown"


def test_a_key_that_nobody_enrolled_does_not_get_through_the_handshake(hub: LiveHub) -> None:
    stranger = hub.connect(KeyPair.make())
    with contextlib.suppress(zmq.Again):  # turned away before there was anything to send
        stranger.socket.send(m.encode(m.Hello(protocol=1, process="process-1")), zmq.DONTWAIT)
    stranger.await_event(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    assert stranger.socket.poll(0) == 0


def test_a_key_that_was_turned_away_before_it_said_anything_is_told_so(hub: LiveHub) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    stranger = Connection(context, hub.address.hub, hub.address.key, KeyPair.make())
    with contextlib.closing(stranger):
        while stranger._socket.poll(10, zmq.POLLOUT):  # its queue goes when the hub has turned it away
            continue
        with pytest.raises(Refused, match="agentcom join") as refused:
            stranger.send(b"")
    assert refused.value.code == "unknown_key"


def test_a_revoked_key_is_cut_off_for_every_message_and_does_not_come_back(
    hub: LiveHub, ann: FakeClient
) -> None:
    eve = hub.member(Role.operate, "eve")
    ann.ask(m.TokenRevoke(name="eve"))
    told = [eve.expect(m.Error)]
    spoken = [make(eve.token) for make in TO_HUB.values()]
    for message in (*spoken, m.Hello(protocol=1, process="process-1")):
        eve.send(message)
        told.append(eve.expect(m.Error))
    assert {one.code for one in told} == {"revoked"}
    assert {one.message.partition("; ")[2] for one in told} == {"join again with a new code: agentcom join CODE"}
    again = hub.connect(eve.pair)
    again.await_event(zmq.EVENT_HANDSHAKE_FAILED_AUTH)


def test_a_chosen_routing_id_is_an_address_and_no_identity(hub: LiveHub, ann: FakeClient, busy: Busy) -> None:
    """Also one that begins with a zero byte, as the ROUTER's own do, where libzmq lets a peer choose it."""
    for number, routing_id in enumerate((b"busy", b"admin", b"\xff" * 255, b"x")):
        pair = hub.enrolled(Role.view, f"chosen-{number}")
        bob = hub.connect(pair, routing_id)
        bob.hello()
        assert bob.ask(m.Whoami()) == {"name": f"chosen-{number}", "role": "view"}
    assert busy.goes_on()


def test_a_routing_id_that_is_taken_gets_nothing_of_its_owners(hub: LiveHub, ann: FakeClient) -> None:
    """The second connection under one id is not heard, and nothing is handed over to it."""
    owner = hub.host("owner", routing_id=b"the-same")
    thief = hub.connect(hub.enrolled(Role.host, "thief"), b"the-same")
    thief.send(m.Hello(protocol=1, process="process-1", host=factories.host_offer("thief")))
    ann.submit(shell_task(needs=("host:owner",)))
    assert owner.take().attempt == 1
    assert thief.socket.poll(200) == 0


def test_what_was_meant_for_a_departed_peer_does_not_reach_another_key_under_its_id(
    hub: LiveHub, ann: FakeClient
) -> None:
    gone = hub.host("gone", routing_id=b"left-behind")
    gone.close()
    spy = hub.connect(hub.enrolled(Role.view, "spy"))
    spy.close()
    heir = hub.connect(spy.pair, b"left-behind")
    heir.hello()
    number = ann.submit(shell_task(needs=("host:gone",)))
    assert heir.is_silent()
    assert ann.task(number)["state"] == "ready"


def test_no_answer_carries_a_routing_id(hub: LiveHub, ann: FakeClient) -> None:
    bob = hub.connect(hub.enrolled(Role.admin, "tells"), b"secret-routing-id")
    bob.hello()
    bob.send_frames(b"\xc1")
    answers = [bob.expect(m.Error), *(bob.ask(op) for op in (m.HubStatus(), m.Snapshot(), m.HostList()))]
    assert "secret-routing-id" not in repr(answers)
