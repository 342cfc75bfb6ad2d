"""The Python client against a hub on a real socket that answers by a script."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import HubAddress, JoinCode, KeyPair, address_fault, load_or_make_key, write_hub_address
from agentcom.client import Client
from agentcom.config import Home
from agentcom.errors import ConfigError, HubUnreachable, NotFound, Refused
from agentcom.model import Role
from tests.fake_hub_requests import FakeHub, task


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    tmp_path.chmod(0o700)
    fake = FakeHub(tmp_path).start()
    yield fake
    fake.stop()


@pytest.fixture
def client(hub: FakeHub) -> Iterator[Client]:
    with Client.connect(hub.home) as connected:
        yield connected


def accepted(op: m.Submit) -> dict:
    return {
        "tasks": [
            {"id": n, "state": "ready", "tier": "standard", "created": True}
            for n, _ in enumerate(op.tasks, 1)
        ]
    }


def test_a_submit_arrives_as_it_was_given(hub: FakeHub, client: Client) -> None:
    hub.answers["submit"] = accepted
    answer = client.submit(description="fix it", lane="high", files=[{"path": "a.py", "reason": "the bug"}])
    (sent,) = hub.asked_of(m.Submit)
    assert answer == {"id": 1, "state": "ready", "tier": "standard", "created": True}
    assert sent.tasks[0].description == "fix it"
    assert (sent.tasks[0].files[0].path, sent.tasks[0].files[0].reason) == ("a.py", "the bug")


def test_each_task_of_a_batch_gets_a_key_of_its_own_and_keeps_one_it_has(
    hub: FakeHub, client: Client
) -> None:
    hub.answers["submit"] = accepted
    client.submit_many(
        [{"description": "a"}, {"description": "b"}, {"description": "c", "idempotency_key": "mine"}]
    )
    keys = [spec.idempotency_key for spec in hub.asked_of(m.Submit)[0].tasks]
    assert keys[2] == "mine"
    assert len(set(keys)) == 3
    assert None not in keys


def test_a_submit_whose_reply_was_lost_is_repeated_with_the_same_key(hub: FakeHub, client: Client) -> None:
    hub.answers["submit"] = accepted
    hub.ignore = 1
    asking = threading.Thread(target=client.submit, kwargs={"description": "once"})
    asking.start()
    until = time.monotonic() + 10
    while not hub.asked_of(m.Submit) and time.monotonic() < until:
        time.sleep(0.01)
    hub.restart()
    asking.join(20)
    first, second = hub.asked_of(m.Submit)
    assert first == second
    assert first.tasks[0].idempotency_key


def test_a_retry_whose_reply_was_lost_is_not_repeated(hub: FakeHub, client: Client) -> None:
    hub.ignore = 1
    raised: list[Exception] = []

    def ask() -> None:
        try:
            client.task_retry(3)
        except HubUnreachable as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    until = time.monotonic() + 10
    while not hub.asked and time.monotonic() < until:
        time.sleep(0.01)
    hub.restart()
    asking.join(20)
    assert len(hub.asked_of(m.TaskRetry)) == 1
    assert "not known" in str(raised[0])


def test_a_hub_that_forgot_the_session_is_greeted_again(hub: FakeHub, client: Client) -> None:
    hub.answers["task_retry"] = task(3, state="ready")
    hub.sessions.clear()
    assert client.task_retry(3)["state"] == "ready"
    assert len(hub.hellos) == 2
    assert hub.hellos[0].process == hub.hellos[1].process


def test_a_session_that_ends_in_the_place_of_an_answer_leaves_open_what_became_of_the_request(
    hub: FakeHub, client: Client
) -> None:
    hub.answers["task_get"] = task(3, state="ready")
    hub.ends = 2
    with pytest.raises(HubUnreachable, match="whether this was done is not known"):
        client.task_retry(3)
    assert len(hub.asked_of(m.TaskRetry)) == 1
    assert client.task_get(3)["state"] == "ready"  # asks again: nothing depends on how often
    assert len(hub.asked_of(m.TaskGet)) == 2


def test_a_hub_that_came_back_on_another_port_is_found(hub: FakeHub, client: Client) -> None:
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    client.whoami()
    before = hub.address
    hub.restart()
    assert hub.address != before
    assert client.whoami() == {"name": "admin", "role": "admin"}


def test_a_wait_goes_on_until_the_task_is_final(hub: FakeHub, client: Client) -> None:
    states = iter(["ready", "working", "completed"])
    hub.answers["task_wait"] = lambda op: task(op.task, state=next(states))
    seen: list[str] = []
    assert client.wait(7, on_change=lambda found: seen.append(found["state"]))["state"] == "completed"
    assert seen == ["ready", "working", "completed"]


def test_a_wait_outlasts_a_hub_that_restarts(hub: FakeHub, client: Client) -> None:
    hub.ignore = 1
    found: list[dict] = []
    waiting = threading.Thread(target=lambda: found.append(client.wait(7)))
    waiting.start()
    until = time.monotonic() + 10
    while not hub.asked and time.monotonic() < until:
        time.sleep(0.01)
    hub.stop()
    hub.answers["task_wait"] = task(7)
    hub.start()
    waiting.join(30)
    assert found[0]["state"] == "completed"


def test_a_wait_with_an_end_gives_the_task_as_it_is(hub: FakeHub, client: Client) -> None:
    hub.answers["task_wait"] = task(7, state="working")
    assert client.wait(7, timeout_s=0)["state"] == "working"


def piece(attempt: int, text: str, offset: int, complete: bool = False) -> dict:
    return {
        "task": 7, "attempt": attempt, "offset": offset, "next_offset": offset + len(text), "text": text,
        "complete": complete, "lost_bytes": 0,
    }  # fmt: skip


def test_a_followed_log_goes_over_to_the_next_attempt_and_ends_with_the_task(
    hub: FakeHub, client: Client
) -> None:
    pieces = iter([piece(1, "one", 0), piece(2, "", 3), piece(2, "two", 0), piece(2, "", 3, True)])
    hub.answers["task_log"] = lambda op: next(pieces)
    hub.answers["task_get"] = task(7)
    assert [found["text"] for found in client.log(7, follow=True)] == ["one", "two"]
    assert [op.offset for op in hub.asked_of(m.TaskLog)] == [0, 3, 0, 3]


def test_a_log_that_is_not_followed_ends_where_it_ends_now(hub: FakeHub, client: Client) -> None:
    pieces = iter([piece(1, "one", 0), piece(1, "", 3)])
    hub.answers["task_log"] = lambda op: next(pieces)
    assert [found["text"] for found in client.log(7)] == ["one"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"description": "x", "lane": "fast"}, "lane"),
        ({"description": "x", "tier": "huge"}, "tier"),
        ({"description": "x", "max_retries": -1}, "max_retries"),
        ({"description": "x", "checks": [{"kind": "No kind"}]}, "checks[0].kind"),
        ({"description": "x", "prioritty": 1}, "prioritty"),
        ({"lane": "high"}, "description"),
        ({"description": "x" * 1_000_000}, "description"),
    ],
)
def test_a_bad_field_is_refused_by_name_before_anything_is_sent(
    hub: FakeHub, client: Client, fields: dict, field: str
) -> None:
    with pytest.raises(Refused) as refused:
        client.submit(**fields)
    assert (refused.value.code, refused.value.field) == ("invalid", field)
    assert field in str(refused.value)
    assert hub.asked == []


def test_a_bad_task_of_a_batch_is_named_by_its_place(hub: FakeHub, client: Client) -> None:
    with pytest.raises(Refused) as refused:
        client.submit_many([{"description": "x"}, {"description": "x", "lane": "fast"}])
    assert refused.value.field == "tasks[1].lane"
    assert hub.asked == []


def test_a_request_above_the_limit_is_refused_before_anything_is_sent(hub: FakeHub, client: Client) -> None:
    with pytest.raises(Refused, match=str(limits.REQUEST_BYTES_MAX)) as refused:
        client.submit_many([{"description": "x" * 100_000}] * 3)
    assert refused.value.code == "too_large"
    assert hub.asked == []


def test_a_batch_of_more_than_a_thousand_is_refused(client: Client) -> None:
    with pytest.raises(Refused, match="1001"):
        client.submit_many([{"description": "x"}] * 1001)


def test_refusals_keep_code_field_and_time(hub: FakeHub, client: Client) -> None:
    hub.answers["task_hold"] = Refused("storage_full", "no room", field="task", retry_after_s=2.5)
    with pytest.raises(Refused) as refused:
        client.task_hold(3)
    error = refused.value
    assert (error.code, error.message, error.field, error.retry_after_s) == (
        "storage_full",
        "no room",
        "task",
        2.5,
    )


def test_what_is_not_there_is_a_not_found(hub: FakeHub, client: Client) -> None:
    hub.answers["task_get"] = NotFound("there is no task 99")
    with pytest.raises(NotFound, match="99"):
        client.task_get(99)


def test_a_hub_that_is_not_there_is_unreachable_within_the_time(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    home = Home(tmp_path).prepare()
    load_or_make_key(home.keys / "admin.key")
    write_hub_address(home.run / "hub.json", HubAddress("tcp://127.0.0.1:9", KeyPair.make().public))
    with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1:9.*agentcom up"):
        Client.connect(home, timeout_s=0.3)


def test_a_hub_with_another_key_than_the_known_one_is_not_spoken_to(hub: FakeHub) -> None:
    write_hub_address(hub.home.run / "hub.json", HubAddress(hub.address, KeyPair.make().public))
    with pytest.raises(HubUnreachable):
        Client.connect(hub.home, timeout_s=1)
    assert hub.hellos == []


def test_a_key_that_the_hub_does_not_let_in_is_refused_with_the_remedy(hub: FakeHub) -> None:
    hub.refused_keys.add(load_or_make_key(hub.home.keys / "admin.key").public)
    with pytest.raises(Refused, match="agentcom join") as refused:
        Client.connect(hub.home)
    assert refused.value.code == "unknown_key"


def test_a_home_without_a_hub_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match="agentcom up"):
        Client.connect(Home(tmp_path / "none"))


def test_the_hosts_key_is_never_used(hub: FakeHub) -> None:
    (hub.home.keys / "admin.key").rename(hub.home.keys / "host.key")
    with pytest.raises(ConfigError, match="--role submit"):
        Client.connect(hub.home)
    assert hub.hellos == []


def test_a_home_that_joined_uses_its_user_key(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Home(tmp_path_factory.mktemp("joined")).prepare()
    load_or_make_key(other.keys / "user.key")
    write_hub_address(other.keys / "hub.json", HubAddress(hub.address, hub.pair.public))
    with Client.connect(other) as client:
        assert client.welcome is not None
        assert client.welcome.name == "someone"


def test_the_address_given_wins_over_the_file(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hub_address(hub.home.run / "hub.json", HubAddress("tcp://127.0.0.1:9", hub.pair.public))
    monkeypatch.setenv("AGENTCOM_HUB", hub.address)
    Client.connect(hub.home, timeout_s=5).close()
    assert len(hub.hellos) == 1


MALFORMED = {
    "foo": "it does not begin with tcp://",
    "http://x:1": "it does not begin with tcp://",
    "x:7420": "it does not begin with tcp://",
    "tcp://": "it has no host",
    "tcp://:7420": "it has no host",
    "tcp://host": "it has no port",
    "tcp://host:": "it has no port",
    "tcp://[::1]": "it has no port",
    "tcp://a b:7420": "'a b' is no host",
    "tcp://*:7420": "'*' is no host",
    "tcp://user@host:74": "'user@host' is no host",
    "tcp://-:7420": "'-' is no host",
    "tcp://\u00e9:7420": "'\u00e9' is no host",
    "tcp://a\x01:7420": r"'a\x01' is no host",
    "tcp://h;eth0:74": "'h;eth0' is no host",
    "tcp://::1:74": "'::1' is no host",
    "tcp://[::1:74": "'[::1' is no host",
    "tcp://[::g]:74": "'[::g]' is no host",
    "tcp://[1.2.3.4]:74": "'[1.2.3.4]' is no host",
    "tcp://[]:74": "'[]' is no host",
    "tcp://host\n": r"'host\n' is no host",
    "tcp://host:0": "'0' is no port, which is a number from 1 to 65535",
    "tcp://host:7420/": "'7420/' is no port, which is a number from 1 to 65535",
}


@pytest.mark.parametrize(("address", "why"), MALFORMED.items(), ids=MALFORMED)
@pytest.mark.parametrize("is_known", [True, False])
def test_an_address_that_is_none_is_refused_with_where_it_was_given_and_what_is_wrong_with_it(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, why: str, is_known: bool
) -> None:
    home = hub.home if is_known else Home(tmp_path / "none")
    said = f"{address!r} is not the address of a hub, which has the form tcp://HOST:PORT: {why}"
    with pytest.raises(ConfigError) as given:
        Client.connect(home, hub=address)
    assert given.value.message == said
    monkeypatch.setenv("AGENTCOM_HUB", address)
    with pytest.raises(ConfigError) as found:
        Client.connect(home)
    assert found.value.message == f"AGENTCOM_HUB: {said}; set it to one, or unset it"
    assert hub.hellos == []


@pytest.mark.parametrize(
    "host",
    ["localhost", "10.0.0.7", "gpu-1.lan", "my_hub", "1hub", "hub.", "[::1]", "[fe80::1%eth0]", "[::ffff:10.0.0.7]"],
)
def test_a_name_and_an_address_of_either_kind_are_hosts(host: str) -> None:
    assert address_fault(f"tcp://{host}:7420") == ""


def test_an_invitation_never_sends_its_secret(hub: FakeHub, client: Client) -> None:
    hub.answers["host_invite"] = {
        "address": hub.address, "hub_key": hub.pair.public, "expires": "", "loopback_only": True, "note": "",
    }  # fmt: skip
    code, _ = client.host_invite(role="submit", name="laptop")
    (sent,) = hub.asked_of(m.HostInvite)
    assert sent.key == KeyPair.of_secret(code.secret).public
    assert (sent.role, sent.name, code.role) == (Role.submit, "laptop", Role.submit)


def test_enrolling_registers_both_public_keys(hub: FakeHub) -> None:
    code = JoinCode(hub.address, hub.pair.public, KeyPair.make().secret, Role.host)
    own = KeyPair.make()
    answer = Client.enrol(code, "box", own.public, "ab" * 32)
    assert (answer.name, answer.role) == ("box", Role.host)
    assert hub.enrolled == [m.Enrol(name="box", key=own.public, signing_key="ab" * 32)]


def test_closing_says_goodbye_and_leaves_no_thread_behind(hub: FakeHub) -> None:
    process = psutil.Process()
    Client.connect(hub.home).close()
    before = process.num_threads(), process.num_fds()
    for _ in range(5):
        Client.connect(hub.home).close()
    until = time.monotonic() + 5
    # The hub of this test is in the same process: its thread closes its end of the last connection a moment later.
    while (process.num_threads(), process.num_fds()) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert (process.num_threads(), process.num_fds()) <= before
    while hub.byes < 6 and time.monotonic() < until:
        time.sleep(0.01)
    assert hub.byes == 6


def test_threads_can_share_a_client(hub: FakeHub, client: Client) -> None:
    hub.answers["task_get"] = lambda op: task(op.task)
    wrong: list[int] = []

    def ask(start: int) -> None:
        wrong.extend(n for n in range(start, start + 50) if client.task_get(n)["id"] != n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in (1, 101, 201, 301)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert len(hub.asked) == 200
