"""A real sidecar and hosts of the protocol behind a bad network: who lives is not judged dead."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import msgspec

from agentcom.auth import HubAddress, write_hub_address
from agentcom.client import Client
from tests.faults.history import History, Seen, check, effects_of, marking, seen_of
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.kill_loop import drain
from tests.faults.load import address_of
from tests.faults.proxy import FROM_HUB, TO_HUB, FaultProxy, proxy_to
from tests.faults.report import Report
from tests.world import eventually, world

REAL, FAST = "real", "fast"
FAULTS = ("held both ways", "held to the hub", "held from the hub", "half open")


def send_through(home: Path, address: HubAddress, proxy: FaultProxy) -> None:
    """Let the sidecar of `home` believe that its hub is at the proxy."""
    write_hub_address(home / "keys" / "hub.json", msgspec.structs.replace(address, hub=proxy.address))


@contextlib.contextmanager
def resets(proxies: list[FaultProxy], every_s: float) -> Iterator[None]:
    """Reset all connections again and again; never, if `every_s` is 0."""
    over = threading.Event()

    def work() -> None:
        while every_s and not over.wait(every_s):
            for proxy in proxies:
                proxy.reset()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def live_through(
    folder: Path,
    seconds: float,
    latency_s: float,
    reset_every_s: float,
    seed: int = 0,
    settings: Mapping[str, str] | None = None,
) -> Report:
    """Work goes on while all connections are delayed, and reset unless that is 0. Nobody dies, so no lease may
    be lost. (A handshake takes three round trips: with a reset before it is over nobody can ever connect.)"""
    faults = f"resets every {reset_every_s:g} s, {latency_s:g} s latency each way"
    report = Report("I7", faults, seed)
    history, effects = History(), folder / "effects"
    effects.mkdir()
    pairs = enrol_all(folder / "hub", [f"fast-{n}" for n in range(10)])
    with contextlib.ExitStack() as open_things:
        made = open_things.enter_context(world(folder))
        made.hub(**(settings or {}))
        made.join("box")
        address = address_of(folder / "hub")
        proxies = [open_things.enter_context(proxy_to(address.hub)) for _ in range(2)]
        send_through(made.home("box"), address, proxies[0])
        through = msgspec.structs.replace(address, hub=proxies[1].address)
        fleet = Fleet(through, pairs, agents=4, needs=(FAST,), run_s=lambda key: 1 + len(key) % 3)
        made.sidecar("box", AGENTCOM_SIDECAR_CAPABILITIES=REAL, AGENTCOM_SIDECAR_AGENTS="3")
        client = made.client()
        for proxy in proxies:
            proxy.latency_s = latency_s
        with fleet_of(fleet), resets(proxies, reset_every_s):
            _work(client, history, effects, time.monotonic() + seconds, 0.15 + latency_s / 2)
            drain(made, 60 + 20 * latency_s)
        seen = seen_of(client)
        ran = fleet.started + effects_of(effects)
        report.violations += check(history, seen, ran)
        report.violations += [f"task {t.id}: a live agent was judged dead ({t.losses})" for t in _lost(seen)]
        report.counts |= {
            "resets": sum(proxy.resets for proxy in proxies),
            "connections": sum(proxy.connections for proxy in proxies),
            "tasks": len(seen),
            "attempts": sum(task.attempt for task in seen),
            "early_requeues": len(_lost(seen)),
            "given_back_before_accept": _outcomes(seen, "unaccepted"),
            "ran_and_given_back": _outcomes(seen, "unaccepted", ran),
        }
    return report


def _work(client: Client, history: History, effects: Path, until: float, pause_s: float) -> None:
    number = 0
    while time.monotonic() < until:
        number += 1
        for needs, command in ((REAL, f"{marking(effects)}; sleep 3"), (FAST, "true"), (FAST, "true")):
            key = f"{needs}-{number}-{'x' * (number % 3)}-{len(history.asked)}"
            if needs == REAL and number % 4:
                continue
            history.invoke([key], key)
            task = client.submit(description=key, needs=[needs], command=command)["id"]
            history.acknowledge(key, task)
        time.sleep(pause_s)


def _lost(seen: list[Seen]) -> list[Seen]:
    return [task for task in seen if "lost" in task.outcomes.values() or task.losses]


def _outcomes(seen: list[Seen], outcome: str, ran: Container[tuple[int, int]] | None = None) -> int:
    """Attempts that ended so; with `ran` only those that are in it."""
    ended = [(task.id, n) for task in seen for n, how in task.outcomes.items() if how == outcome]
    return len([attempt for attempt in ended if ran is None or attempt in ran])


def hold_each_way(folder: Path, held_s: float, seed: int = 0) -> Report:
    """Four sidecars, each behind a fault of its own for longer than a lease: all tasks complete, each once."""
    report = Report("I7", f"connections {', '.join(FAULTS)} for {held_s:g} s", seed)
    history, effects = History(), folder / "effects"
    effects.mkdir()
    with contextlib.ExitStack() as open_things:
        made = open_things.enter_context(world(folder))
        made.hub(AGENTCOM_QUEUE_MAX_LOSSES="20")
        address = address_of(folder / "hub")
        proxies = {}
        for number, fault in enumerate(FAULTS):
            proxies[fault] = open_things.enter_context(proxy_to(address.hub))
            made.join(f"box-{number}")
            send_through(made.home(f"box-{number}"), address, proxies[fault])
            made.sidecar(f"box-{number}", AGENTCOM_SIDECAR_AGENTS="2")
        client = made.client()
        for number in range(8):
            key = f"held-{number}"
            history.invoke([key], key)
            command = f"{marking(effects)}; sleep {1 + number % 2}"
            history.acknowledge(key, client.submit(description=key, command=command)["id"])
        eventually("all run", lambda: len(list(effects.iterdir())) == 8)
        _hold(proxies, True)
        time.sleep(held_s)  # the length of the fault, not a wait for something
        _hold(proxies, False)
        healed = time.monotonic()
        drain(made, 60)
        report.counts["healed_after_s"] = round(time.monotonic() - healed, 1)
        eventually("every host is back", lambda: _all_online(client), 60)
        seen = seen_of(client)
        report.violations += check(history, seen, effects_of(effects), 20)
    report.counts |= {
        "tasks": len(seen),
        "attempts": sum(task.attempt for task in seen),
        "lost": _outcomes(seen, "lost"),
    }
    return report


def _hold(proxies: dict[str, FaultProxy], on: bool) -> None:
    ways = {
        "held both ways": {TO_HUB, FROM_HUB},
        "held to the hub": {TO_HUB},
        "held from the hub": {FROM_HUB},
    }
    for fault, proxy in proxies.items():
        proxy.held = ways.get(fault, set()) if on else set()
        if fault == "half open":
            proxy.half_open = on
            proxy.refusing = on
            if on:
                proxy.reset_hosts()  # and the hub is not told: its side stays open and silent


def _all_online(client: Client) -> bool:
    return all(host["state"] == "online" for host in client.host_list()["hosts"])
