"""The trace of the simulated fleet: hosts, models and tasks, all drawn from one seed.

Hosts differ in VRAM, memory bandwidth (which bounds tokens/s), disk speed (which bounds a cold load), calls at once per
model, and in which models they have on disk. Some are slow, some have too little VRAM for the larger models. Models
are wanted by a Zipf law. Tasks come in bursts over a steady stream; what each needs (tokens, how far its run is from
the plain reckoning) belongs to the task, so that every policy meets the same work.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

GB: Final = 1_000_000_000
MODEL_GB: Final = (
    1.3,
    2.0,
    2.0,
    3.3,
    4.1,
    4.7,
    4.7,
    4.9,
    5.2,
    7.4,
    8.1,
    9.0,
    9.1,
    13.0,
    14.0,
    17.0,
    19.0,
    20.0,
    26.0,
    40.0,
)
HOST_KINDS: Final = (
    # share, VRAM GB, RAM GB, memory bandwidth GB/s, disk GB/s, calls at once per model
    (0.20, 8, 32, 300, 0.5, 1),
    (0.25, 12, 32, 360, 1.0, 1),
    (0.25, 24, 64, 900, 2.0, 2),
    (0.10, 48, 128, 900, 3.0, 4),
    (0.10, 0, 64, 60, 0.5, 1),  # no GPU: all in RAM, slow
    (0.10, 8, 16, 270, 0.15, 1),  # its models lie on a slow disk
)
TRIVIAL_SHARE: Final = 0.15
COMPLEX_SHARE: Final = 0.02
TOKENS_MEAN: Final = 700
TOKENS_MAX: Final = 4_000
BURSTS: Final = 12
BURST_SHARE: Final = 0.6  # of the tasks comes in bursts
BURST_MS: Final = 15_000
LOAD: Final = 0.9  # of what the fleet could do were every model warm wherever it lies


@dataclass(frozen=True)
class SimModel:
    name: str
    size_bytes: int
    weight: float  # how much it is wanted


@dataclass(frozen=True)
class SimHost:
    name: str
    vram_bytes: int
    ram_bytes: int
    memory_bps: int
    disk_bps: int
    cap: int
    agents: int
    has_cloud: bool
    models: tuple[SimModel, ...]  # on its disk


@dataclass(frozen=True)
class SimTask:
    """`tier` as its submitter says; `stretch` multiplies every time that it takes."""

    at_ms: int
    tier: str
    model: SimModel | None
    tokens_in: int
    tokens_out: int
    run_ms: int  # of work without a model
    stretch: float


@dataclass(frozen=True)
class Trace:
    hosts: tuple[SimHost, ...]
    models: tuple[SimModel, ...]
    tasks: tuple[SimTask, ...]


def trace(seed: int, hosts: int, models: int, tasks: int) -> Trace:
    """The same arguments give the same trace."""
    rng = random.Random(seed)
    kinds = _models(rng, models)
    fleet = _placed(rng, [_host(rng, n, kinds) for n in range(hosts)], kinds)
    return Trace(fleet, kinds, _tasks(rng, fleet, kinds, tasks))


def rate_of(host: SimHost, model: SimModel) -> float:
    """Tokens/s of one call: each token reads all weights once; from RAM where the VRAM is too small."""
    in_vram = model.size_bytes <= host.vram_bytes
    return (host.memory_bps if in_vram else min(host.memory_bps, 50 * GB)) * 0.6 / model.size_bytes


def _models(rng: random.Random, count: int) -> tuple[SimModel, ...]:
    wanted = [1 / (rank + 1) for rank in range(count)]
    rng.shuffle(wanted)
    return tuple(
        SimModel(f"model-{n}:latest", int(MODEL_GB[n % len(MODEL_GB)] * GB), wanted[n]) for n in range(count)
    )


def _host(rng: random.Random, number: int, models: tuple[SimModel, ...]) -> SimHost:
    shares = [kind[0] for kind in HOST_KINDS]
    _, vram, ram, bandwidth, disk, cap = rng.choices(HOST_KINDS, shares)[0]
    fitting = [one for one in models if one.size_bytes <= (vram or 6) * GB]
    spilling = [one for one in models if (vram or 6) * GB < one.size_bytes <= (vram + ram // 2) * GB]
    own = rng.sample(fitting, min(len(fitting), rng.randint(4, 10)))
    own += rng.sample(spilling, min(len(spilling), 1)) if rng.random() < 0.2 else []
    return SimHost(
        name=f"host-{number:03d}",
        vram_bytes=vram * GB,
        ram_bytes=max(ram, 64) * GB,
        memory_bps=int(bandwidth * GB * rng.uniform(0.8, 1.2)),
        disk_bps=int(disk * GB * rng.uniform(0.7, 1.3)),
        cap=cap,
        agents=cap + 1,
        has_cloud=number % 10 == 0,
        models=tuple(dict.fromkeys(own)),
    )


def _placed(rng: random.Random, hosts: list[SimHost], models: tuple[SimModel, ...]) -> tuple[SimHost, ...]:
    """The hosts, with one in twenty more for each model, of those whose VRAM holds it; where none does, the largest:
    no task waits for ever, and nobody keeps a model where it could hardly run."""
    added: dict[str, list[SimModel]] = {host.name: [] for host in hosts}
    largest = max(hosts, key=lambda host: host.vram_bytes)
    for model in models:
        able = [host for host in hosts if host.vram_bytes >= model.size_bytes] or [largest]
        for host in rng.sample(able, min(len(able), max(1, len(hosts) // 20))):
            added[host.name].append(model)
    return tuple(
        replace(host, models=tuple(dict.fromkeys((*host.models, *added[host.name])))) for host in hosts
    )


def _tasks(
    rng: random.Random, hosts: tuple[SimHost, ...], models: tuple[SimModel, ...], count: int
) -> tuple[SimTask, ...]:
    drawn = [_task(rng, models) for _ in range(count)]
    span_ms = _span_ms(hosts, drawn)
    bursts = [rng.randrange(span_ms) for _ in range(BURSTS)]
    arrivals = sorted(
        rng.choice(bursts) + rng.randrange(BURST_MS) if rng.random() < BURST_SHARE else rng.randrange(span_ms)
        for _ in range(count)
    )
    return tuple(SimTask(at_ms, *task) for at_ms, task in zip(arrivals, drawn, strict=True))


def _task(
    rng: random.Random, models: tuple[SimModel, ...]
) -> tuple[str, SimModel | None, int, int, int, float]:
    stretch = rng.lognormvariate(0, 0.2)
    kind = rng.random()
    if kind < TRIVIAL_SHARE:
        return "trivial", None, 0, 0, int(rng.uniform(200, 4000)), stretch
    if kind < TRIVIAL_SHARE + COMPLEX_SHARE:
        return "complex", None, 0, 0, int(rng.uniform(10_000, 60_000)), stretch
    model = rng.choices(models, [one.weight for one in models])[0]
    tokens_out = min(int(rng.lognormvariate(0, 0.7) * TOKENS_MEAN * 0.8) + 20, TOKENS_MAX)
    return "standard", model, int(rng.uniform(200, 4000)), tokens_out, 0, stretch


def _span_ms(
    hosts: tuple[SimHost, ...], tasks: list[tuple[str, SimModel | None, int, int, int, float]]
) -> int:
    """How long tasks come: so that all warm hosts together would be busy for LOAD of it."""
    work_ms = 0.0
    for _, model, _, tokens_out, _, _ in tasks:
        if model is not None:
            rates = [rate_of(host, model) for host in hosts if model in host.models]
            work_ms += tokens_out * 1000 * len(rates) / sum(rates)
    return max(int(work_ms / len(hosts) / LOAD), 10_000)
