"""One health check of an Ollama server: is it there, which models does it have, which are loaded.

Liveness is `/api/version`, which waits for nothing. `/api/ps` waits while a model loads: then what is warm is unknown,
not the server ill. What a model can do stands in `/api/tags`, or is asked of `/api/show` once per digest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx2

from agentcom import limits
from agentcom.model import EndpointModel, EndpointProbe
from agentcom.probe_http import (
    VERSION_BYTES_MAX,
    Server,
    Unusable,
    count_of,
    entries_of,
    named,
    object_of,
    text_of,
    words_of,
)

WARM_S_MAX = 2.0
SHOWS_MAX = 4  # of one check: the rest are asked for by the next


class Card(NamedTuple):
    """What `/api/show` says of the model of one digest: it never changes."""

    capabilities: tuple[str, ...]
    context_max: int


class Cards:
    """Cards by digest, of all servers; the one that was kept longest goes at the bound."""

    def __init__(self) -> None:
        self._cards: dict[str, Card] = {}

    def get(self, digest: str) -> Card | None:
        return self._cards.get(digest) if digest else None

    def keep(self, digest: str, card: Card) -> None:
        if len(self._cards) >= limits.MODEL_CARDS_MAX:
            del self._cards[next(iter(self._cards))]
        self._cards[digest] = card


async def probe_ollama(server: Server, timeout_s: float, cards: Cards) -> EndpointProbe:
    """What the server is and has now. Raises what its answers raise; the caller bounds the time."""
    version = await _version(server)
    try:
        models, is_warm_known, fault = await _models(server, min(WARM_S_MAX, timeout_s / 2))
    except Unusable as error:
        fault = str(error)[: limits.REASON_CHARS_MAX]
        return EndpointProbe(healthy=True, version=version, flavour="ollama", list_fault=fault)
    models = await _with_cards(server, models, cards)
    return EndpointProbe(
        healthy=True,
        version=version,
        models=models,
        warm_known=is_warm_known,
        flavour="ollama",
        list_fault=fault,
    )


async def _version(server: Server) -> str:
    answer = await server.get_object("/api/version", VERSION_BYTES_MAX)
    version = text_of(answer, "version", 100)
    if not version:
        raise Unusable("/api/version names no version: this is not an Ollama server")
    return version


async def _models(server: Server, warm_s: float) -> tuple[tuple[EndpointModel, ...], bool, str]:
    """(the models on disk, whether what is warm is known, what is wrong with the list). Unusable for a list that cannot
    be read."""
    tags = entries_of("/api/tags", await server.get_object("/api/tags"), "models")
    loaded: dict[str, Mapping[str, Any]] | None
    try:
        async with asyncio.timeout(warm_s):
            entries = entries_of("/api/ps", await server.get_object("/api/ps"), "models")
            loaded = {text_of(each, "name"): each for each in entries}
    except (TimeoutError, Unusable, httpx2.HTTPError):
        loaded = None
    models = [_model(each, (loaded or {}).get(text_of(each, "name"))) for each in tags]
    kept, fault = named(models)
    return kept, loaded is not None, fault


def _model(entry: Mapping[str, Any], loaded: Mapping[str, Any] | None) -> EndpointModel | None:
    """One model, value by value: a wrong one costs that value only. None for an entry without a name."""
    name = text_of(entry, "name", 401)
    if not name or len(name) > 400:
        return None
    details = object_of(entry, "details")
    on_disk = count_of(details, "context_length")
    return EndpointModel(
        name=name,
        digest=text_of(entry, "digest", 100),
        size_bytes=count_of(entry, "size"),
        warm=loaded is not None,
        vram_bytes=count_of(loaded, "size_vram") if loaded else 0,
        loaded_bytes=count_of(loaded, "size") if loaded else 0,
        context_length=(count_of(loaded, "context_length") if loaded else 0) or on_disk,
        context_max=on_disk,
        remote=bool(text_of(entry, "remote_host")),
        parameter_size=text_of(details, "parameter_size", 40),
        quantization=text_of(details, "quantization_level", 40),
        capabilities=words_of(entry, "capabilities"),
    )


async def _with_cards(
    server: Server, models: tuple[EndpointModel, ...], cards: Cards
) -> tuple[EndpointModel, ...]:
    """Older servers say in `/api/show` only what a model can do: a few are asked in each check."""
    asked = 0
    found = []
    for model in models:
        card = cards.get(model.digest)
        if card is None and model.digest and not model.capabilities and asked < SHOWS_MAX:
            asked += 1
            card = await _card(server, model.name)
            if card is not None:
                cards.keep(model.digest, card)
        found.append(_carded(model, card))
    return tuple(found)


async def _card(server: Server, name: str) -> Card | None:
    try:
        shown = await server.post_object("/api/show", {"model": name})
    except (Unusable, httpx2.HTTPError):
        return None
    info = object_of(shown, "model_info")
    family = text_of(info, "general.architecture", 80)
    return Card(words_of(shown, "capabilities"), count_of(info, f"{family}.context_length"))


def _carded(model: EndpointModel, card: Card | None) -> EndpointModel:
    if card is None:
        return model
    fields = {name: getattr(model, name) for name in model.__struct_fields__}
    fields["capabilities"] = model.capabilities or card.capabilities
    fields["context_max"] = model.context_max or card.context_max
    fields["context_length"] = model.context_length or card.context_max
    return EndpointModel(**fields)


async def generate_ollama(server: Server, model: str, num_ctx: int) -> None:
    """One token of the model, or an exception. With the context length that its tasks get: another would make the
    server unload and load it again."""
    options = {"num_ctx": num_ctx, "num_predict": 1}
    sent = {"model": model, "prompt": "Hi", "stream": False, "options": options}
    answer = await server.post_object("/api/generate", sent)
    if answer.get("done") is not True:
        raise Unusable("/api/generate did not finish its answer")


async def load_ollama(server: Server, model: str, num_ctx: int, keep_s: int) -> None:
    """Load the model, or an exception: an empty prompt makes the server do that and no more. With the context length
    that tasks ask for, so that theirs finds it warm; the next call says anew how long it is kept."""
    sent = {"model": model, "stream": False, "keep_alive": keep_s, "options": {"num_ctx": num_ctx}}
    answer = await server.post_object("/api/generate", sent)
    if answer.get("done") is not True:
        raise Unusable("/api/generate did not load the model")
