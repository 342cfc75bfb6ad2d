"""What the views work with: one value per app, made by the server (or by a test)."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from flask import current_app

from agentcom import limits
from agentcom.config import HttpSettings
from agentcom_web.auth import OwnNames, People
from agentcom_web.feed import LiveView
from agentcom_web.hub_link import HubLink

KEY = "agentcom"
# What the streams leave of the threads also serves pages and /healthz: requests that wait for the hub may
# take most of it, never all.
FORWARDS_MAX = limits.WEB_THREADS - limits.SSE_STREAMS_MAX - 4


@dataclass
class Services:
    """`stopping` ends every stream; `streams` counts the open ones; `forwards` the requests at the hub."""

    link: HubLink
    view: LiveView
    people: People
    names: OwnNames
    http: HttpSettings
    stopping: threading.Event = field(default_factory=threading.Event)
    streams: Slots = field(default_factory=lambda: Slots(limits.SSE_STREAMS_MAX))
    forwards: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(FORWARDS_MAX)
    )


class Slots:
    """A counted number of places; taking one never waits."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            if self.taken >= self.most:
                return False
            self.taken += 1
            return True

    def give_back(self) -> None:
        with self._lock:
            assert self.taken > 0
            self.taken -= 1


def services() -> Services:
    """The services of the app that handles this request."""
    found = current_app.extensions[KEY]
    assert isinstance(found, Services)
    return found
