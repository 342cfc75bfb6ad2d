"""Hundreds of endpoints are checked within one cycle, off the loop, with no more of them at once than the bound."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentcom.config import EndpointSettings
from agentcom.model import EndpointKind, EndpointProbe, ModelAnswer
from agentcom.probe import CONCURRENCY_MAX, ProbeThread
from agentcom.probe_endpoint import Target
from tests.standins.starter import standin

ROOT = Path(__file__).resolve().parents[2]
COUNT, DEAD, SLOW = 500, 50, 50
CYCLE_S = EndpointSettings().probe_every_s


@contextmanager
def many(*options: str) -> Iterator[str]:
    """The address below which the servers are."""
    command = [sys.executable, "-m", "tests.standins.many", *options]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        yield str(json.loads(child.stdout.readline())["url"])
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


def state(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/__state", timeout=10) as answer:
        return dict(json.loads(answer.read()))


def test_five_hundred_endpoints_are_checked_within_a_cycle_while_some_are_slow_and_some_dead() -> None:
    woken = threading.Event()
    options = ("--dead", str(DEAD), "--slow", str(SLOW), "--slow-s", "0.5")
    with many(*options) as url:
        prober = ProbeThread(woken.set, 5.0, 5.0, lambda _url: "", may_be_loopback=True)
        try:
            asked_at = time.monotonic()
            for number in range(COUNT):
                prober.ask(number, Target(EndpointKind.ollama, f"{url}/{number}"))
                prober.ask(number, Target(EndpointKind.ollama, f"{url}/{number}"))  # runs already: not again
            found: dict[int, EndpointProbe] = {}
            while len(found) < COUNT:
                assert time.monotonic() - asked_at < 60, f"{len(found)} of {COUNT} checks have ended"
                assert woken.wait(30), f"{len(found)} of {COUNT} checks have ended"
                woken.clear()
                found |= {number: probe for number, _, probe in prober.take() if isinstance(probe, EndpointProbe)}
            took_s = time.monotonic() - asked_at
            seen = state(url)
        finally:
            prober.close()
    assert {number for number, probe in found.items() if not probe.healthy} == set(range(DEAD))
    assert all(found[number].reason for number in range(DEAD))
    assert all(found[number].models for number in range(DEAD, COUNT))
    assert seen["peak"] <= CONCURRENCY_MAX
    assert set(seen["checked"].values()) == {1}
    print(f"{COUNT} endpoints in {took_s:.2f} s, {seen['peak']} at once; a cycle is {CYCLE_S:g} s")


def test_a_question_to_a_model_keeps_no_check_waiting() -> None:
    woken = threading.Event()
    with many("--slow", "20", "--slow-s", "30") as url:
        prober = ProbeThread(woken.set, 5.0, 60.0, lambda _url: "", may_be_loopback=True)
        try:
            for number in range(20):
                prober.ask(number, Target(EndpointKind.ollama, f"{url}/{number}", "qwen2.5-coder:7b", 4096))
            prober.ask(99, Target(EndpointKind.ollama, f"{url}/99"))
            assert woken.wait(20)
            [(endpoint, _, probe)] = prober.take()
        finally:
            prober.close()
    assert isinstance(probe, EndpointProbe)
    assert (endpoint, probe.healthy) == (99, True)


def test_a_check_that_a_load_overtakes_says_nothing_of_what_is_loaded() -> None:
    models = {"models": [{"name": "qwen2.5-coder:7b"}]}
    with standin("ollama", {**models, "routes": {"/api/version": {"held": True}}}) as server:
        woken = threading.Event()
        prober = ProbeThread(woken.set, 20.0, 20.0, lambda _url: "", may_be_loopback=True)

        def next_found() -> EndpointProbe | ModelAnswer:
            assert woken.wait(20)
            woken.clear()
            [(_, _, found)] = prober.take()
            return found

        try:
            prober.ask(1, Target(EndpointKind.ollama, server.url))
            server.wait_for(lambda _state: bool(server.log("/api/version")))
            prober.ask(1, Target(EndpointKind.ollama, server.url, "qwen2.5-coder:7b", 4096))
            answer = next_found()
            assert isinstance(answer, ModelAnswer)
            assert answer.reason == ""
            server.set_script({"routes": {}})
            overtaken = next_found()
            prober.ask(1, Target(EndpointKind.ollama, server.url))
            after = next_found()
        finally:
            prober.close()
    assert isinstance(overtaken, EndpointProbe)
    assert isinstance(after, EndpointProbe)
    assert (overtaken.healthy, overtaken.warm_known, after.warm_known) == (True, False, True)
