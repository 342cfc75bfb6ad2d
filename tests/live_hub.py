"""A real hub for contract tests: the broker with its sockets, store and core, in a thread of the test's process.

    with live_hub(tmp_path) as hub:
        ann = hub.member(Role.submit, "ann")
        box = hub.host("box", agents=2)

Its home, ports and keys are its own. An exception in the loop is raised when the test ends.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair
from agentcom.broker import Broker
from agentcom.clock import SystemClock
from agentcom.config import Home, HubSettings, Settings
from agentcom.model import Role
from agentcom.store.check import full_check_here
from agentcom.store.start import StorePaths, open_store
from agentcom.upkeep import Upkeep
from tests import factories
from tests.fake_client import FakeClient
from tests.fake_sidecar import FakeSidecar

STOP_S = 10.0
MAP_BYTES = 1 << 28


class LiveHub:
    """One hub over its starts on one home, and everybody who is connected to it."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.home = Home(folder / "hub").prepare()
        self.settings = msgspec.structs.replace(
            settings or factories.settings(), hub=HubSettings(port=0, feed_port=0)
        )
        self._error: BaseException | None = None
        self._callers: list[FakeClient] = []
        self.start()

    # --- its life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        paths = StorePaths.of_home(self.home.path)
        self.opened = open_store(paths, map_bytes=MAP_BYTES, checker=full_check_here)
        self.broker = Broker(
            self.home, self.settings, self.opened.journaled, SystemClock(), upkeep=Upkeep(self.opened, self.settings)
        )
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loop in order; raises what ended it before."""
        self.broker.stop()
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the hub does not stop"
        self.broker.close()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        for caller in self._callers:
            caller.close()
        self.stop()

    def _run(self) -> None:
        try:
            self.broker.run()
        except BaseException as error:  # carried over to the thread that the test runs in
            self._error = error

    # --- callers ----------------------------------------------------------------------------------------

    @property
    def address(self) -> HubAddress:
        return self.broker.address

    def connect(self, pair: KeyPair, routing_id: bytes | None = None) -> FakeClient:
        """A connection that has not said anything yet."""
        caller = FakeClient(self.address, pair, routing_id=routing_id)
        self._callers.append(caller)
        return caller

    def person(self, pair: KeyPair) -> FakeClient:
        caller = self.connect(pair)
        caller.hello()
        return caller

    def admin(self) -> FakeClient:
        return self.person(self.broker.keys.admin)

    def web(self) -> FakeClient:
        return self.person(self.broker.keys.web)

    def enrolled(self, role: Role, name: str) -> KeyPair:
        """A new key of that role, by invitation."""
        once, pair = KeyPair.make(), KeyPair.make()
        self.admin().ask(m.HostInvite(key=once.public, role=role, name=name))
        joining = self.connect(once)
        joining.send(m.Enrol(name=name, key=pair.public))
        joining.expect(m.Enrolled)
        return pair

    def member(self, role: Role, name: str = "") -> FakeClient:
        return self.person(self.enrolled(role, name or role.value))

    def sidecar(self, pair: KeyPair, offer: m.HostOffer, routing_id: bytes | None = None) -> FakeSidecar:
        """A connection of a host that has not said anything yet."""
        sidecar = FakeSidecar(self.address, pair, offer, routing_id=routing_id)
        self._callers.append(sidecar)
        return sidecar

    def host(self, name: str = "box", agents: int = 1, routing_id: bytes | None = None) -> FakeSidecar:
        offer = factories.host_offer(name, agents)
        sidecar = self.sidecar(self.enrolled(Role.host, name), offer, routing_id)
        sidecar.hello()
        return sidecar


@contextlib.contextmanager
def live_hub(folder: Path, settings: Settings | None = None) -> Iterator[LiveHub]:
    hub = LiveHub(folder, settings)
    try:
        yield hub
    finally:
        hub.close()
