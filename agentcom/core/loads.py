"""Which models are being loaded now, as far as our own calls tell: servers do not.

A model that is on disk only is loading from the first call that is sent to it until the first byte of an answer, or
until a check finds it loaded. A poll cannot tell: while it loads the model is in no list.
"""

from __future__ import annotations

from agentcom.clock import Now, rfc3339
from agentcom.model import JsonObject

ModelPlace = tuple[int, str]  # endpoint, canonical model


class Load:
    """One load. `is_over`: seen to be loaded; the call that it was for has not ended yet. `is_preload`: it is for no
    call, but ahead of one; see preloads.py."""

    __slots__ = ("is_over", "is_preload", "since_wall_ms")

    def __init__(self, since_wall_ms: int, is_preload: bool) -> None:
        self.is_over = False
        self.is_preload = is_preload
        self.since_wall_ms = since_wall_ms


class Loads:
    """Loads by endpoint and model, while calls for them are in flight or they are made ahead of one."""

    def __init__(self) -> None:
        self._loads: dict[ModelPlace, Load] = {}

    def __bool__(self) -> bool:
        return bool(self._loads)

    def began(self, place: ModelPlace, now: Now, is_preload: bool = False) -> None:
        """A call was sent to a model that is cold, or it is loaded ahead of one."""
        self._loads.setdefault(place, Load(now.wall_ms, is_preload))

    def heard(self, place: ModelPlace) -> bool:
        """The model answers, or was seen loaded; True when it was loading."""
        load = self._loads.get(place)
        if load is None or load.is_over:
            return False
        load.is_over = True
        return True

    def ended(self, place: ModelPlace) -> None:
        """No call to the model is in flight any more."""
        load = self._loads.get(place)
        if load is not None and not load.is_preload:
            del self._loads[place]

    def drop(self, place: ModelPlace) -> None:
        """A load ahead of calls is over, in whatever way."""
        self._loads.pop(place, None)

    def answered(self, place: ModelPlace) -> bool:
        """A call to the model is complete; True for the one that the model was loaded for."""
        load = self._loads.get(place)
        if load is None or load.is_preload:
            return False
        del self._loads[place]
        return True

    def forget(self, endpoint: int) -> None:
        for place in [place for place in self._loads if place[0] == endpoint]:
            del self._loads[place]

    def adopt(self, old: Loads) -> None:
        self._loads = dict(old._loads)

    def is_loading(self, place: ModelPlace) -> bool:
        load = self._loads.get(place)
        return load is not None and not load.is_over

    def is_loading_anywhere(self, model: str) -> bool:
        return any(place[1] == model and not load.is_over for place, load in self._loads.items())

    def is_preloading(self, place: ModelPlace) -> bool:
        """Whether it has begun ahead of the calls, and is not over."""
        load = self._loads.get(place)
        return load is not None and load.is_preload and not load.is_over

    def is_any_on(self, endpoint: int) -> bool:
        """Whether any model is being loaded there: a server loads one after the other."""
        return any(place[0] == endpoint and not load.is_over for place, load in self._loads.items())

    def preloads(self) -> set[ModelPlace]:
        """Those that are made ahead of calls; for checks."""
        return {place for place, load in self._loads.items() if load.is_preload}

    def view(self, endpoint: int) -> list[JsonObject]:
        return [
            {"model": model, "since": rfc3339(load.since_wall_ms), "ahead": load.is_preload}
            for (number, model), load in sorted(self._loads.items())
            if number == endpoint and not load.is_over
        ]
