"""/healthz, /readyz and /metrics: for whoever watches this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flask import Blueprint, Response

from agentcom.model import AgentState, JsonObject, State
from agentcom_web.forwarding import bearer, described
from agentcom_web.services import services

health = Blueprint("health", __name__)
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@health.get("/healthz")
@described("anyone", media="text/plain")
def healthz() -> Response:
    """One word: this process answers (`ok`), and the hub, where it is heard, says that people have to look
    (`degraded`): no room for new tasks, or something that a start could not save."""
    own = services()
    degraded = own.view.live and own.view.shown()["counts"].get("degraded")
    return _word("degraded" if degraded else "ok")


@health.get("/readyz")
@described("anyone", media="text/plain")
def readyz() -> Response:
    """One word: the hub answers and the live view is in step (`ready`), or not (503, `unready`); `degraded` where
    it answers and people have to look."""
    own = services()
    if not own.view.live:
        return _word("unready", 503)
    return _word("degraded" if own.view.shown()["counts"].get("degraded") else "ready")


def _word(word: str, status: int = 200) -> Response:
    return Response(f"{word}\n", status=status, content_type="text/plain; charset=utf-8")


@health.get("/metrics")
@described("view, operate, admin", media="text/plain")
def metrics() -> Response:
    """Figures of the live view in Prometheus' text format."""
    own = services()
    own.people.reader(bearer())
    shown = own.view.shown()
    lines = [
        *_gauge(
            "agentcom_hub_up", "1 while the hub answers and the live view is in step.", [("", own.view.live)]
        ),
        *_gauge("agentcom_tasks", "Tasks by state.", _by_state(shown["counts"])),
        *_gauge(
            "agentcom_queue_paused", "1 while dispatch is paused.", [("", shown["counts"].get("paused"))]
        ),
        *_gauge(
            "agentcom_degraded", "1 while people have to look after the store.", [("", shown["counts"].get("degraded"))]
        ),
        *_gauge("agentcom_agents", "Agents by state.", _tally("state", AgentState, shown["agents"])),
        *_gauge("agentcom_hosts", "Hosts by state.", _tally("state", ("online", "offline"), shown["hosts"])),
        *_gauge("agentcom_endpoints", "LLM endpoints by health.", _health_of(shown["endpoints"])),
        *_gauge("agentcom_web_streams", "Open event streams.", [("", own.streams.taken)]),
        *_gauge("agentcom_web_streams_max", "Event streams that may be open.", [("", own.streams.most)]),
    ]
    return Response("\n".join(lines) + "\n", content_type=PROMETHEUS)


def _gauge(name: str, text: str, samples: Iterable[tuple[str, object]]) -> list[str]:
    head = [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
    return head + [f"{name}{labels} {int(value or 0)}" for labels, value in samples]  # type: ignore[call-overload]


def _by_state(counts: JsonObject) -> list[tuple[str, object]]:
    by_state = counts.get("by_state") or {}
    return [(f'{{state="{state}"}}', by_state.get(state, 0)) for state in State]


def _tally(label: str, known: Iterable[str], things: list[JsonObject]) -> list[tuple[str, object]]:
    found = Counter(str(thing.get("state")) for thing in things)
    return [(f'{{{label}="{value}"}}', found.get(value, 0)) for value in known]


def _health_of(endpoints: list[JsonObject]) -> list[tuple[str, object]]:
    healthy = sum(1 for endpoint in endpoints if endpoint.get("healthy"))
    return [('{healthy="true"}', healthy), ('{healthy="false"}', len(endpoints) - healthy)]
