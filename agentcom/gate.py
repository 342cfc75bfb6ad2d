"""The gate of the hub's sockets: ZAP asks which CURVE keys may connect; the loop swaps the sets.

The domains are exact names: a handler for "*" refuses everyone on a socket with a named domain. Taking a key
out of a set stops new handshakes only, so revoking also ends sessions and rebinds the feed.
"""

from __future__ import annotations

import zmq
from zmq.auth.thread import ThreadAuthenticator

HUB_DOMAIN = "hub"
FEED_DOMAIN = "feed"


class _Admitted:
    """What pyzmq calls a credentials provider: read by the ZAP thread, replaced whole by the loop."""

    def __init__(self) -> None:
        self.keys: frozenset[bytes] = frozenset()

    def callback(self, _domain: str, key: bytes) -> bool:
        return key in self.keys


class Gate:
    """One ZAP handler for both domains of a context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._hub, self._feed = _Admitted(), _Admitted()
        self._handler = ThreadAuthenticator(context)
        self._handler.start()
        self._handler.configure_curve_callback(domain=HUB_DOMAIN, credentials_provider=self._hub)
        self._handler.configure_curve_callback(domain=FEED_DOMAIN, credentials_provider=self._feed)

    def admit(self, hub: frozenset[str], feed: frozenset[str]) -> None:
        """Replace both sets; z85 text."""
        self._hub.keys = frozenset(key.encode() for key in hub)
        self._feed.keys = frozenset(key.encode() for key in feed)

    def admits(self, key: str) -> bool:
        return key.encode() in self._hub.keys

    def stop(self) -> None:
        self._handler.stop()
