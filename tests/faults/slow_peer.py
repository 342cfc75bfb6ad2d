"""Peers that read slowly, or not at all: nothing that the hub has to tell is dropped on the way unnoticed.

`slow`: a caller has hundreds of large answers under way and reads them in bursts; every one must come, in order.
`stuck`: a caller asks and never reads, past every bound: its session ends, the hub's memory stays bounded, others
are served. `late_reader`: a host stops reading while work is sent to it; nothing of that work is lost.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import psutil
import zmq

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import load_key
from agentcom.client import Client
from tests.faults.history import History, check, seen_of
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.kill_loop import drain
from tests.faults.load import address_of
from tests.faults.report import Report
from tests.world import eventually, world

BODY_CHARS = 8000
# libzmq queues 1,000 and takes more only when half of them were read: so much is certain to find room, with
# PEER_OUTBOX_MAX in the hub beside it.
UNDER_WAY = 1500
BURST = 600
STUCK_ASKS = 6000
JUST_TOO_MUCH = 2100  # ends the session once, and nothing that is refused for it is left for the reader
GROWTH_MIB_MAX = 200
SILENT_S_MAX = 30.0

assert UNDER_WAY <= 500 + limits.PEER_OUTBOX_MAX
assert STUCK_ASKS > 2 * (1000 + limits.PEER_OUTBOX_MAX)


class Reader:
    """A caller whose socket keeps one message and whose kernel buffers are small."""

    def __init__(self, home: Path) -> None:
        address, own = address_of(home), load_key(home / "keys" / "admin.key")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvhwm = 1
        self.socket.sndhwm = 0
        self.socket.setsockopt(zmq.RCVBUF, 4096)
        self.socket.setsockopt_string(zmq.CURVE_SERVERKEY, address.key)
        self.socket.setsockopt_string(zmq.CURVE_PUBLICKEY, own.public)
        self.socket.setsockopt_string(zmq.CURVE_SECRETKEY, own.secret)
        self.socket.connect(address.hub)
        self.hello()

    def hello(self) -> None:
        self.socket.send(m.encode(m.Hello(protocol=limits.PROTOCOL_VERSION, process=secrets.token_hex(8))))
        while not isinstance(welcome := self.read(), m.Welcome):
            continue
        self._session = welcome.session

    def ask(self, number: int, op: m.Operation) -> None:
        self.socket.send(m.encode(m.Request(session=self._session, id=number, op=op)))

    def read(self) -> m.FromHub:
        assert self.socket.poll(round(SILENT_S_MAX * 1000)), f"nothing came for {SILENT_S_MAX:g} s"
        return m.decode_from_hub(self.socket.recv())

    def close(self) -> None:
        self.socket.close(0)
        self._context.term()


def slow(folder: Path, messages: int) -> Report:
    """`messages` answers of 8 kB, up to 1,500 of them under way at once, read in bursts."""
    report = Report("I12", f"a slow peer, {messages} messages of {BODY_CHARS} bytes")
    with world(folder) as made:
        made.hub()
        client = made.client()
        task = client.submit(description="x" * BODY_CHARS, command="true")["id"]
        reader = Reader(folder / "hub")
        asked = read = wrong = 0
        while read < messages:
            while asked < messages and asked - read < UNDER_WAY:
                asked += 1
                reader.ask(asked, m.TaskGet(task=task))
            _settle(client)
            for _ in range(min(BURST, asked - read)):
                answer = reader.read()
                read += 1
                if not isinstance(answer, m.Reply) or answer.id != read:
                    wrong += 1
                    report.violations.append(f"instead of answer {read} came {str(answer)[:200]}")
                    if wrong > 3:
                        break
            if wrong > 3:
                break
        if not wrong and reader.socket.poll(300):
            report.violations.append("more came than was asked for")
        reader.close()
    report.counts |= {"messages": read, "lost": wrong}
    return report


def _settle(client: Client) -> None:
    """The hub has done what was asked before this: another caller's request goes through its whole loop."""
    client.queue_stats()


