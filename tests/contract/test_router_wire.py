"""The hub's end of its ROUTER: compiled and by pyzmq it is the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import zmq

from agentcom import limits, wire
from agentcom.wire import PlainWire, Wire

Socket = zmq.Socket[bytes]
WAIT_MS = 5000


class Ends:
    """A ROUTER as the hub has it, without CURVE, and the dealers that connect to it."""

    def __init__(self) -> None:
        self.context: zmq.Context[Socket] = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.setsockopt(zmq.SNDHWM, 3)
        self.router.setsockopt(zmq.SNDBUF, 4096)
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")

    def dealer(self, name: bytes) -> Socket:
        made = self.context.socket(zmq.DEALER)
        made.setsockopt(zmq.IDENTITY, name)
        made.setsockopt(zmq.RCVHWM, 1)
        made.setsockopt(zmq.RCVBUF, 4096)
        made.connect(f"tcp://127.0.0.1:{self.port}")
        return made


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.context.destroy(linger=0)


@pytest.fixture(params=["compiled", "plain"])
def kind(request: pytest.FixtureRequest) -> Callable[[Socket], Wire]:
    if request.param == "plain":
        return PlainWire
    if wire.CompiledWire is None:
        assert os.environ.get("AGENTCOM_REQUIRE_COMPILED") != "1", "this machine must have built it"
        pytest.skip("not built here: there is no compiler")
    return wire.CompiledWire


def test_messages_arrive_with_their_address_one_by_one(ends: Ends, kind: Callable[[Socket], Wire]) -> None:
    end = kind(ends.router)
    assert (end.has_input(), end.receive()) == (False, None)
    ann = ends.dealer(b"ann")
    large = bytes(limits.REQUEST_BYTES_MAX + 1)
    for body in (b"first", b"", large):
        ann.send(body)
    found = []
    while len(found) < 3:
        assert end.has_input() or ends.router.poll(WAIT_MS)
        one = end.receive()
        if one is not None:
            found.append(one)
    assert found == [(b"ann", body, "", True) for body in (b"first", b"", large)]
    assert (end.has_input(), end.receive()) == (False, None)


def test_further_frames_are_dropped_and_told_of_and_the_next_message_is_whole(
    ends: Ends, kind: Callable[[Socket], Wire]
) -> None:
    end = kind(ends.router)
    ann = ends.dealer(b"ann")
    ann.send_multipart([b"one", b"two", b"three"])
    ann.send(b"next")
    assert ends.router.poll(WAIT_MS)
    found = [end.receive()]
    while len(found) < 2:
        assert ends.router.poll(WAIT_MS)
        found.append(end.receive())
    assert found == [(b"ann", b"one", "", False), (b"ann", b"next", "", True)]


def test_what_is_sent_arrives_and_nobody_is_no_peer(ends: Ends, kind: Callable[[Socket], Wire]) -> None:
    end = kind(ends.router)
    ann = ends.dealer(b"ann")
    ann.send(b"here")
    assert ends.router.poll(WAIT_MS)
    end.receive()
    assert (end.send(b"ann", b"hello"), end.send(b"ann", b""), end.send(b"nobody", b"hello")) == (True, True, None)
    assert [ann.recv() for _ in range(2) if ann.poll(WAIT_MS)] == [b"hello", b""]


def test_a_peer_that_does_not_read_is_told_apart_and_gets_all_that_was_taken(
    ends: Ends, kind: Callable[[Socket], Wire]
) -> None:
    end = kind(ends.router)
    ann = ends.dealer(b"ann")
    ann.send(b"here")
    assert ends.router.poll(WAIT_MS)
    end.receive()
    body, taken = bytes(100_000), 0
    while end.send(b"ann", body):
        taken += 1
        assert taken < 1000, "the peer's queue has a bound"
    assert taken > 0
    for _ in range(taken):
        assert ann.poll(WAIT_MS)
        assert ann.recv() == body


def test_after_its_end_it_is_of_no_use_and_the_socket_is_left_open(
    ends: Ends, kind: Callable[[Socket], Wire]
) -> None:
    end = kind(ends.router)
    end.close()
    for use in (end.has_input, end.receive, lambda: end.send(b"ann", b"")):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert not ends.router.closed
