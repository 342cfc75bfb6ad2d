"""What the hub does for a peer that does not read, on real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from agentcom import limits
from agentcom import messages as m
from agentcom.peers import Peers
from agentcom.wire import wire_of
from tests.world import eventually

LARGE = m.encode(m.Reply(id=1, value="x" * 8000))


@pytest.fixture
def sockets() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    dealer.rcvhwm = 1
    dealer.connect(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
    yield router, dealer
    router.close(0)
    dealer.close(0)
    context.term()


def met(router: zmq.Socket[bytes], dealer: zmq.Socket[bytes]) -> bytes:
    """The address of the dealer, which has said something."""
    dealer.send(b"here")
    address, _ = router.recv_multipart()
    return address


def read_through(peers: Peers, dealer: zmq.Socket[bytes], kind: type[m.FromHub], count: int = 1) -> list[m.FromHub]:
    """What the dealer reads: `count` messages at least, the last of that kind. The hub sends meanwhile what
    it has kept."""
    read: list[m.FromHub] = []

    def has_come() -> bool:
        peers.flush()
        while dealer.poll(0):
            read.append(m.decode_from_hub(dealer.recv()))
        return len(read) >= count and isinstance(read[-1], kind)

    eventually(f"the {kind.__name__} has come", has_come)
    return read


def send_too_much(peers: Peers, peer: int) -> int:
    """How many messages it took until the session ended."""
    sent = 0
    while peers.take_gone() != [peer]:
        peers.send(peer, LARGE)
        sent += 1
    return sent


def test_r17_the_message_that_is_too_much_is_the_last_and_the_peer_still_learns_that_its_session_has_ended(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    router, dealer = sockets
    peers = Peers(wire_of(router))
    sent = send_too_much(peers, peers.number(met(router, dealer), "a key"))
    assert sent > limits.PEER_OUTBOX_MAX
    assert not peers.waiting, "nothing is kept for it"

    read = read_through(peers, dealer, m.Error)
    assert isinstance(read[-1], m.Error)
    assert (read[-1].code, read[-1].id) == ("no_session", None)
    assert all(isinstance(one, m.Reply) for one in read[:-1])
    assert len(read) - 1 == sent - limits.PEER_OUTBOX_MAX - 1, "what was on its way; what was kept is dropped"


def test_r17_it_is_told_before_anything_that_is_meant_for_its_next_session(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    router, dealer = sockets
    peers = Peers(wire_of(router))
    address = met(router, dealer)
    first = peers.number(address, "a key")
    sent = send_too_much(peers, first)
    second = peers.number(address, "a key")
    assert second != first
    peers.send(second, m.encode(m.Reply(id=2, value="again")))
    assert peers.waiting
    read = read_through(peers, dealer, m.Reply, sent - limits.PEER_OUTBOX_MAX + 1)
    assert isinstance(read[-1], m.Reply)
    assert read[-1].id == 2
    assert isinstance(read[-2], m.Error)
    assert read[-2].code == "no_session"
    assert sum(isinstance(one, m.Error) for one in read) == 1


def test_whoever_comes_under_an_address_with_another_key_is_not_told_of_the_session_before(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    router, dealer = sockets
    peers = Peers(wire_of(router))
    address = met(router, dealer)
    sent = send_too_much(peers, peers.number(address, "a key"))
    peers.send(peers.number(address, "another key"), m.encode(m.Reply(id=2, value="welcome")))
    read = read_through(peers, dealer, m.Reply, sent - limits.PEER_OUTBOX_MAX)
    assert all(isinstance(one, m.Reply) for one in read)


def test_a_peer_that_has_left_is_not_waited_for(
    sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    router, dealer = sockets
    wire = wire_of(router)
    peers = Peers(wire)
    send_too_much(peers, peers.number(met(router, dealer), "a key"))
    dealer.close(0)

    def forgotten() -> bool:
        wire.receive()  # as the hub does all the time: a ROUTER sees the end of a connection as it reads
        peers.flush()
        return not peers._to_be_told

    eventually("it is gone", forgotten)