def stuck(folder: Path, asks: int = STUCK_ASKS) -> Report:
    """A peer that never reads, past every bound; the others are served, and later so is it, once it was told that its
    session has ended, by a message of its own: with the last of `asks` the bound may just be passed."""
    report = Report("I12", f"a stuck peer, {asks} messages of {BODY_CHARS} bytes")
    with world(folder) as made:
        hub = made.hub()
        client = made.client()
        task = client.submit(description="x" * BODY_CHARS, command="true")["id"]
        process = psutil.Process(hub.pid)
        before = process.memory_info().rss
        reader = Reader(folder / "hub")
        most, worst_s = before, 0.0
        for number in range(1, asks + 1):
            reader.ask(number, m.TaskGet(task=task))
            if number % 200 == 0:
                begun = time.monotonic()
                client.task_get(task)
                worst_s = max(worst_s, time.monotonic() - begun)
                most = max(most, process.memory_info().rss)
        grown = (most - before) / limits.MIB
        if grown > GROWTH_MIB_MAX:
            report.violations.append(f"the hub grew by {grown:.0f} MiB, {GROWTH_MIB_MAX} are allowed")
        answers = errors = 0
        while not errors and reader.socket.poll(round(SILENT_S_MAX * 1000)):
            answer = m.decode_from_hub(reader.socket.recv())
            answers += isinstance(answer, m.Reply)
            errors += isinstance(answer, m.Error) and answer.code == "no_session"
        if not errors:
            report.violations.append("the peer was never told that its session had ended")
        reader.hello()
        reader.ask(1, m.TaskGet(task=task))
        if not isinstance(reader.read(), m.Reply):
            report.violations.append("a peer that reads again is not served")
        reader.close()
    report.counts |= {
        "asked": asks,
        "answered": answers,
        "told_no_session": errors,
        "grown_mib": round(grown, 1),
        "worst_answer_to_others_s": round(worst_s, 3),
    }
    return report


def late_reader(folder: Path) -> Report:
    """Hosts that stop reading while work is sent to them: it goes elsewhere, and what they read late is no harm."""
    report = Report("I12", "hosts that stop reading while work is sent to them")
    history = History()
    pairs = enrol_all(folder / "hub", ["sleepy-1", "sleepy-2", "awake"])
    with world(folder) as made:
        made.hub(AGENTCOM_QUEUE_ACCEPT_S="1")
        fleet = Fleet(address_of(folder / "hub"), pairs, agents=32)
        client = made.client()
        with fleet_of(fleet):
            eventually("all hosts are there", lambda: all(host.welcomes for host in fleet.hosts))
            fleet.freeze(fleet.hosts[:2])
            keys = [f"late-{n}" for n in range(1000)]
            history.invoke(keys, "late")
            tasks = client.submit_many({"description": k, "command": "true"} for k in keys)
            for key, task in zip(keys, tasks, strict=True):
                history.acknowledge(key, task["id"])
            drain(made, 60)
            fleet.freeze(fleet.hosts[:2], frozen=False)
            eventually("the late ones are back", lambda: all(h.session for h in fleet.hosts), 30)
            eventually("they have told all", lambda: not any(h.outbox for h in fleet.hosts), 30)
            eventually(
                "all agents are free again",
                lambda: all(a["state"] == "idle" for a in client.agent_list()["agents"]),
                30,
            )
            seen = seen_of(client)
        report.violations += check(history, seen, fleet.started)
        unaccepted = sum(list(task.outcomes.values()).count("unaccepted") for task in seen)
    report.counts |= {
        "tasks": len(seen),
        "sent_to_late_readers": unaccepted,
        "read_late": sum(count for name, count in fleet.counts.items() if name.startswith("results_"))
        - len(seen),
    }
    return report
