"""Callers under load: threads that submit batches over the wire and write down what they were promised.

An answer that does not come within half a second leaves the submit `unknown`; half of those are repeated later under
the same keys, which must give the same tasks.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair, load_key, read_hub_address
from agentcom.config import Home
from agentcom.model import Lane, TaskSpec
from tests.faults.history import History

ANSWER_S_MAX = 0.5
BATCH_MAX = 8
AGAIN_S = 0.02  # before a caller that may not go asks again


def address_of(home: Path) -> HubAddress:
    address = read_hub_address(Home(home))
    assert address is not None, f"{home} has no hub"
    return address


class Wire:
    """A session of a person's key on a bare DEALER: asks once, never repeats by itself."""

    def __init__(self, address: HubAddress, pair: KeyPair) -> None:
        self._address, self._pair = address, pair
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._session = b""
        self._request = 0

    def ask(self, op: m.Operation, answer_s: float = ANSWER_S_MAX) -> m.Reply | m.Error | None:
        """The answer, or None when none came: then whether it was done is unknown."""
        if self._socket is None and not self._greet(answer_s):
            return m.Error(code="no_hub", message="not sent")
        self._request += 1
        answer = self._exchange(m.Request(session=self._session, id=self._request, op=op), answer_s)
        if answer is None or (isinstance(answer, m.Error) and answer.code == "no_session"):
            self._drop()
        assert answer is None or isinstance(answer, m.Reply | m.Error), answer
        return answer

    def close(self) -> None:
        self._drop()
        self._context.term()

    def _greet(self, answer_s: float) -> bool:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, self._address.key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, self._pair.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._pair.secret)
        socket.connect(self._address.hub)
        self._socket = socket
        answer = self._exchange(
            m.Hello(protocol=limits.PROTOCOL_VERSION, process=secrets.token_hex(8)), answer_s
        )
        if isinstance(answer, m.Welcome):
            self._session = answer.session
            return True
        self._drop()
        return False

    def _exchange(self, message: m.ToHub, answer_s: float) -> m.FromHub | None:
        assert self._socket is not None
        self._socket.send(m.encode(message))
        until = time.monotonic() + answer_s
        while self._socket.poll(max(0, round((until - time.monotonic()) * 1000))):
            answer = m.decode_from_hub(self._socket.recv())
            if not isinstance(answer, m.Reply | m.Error) or answer.id in (None, self._request):
                return answer
        return None

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
        self._socket = None


class Caller(threading.Thread):
    """Submits until it is told to stop, while `may_go`. `spec_of(key)` makes the task of a key, which is its
    description."""

    def __init__(
        self,
        home: Path,
        history: History,
        name: str,
        seed: int,
        spec_of: Callable[[str, random.Random], TaskSpec],
        *,
        pause_s: float = 0.02,
        may_go: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(daemon=True, name=name)
        self._wire = Wire(address_of(home), load_key(home / "keys" / "admin.key"))
        self._history, self._spec_of, self._pause_s = history, spec_of, pause_s
        self._may_go = may_go
        self._random = random.Random(f"{seed}-{name}")
        self._over = threading.Event()
        self._again: list[tuple[str, tuple[TaskSpec, ...]]] = []
        self.batches = 0
        self.repeats = 0
        self.broken: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._over.wait(self._pause_s if self._may_go() else AGAIN_S):
                if self._may_go():
                    self._once()
        except BaseException as error:
            self.broken = error
        finally:
            self._wire.close()

    def stop(self) -> None:
        self._over.set()
        self.join(10)
        if self.broken is not None:
            raise self.broken

    def _once(self) -> None:
        if self._again and self._random.random() < 0.5:
            batch, specs = self._again.pop(0)
            self.repeats += 1
        else:
            self.batches += 1
            batch = f"{self.name}-{self.batches}"
            keys = [f"{batch}-{n}" for n in range(self._random.randint(1, BATCH_MAX))]
            specs = tuple(self._spec_of(key, self._random) for key in keys)
        keys = [spec.description for spec in specs]
        self._history.invoke(keys, batch)
        answer = self._wire.ask(m.Submit(tasks=specs))
        if isinstance(answer, m.Reply):
            for key, task in zip(keys, answer.value["tasks"], strict=True):
                self._history.acknowledge(key, task["id"])
        elif isinstance(answer, m.Error) and answer.code in ("no_hub", "no_session"):
            self._again.append((batch, specs))  # not carried out, and will be
        elif isinstance(answer, m.Error):
            self._history.refuse(keys)
        elif self._random.random() < 0.5:
            self._again.append((batch, specs))


def spec_of(key: str, needs: str, chance: random.Random, command: str = "true") -> TaskSpec:
    return TaskSpec(
        description=key,
        lane=chance.choice(list(Lane)),
        needs=(needs,),
        command=command,
        idempotency_key=key,
    )
