"""LLM servers as checks find them and as the registry keeps them: a part of model.py, from where they are used."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from agentcom import limits
from agentcom.fields import Count, Reason, Term, Url, Word


class EndpointModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model on an endpoint: `warm` means loaded now. Sizes in bytes."""

    name: Annotated[str, Meta(min_length=1, max_length=400)]
    digest: Annotated[str, Meta(max_length=100)] = ""
    size_bytes: Count = 0
    warm: bool = False
    vram_bytes: Count = 0
    context_length: Count = 0
    remote: bool = False
    parameter_size: Annotated[str, Meta(max_length=40)] = ""
    quantization: Annotated[str, Meta(max_length=40)] = ""
    capabilities: Annotated[tuple[Word, ...], Meta(max_length=limits.MODEL_CAPABILITIES_MAX)] = ()
    loaded_bytes: Count = 0  # in all; `vram_bytes` of them on GPUs
    context_max: Count = 0  # that it was trained for; `context_length` is what it gets
    fault: Annotated[str, Meta(max_length=200)] = ""  # why its server cannot run it


class EndpointProbe(Struct, frozen=True, kw_only=True):
    """What one health check found. `models` is None when the list could not be read this time, `warm_known` false
    when which of them are loaded could not. `running` and `waiting` are calls of everybody, None where the server does
    not say; `slots` 0 likewise."""

    healthy: bool
    reason: Reason = ""
    version: Annotated[str, Meta(max_length=100)] = ""
    models: Annotated[tuple[EndpointModel, ...], Meta(max_length=limits.MODELS_PER_ENDPOINT_MAX)] | None = (
        None
    )
    warm_known: bool = False
    duration_ms: Count = 0
    flavour: Annotated[str, Meta(max_length=20)] = ""
    running: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    waiting: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    slots: Annotated[int, Meta(ge=0, le=1000)] = 0
    list_fault: Reason = ""  # why `models` is None, or how many of them it has


class ModelAnswer(Struct, frozen=True, kw_only=True):
    """Whether a model gave a token when it was asked for one: an empty `reason` says that it did. `is_load`: it was to
    be loaded, no more."""

    url: Url
    model: Annotated[str, Meta(min_length=1, max_length=400)]
    reason: Reason = ""
    duration_ms: Count = 0
    is_load: bool = False


class ModelMeasure(Struct, kw_only=True, omit_defaults=True):
    """Moving averages of a model on an endpoint, each with its count of samples; see core/measures.py.
    `tokens_per_ks`: per 1,000 s."""

    tokens_per_ks: int = 0
    rate_samples: int = 0
    first_byte_ms: int = 0
    first_byte_samples: int = 0
    load_ms: int = 0
    load_samples: int = 0


class EndpointKind(Term):
    """How an endpoint is spoken to: Ollama's own way, as OpenAI's API, or a cloud account of Anthropic."""

    ollama = "ollama"
    openai = "openai"
    anthropic = "anthropic"


class EndpointRecord(Struct, kw_only=True):
    """An LLM server as the registry keeps it. `seen_from` is 0 for the hub, otherwise a host id."""

    id: int
    name: str
    kind: EndpointKind
    url: str
    seen_from: int = 0
    cap: int = 1
    num_ctx: int = 0
    found: bool = False
    created_ms: int = 0
    healthy: bool = False
    reason: str = "not checked yet"
    since_ms: int = 0
    checked_ms: int = 0
    version: str = ""
    models: tuple[EndpointModel, ...] = ()
    flavour: str = ""
    slots: int = 0
    measures: dict[str, ModelMeasure] = {}  # by canonical model
    hung: dict[str, str] = {}  # models that gave no byte, and the reason, so that a start of the hub knows
    draining: bool = False  # it gets no new work and goes when the last call has ended
    has_own_cap: bool = False  # somebody has set it: it does not follow the server's slots
    account: str = ""  # of a cloud account: the fingerprint of its key
    preload: bool = True  # models may be loaded ahead of tasks
    # Why its list of models could not be read at the last check, and `models` is an older one; or how many it has.
    list_fault: str = ""
