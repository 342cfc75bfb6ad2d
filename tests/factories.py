"""One factory per noun: the smallest valid thing, and whatever a test says of it by keyword."""

from __future__ import annotations

from typing import Any

import msgspec

from agentcom import messages as m
from agentcom.config import EndpointSettings, ModelSettings, QueueSettings, Settings
from agentcom.model import (
    Backend,
    EndpointKind,
    EndpointModel,
    EndpointProbe,
    FailureClass,
    Resources,
    ResultStatus,
    TaskError,
    TaskResult,
    TaskSpec,
    Tier,
)

ALL_BACKENDS = (Backend.shell, Backend.ollama, Backend.openai, Backend.claude)
MODEL = "qwen2.5-coder:7b"


def settings(**queue: Any) -> Settings:
    """The defaults, with these of [queue] changed."""
    return Settings(
        queue=QueueSettings(**queue), models=ModelSettings(standard=MODEL), endpoints=EndpointSettings()
    )


def task(description: str = "Say hello in the log", **fields: Any) -> TaskSpec:
    """A task that a local model is to do, unless the fields say otherwise."""
    return TaskSpec(description=description, **fields)


def shell_task(command: str = "true", **fields: Any) -> TaskSpec:
    """A task that any agent with a shell can do."""
    return task(fields.pop("description", f"Run {command}"), command=command, **fields)


def complex_task(**fields: Any) -> TaskSpec:
    return task(fields.pop("description", "Think hard"), tier=Tier.complex, **fields)


def agent_offer(name: str = "one", **fields: Any) -> m.AgentOffer:
    return m.AgentOffer(name=name, **{"backends": ALL_BACKENDS, **fields})


def host_offer(name: str = "box", agents: int | tuple[m.AgentOffer, ...] = 1, **fields: Any) -> m.HostOffer:
    """What a host says in hello; a number makes that many agents named after it."""
    if isinstance(agents, int):
        agents = tuple(agent_offer(f"{name}-{n}") for n in range(1, agents + 1))
    return m.HostOffer(name=name, agents=agents, **fields)


def resources(**fields: Any) -> Resources:
    return Resources(**{"cpu_percent": 10.0, "logical_cpus": 8, "ram_total_bytes": 32 << 30, **fields})


def endpoint_model(name: str = MODEL, **fields: Any) -> EndpointModel:
    return EndpointModel(name=name, **{"digest": "sha256:1", "size_bytes": 4 << 30, **fields})


def endpoint_probe(*models: EndpointModel, healthy: bool = True, **fields: Any) -> EndpointProbe:
    """A health check that found these models, or the usual one."""
    if not healthy:
        return EndpointProbe(healthy=False, reason=fields.pop("reason", "connection refused"), **fields)
    given = {"models": models or (endpoint_model(),), "version": "0.11.0", "warm_known": True, **fields}
    return EndpointProbe(healthy=True, **given)


def sighting(
    url: str = "http://127.0.0.1:11434",
    probe: EndpointProbe | None = None,
    kind: EndpointKind = EndpointKind.ollama,
    found: bool = True,
) -> m.EndpointSighting:
    return m.EndpointSighting(kind=kind, url=url, probe=probe or endpoint_probe(), found=found)


def result(**fields: Any) -> TaskResult:
    shell = {"status": ResultStatus.unchecked, "backend": Backend.shell, "model": "none", "cost_usd": 0.0}
    return TaskResult(**{**shell, **fields})


def error(
    failure_class: FailureClass = FailureClass.task_error, code: str = "exit_1", **fields: Any
) -> TaskError:
    return TaskError(failure_class=failure_class, code=code, **{"message": "it ended with 1", **fields})


def public_key(name: str) -> str:
    """A key's public half for tests without sockets: right in length, and its name can be read."""
    return (name + "-" * 40)[:40]


def sha256(text: str) -> str:
    """A stand-in for the hash of a token: right in length, and its text can be read."""
    return (text.encode().hex() + "0" * 64)[:64]


def wire(message: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(message)
