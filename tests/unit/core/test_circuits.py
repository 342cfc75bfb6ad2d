"""What calls teach about endpoints: tripped ones, ways that are closed, models that hang, loads, measured rates."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom.config import EndpointSettings
from agentcom.core.effects import Answered, AskModel, ProbeEndpoint
from agentcom.model import EndpointKind, FailureClass, ModelAnswer
from tests.core_rig import HostEnd, Rig
from tests.factories import MODEL, endpoint_model, endpoint_probe, error, settings, sighting, task

URL = "http://10.0.0.5:11434"
OTHER = "other:7b"
COOLDOWN_MS = 10_000


@pytest.fixture
def rig() -> Rig:
    given = settings(max_infrastructure=1000, backoff_s=1, backoff_max_s=1)
    return Rig(msgspec.structs.replace(given, endpoints=EndpointSettings(retry_min=1000)))


def shared(rig: Rig, *models: Any, **fields: Any) -> int:
    """An endpoint that the hub sees, with one model or these."""
    number = int(rig.admin.ask(m.EndpointAdd(url=URL, name="gpu", **fields))["id"])
    rig.probed(number, endpoint_probe(*models))
    return number


def failed(code: str, message: str = "it broke") -> Any:
    return error(FailureClass.infrastructure, code, message=message)


def fail_all(rig: Rig, box: HostEnd, code: str, times: int) -> None:
    """Let the box's only task fail so often, each time after its backoff."""
    for _ in range(times):
        box.fail(box.take(), failed(code))
        rig.advance(1_000)


def endpoint(rig: Rig, name: str = "gpu") -> dict[str, Any]:
    found: list[dict[str, Any]] = rig.admin.ask(m.EndpointList())["endpoints"]
    return next(one for one in found if one["name"] == name)


def why(rig: Rig, number: int, host: str = "box") -> str:
    rows = rig.admin.ask(m.TaskWhy(task=number))["hosts"]
    return str(next(one for one in rows if one["host"] == host)["fails"])


# --- endpoints that trip ----------------------------------------------------------------------------------


def test_an_endpoint_that_fails_five_calls_in_a_row_gets_none_until_its_cooldown_is_over(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    number = rig.admin.submit(task())
    fail_all(rig, box, "endpoint_error", 5)
    assert rig.sent(m.Assign) == []
    assert why(rig, number) == "endpoint_tripped"
    shown = endpoint(rig)["breaker"]
    assert (shown["state"], shown["failures"], shown["reason"]) == ("open", 5, "it broke")
    for _ in range(2):
        rig.advance(4_000)
        box.beat()
    rig.advance(1_000)
    assert box.take().task == number


def test_one_call_tries_it_and_its_success_lets_all_others_follow(rig: Rig) -> None:
    box = rig.host(agents=3)
    shared(rig, cap=3)
    first = rig.admin.submit(task())
    fail_all(rig, box, "stream_cut", 5)
    rig.admin.submit(task(), task())
    rig.advance(COOLDOWN_MS)
    box.beat()
    trial = box.take()
    assert not [one for one in box.received if isinstance(one, m.Assign)]
    assert endpoint(rig)["breaker"]["state"] == "half_open"
    box.complete(trial)
    assert endpoint(rig)["breaker"] == {"state": "closed"}
    assert trial.task == first
    assert len([one for one in box.received if isinstance(one, m.Assign)]) == 2


def test_a_server_that_is_well_again_is_tried_at_once(rig: Rig) -> None:
    box, number = rig.host(), shared(rig)
    rig.admin.submit(task())
    for _ in range(5):
        box.fail(box.take(), failed("endpoint_error"))
        rig.advance(1_000)
    rig.probed(number, endpoint_probe(healthy=False))
    rig.probed(number)
    assert box.take().route.endpoint == "gpu"


def test_failures_that_are_not_the_servers_own_trip_nothing(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    for code in ("sidecar_error", "model_missing", "workspace_failed", "sidecar_error", "sidecar_error", "x"):
        fail_all(rig, box, code, 1)
    assert endpoint(rig)["breaker"] == {"state": "closed"}


def test_an_answer_that_fails_the_task_shows_that_the_server_works(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task(max_retries=9))
    for _ in range(2):
        fail_all(rig, box, "endpoint_error", 4)
        box.fail(box.take(), error(FailureClass.task_error, "empty_answer"))
        rig.advance(1_000)
    assert endpoint(rig)["breaker"] == {"state": "closed"}


# --- ways that are closed ---------------------------------------------------------------------------------


def test_an_endpoint_that_one_host_cannot_reach_is_unreachable_for_that_host_only(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig, cap=4)
    number = rig.admin.submit(task())
    box.fail(box.take(), failed("endpoint_unreachable", "no route"))
    rig.advance(1_000)
    assert rig.sent(m.Assign) == []
    assert why(rig, number) == "endpoint_unreachable"
    [way] = endpoint(rig)["unreachable_from"]
    assert (way["host"], way["reason"]) == ("box", "no route")
    assert endpoint(rig)["healthy"]
    other = rig.host("other")
    assert other.take().task == number
    rig.admin.submit(task())
    assert rig.sent(m.Assign) == []
    for _ in range(2):
        rig.advance(4_500)
        box.beat()
        other.beat()
    assert box.assigned().route.endpoint == "gpu"


def test_a_way_that_works_again_is_open_again(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.fail(box.take(), failed("endpoint_unreachable"))
    rig.advance(COOLDOWN_MS)
    box.beat()
    box.complete(box.take())
    assert "endpoint_reached_from" in {one["event"] for one in rig.published("endpoint")}
    assert endpoint(rig)["unreachable_from"] == []


# --- models that hang -------------------------------------------------------------------------------------


def test_a_model_that_gives_no_byte_is_quarantined_alone(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = shared(rig, endpoint_model(), endpoint_model(OTHER))
    hanging = rig.admin.submit(task())
    box.fail(box.take(), failed("no_first_byte", "no answer within 300 s"))
    assert "model_quarantined" in {one["event"] for one in rig.published("endpoint")}
    rig.advance(1_000)
    assert why(rig, hanging) == "model_quarantined"
    [one] = endpoint(rig)["quarantined"]
    assert (one["model"], one["reason"]) == (MODEL, "no answer within 300 s")
    assert endpoint(rig)["healthy"]
    rig.admin.submit(task(model=OTHER))
    assert box.take().route.model == OTHER
    assert number == 1


def test_it_is_asked_for_one_token_and_gets_work_when_it_gives_one(rig: Rig) -> None:
    box, number = rig.host(), shared(rig, num_ctx=4096)
    waiting = rig.admin.submit(task())
    box.fail(box.take(), failed("no_first_byte"))
    effects = rig.advance(COOLDOWN_MS)
    assert AskModel(number, MODEL, 4096) in effects
    assert AskModel(number, MODEL, 4096) not in rig.advance(1_000)
    box.beat()
    rig.tick(Answered(number, ModelAnswer(url=URL, model=MODEL, reason="no token within 120 s")))
    assert rig.sent(m.Assign) == []
    assert AskModel(number, MODEL, 4096) in rig.advance(2 * COOLDOWN_MS)
    box.beat()
    rig.probed(number)
    rig.tick(Answered(number, ModelAnswer(url=URL, model=MODEL)))
    assert box.take().task == waiting
    assert endpoint(rig)["quarantined"] == []


def test_a_host_asks_the_models_that_only_it_can_reach(rig: Rig) -> None:
    box = rig.host()
    box.see(sighting(kind=EndpointKind.openai))
    waiting = rig.admin.submit(task())
    box.fail(box.take(), failed("no_first_byte"))
    rig.advance(COOLDOWN_MS)
    [asked] = box.beat().asks
    assert (asked.model, asked.url, asked.kind) == (MODEL, "http://127.0.0.1:11434", EndpointKind.openai)
    assert box.beat().asks == ()
    answer = ModelAnswer(url=asked.url, model=asked.model)
    box.send(m.Endpoints(session=box.token, sightings=(), answers=(answer,)))
    assert box.take().task == waiting


def test_an_answer_about_a_server_that_the_host_does_not_have_changes_nothing(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.fail(box.take(), failed("no_first_byte"))
    box.send(m.Endpoints(session=box.token, sightings=(), answers=(ModelAnswer(url=URL, model=MODEL),)))
    assert len(endpoint(rig)["quarantined"]) == 1


def test_what_hung_when_the_hub_stopped_is_asked_before_it_gets_work(rig: Rig) -> None:
    box, number = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.fail(box.take(), failed("no_first_byte", "silent"))
    rig.start()
    rig.admin.hello()
    assert endpoint(rig)["quarantined"][0]["reason"] == "silent"
    assert AskModel(number, MODEL, 8192) in rig.advance(1_000)
    rig.tick(Answered(number, ModelAnswer(url=URL, model=MODEL)))
    rig.start()
    assert rig.hub.registry.circuits.models.circuits == {}


def test_no_byte_from_a_server_that_is_down_is_the_servers_fault(rig: Rig) -> None:
    box, number = rig.host(), shared(rig)
    rig.admin.submit(task())
    assign = box.take()
    rig.probed(number, endpoint_probe(healthy=False))
    box.fail(assign, failed("no_first_byte"))
    shown = endpoint(rig)
    assert (shown["quarantined"], shown["breaker"]["failures"]) == ([], 1)


# --- loads ------------------------------------------------------------------------------------------------


def test_a_cold_model_is_loading_from_the_first_call_to_the_first_byte(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    assign = box.take()
    assert [one["model"] for one in endpoint(rig)["loading"]] == [MODEL]
    box.beat(assign)
    assert endpoint(rig)["loading"] != []
    heard = m.AttemptBeat(assign.task, assign.attempt, 99, heard=True)
    box.send(m.Heartbeat(session=box.token, beat=99, attempts=(heard,)))
    assert endpoint(rig)["loading"] == []


def test_a_model_that_a_check_finds_loaded_is_loading_no_longer(rig: Rig) -> None:
    box, number = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.take()
    rig.probed(number, endpoint_probe(endpoint_model(warm=True)))
    assert endpoint(rig)["loading"] == []


def test_a_load_whose_call_ends_without_an_answer_is_over(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.fail(box.take(), failed("stream_cut"))
    assert not rig.hub.registry.loads


# --- measures ---------------------------------------------------------------------------------------------

DURATIONS = {"generate": 10_000, "first_byte": 200, "load": 7_000}


def test_what_hosts_measure_is_kept_saved_with_the_checks_and_survives_a_restart(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.complete(box.take(), tokens_out=500, durations_ms=DURATIONS)
    shown = endpoint(rig)["measured"][MODEL]
    assert (shown["tokens_per_s"], shown["first_byte_ms"], shown["load_s"]) == (50.0, 200, 7.0)
    assert (shown["rate_samples"], shown["load_samples"]) == (1, 1)
    assert rig.hub.registry.endpoints[1].measures[MODEL].load_ms == 7_000
    rig.advance(10_000)
    rig.start()
    assert rig.hub.registry.endpoints[1].measures[MODEL].tokens_per_ks == 50_000


def test_measures_cost_no_record_per_task(rig: Rig) -> None:
    box, number = rig.host(), shared(rig)
    rig.admin.submit(task())
    assign = box.take()
    before = rig.store.get("endpoints", number.to_bytes(8, "big"))
    box.complete(assign, tokens_out=500, durations_ms=DURATIONS)
    assert rig.store.get("endpoints", number.to_bytes(8, "big")) == before
    rig.advance(10_000)
    assert rig.store.get("endpoints", number.to_bytes(8, "big")) != before


def test_the_score_uses_what_was_measured(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.complete(box.take(), tokens_out=500, durations_ms=DURATIONS)
    rig.probed(1, endpoint_probe(endpoint_model()))  # it was unloaded since
    rig.admin.submit(task())
    score = box.assigned().route.score
    assert score is not None
    assert score.parts["run"] == 200_000 + 20_000_000
    assert 7_000_000 <= score.parts["load"] < 20_000_000


def test_absurd_durations_from_a_host_are_taken_and_teach_nothing(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    durations = {"generate": 2**62, "first_byte": -(2**62), "load": -1}
    assert box.complete(box.take(), tokens_out=2**62, durations_ms=durations) == "accepted"
    assert endpoint(rig)["measured"][MODEL]["rate_samples"] == 0


def test_the_load_that_a_server_counts_is_shown_and_not_stored(rig: Rig) -> None:
    number = shared(rig)
    sequence = rig.store.sequence
    rig.probed(number, endpoint_probe(running=3, waiting=2))
    assert endpoint(rig)["load"] == {"running": 3, "waiting": 2, "slots": None}
    assert rig.store.sequence == sequence


def test_while_what_is_loaded_cannot_be_asked_it_is_as_it_was(rig: Rig) -> None:
    number = shared(rig, endpoint_model(warm=True))
    rig.probed(number, endpoint_probe(endpoint_model(), warm_known=False))
    assert endpoint(rig)["models"][0]["warm"]
    rig.probed(number, endpoint_probe(endpoint_model()))
    assert not endpoint(rig)["models"][0]["warm"]


def test_a_call_that_fails_has_the_endpoint_looked_at_again(rig: Rig) -> None:
    box, number = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.fail(box.take(), failed("stream_cut"))
    assert ProbeEndpoint(number) in rig.effects


# --- as people see one ------------------------------------------------------------------------------------


def test_endpoint_show_tells_until_when_a_tripped_endpoint_is_left_alone_and_who_reaches_it(rig: Rig) -> None:
    box, number = rig.host(), shared(rig, endpoint_model(digest="abc", size_bytes=100), cap=2)
    rig.admin.submit(task())
    fail_all(rig, box, "endpoint_error", 4)
    box.fail(box.take(), failed("endpoint_error", "it broke"))
    rig.host("other")
    shown = rig.admin.ask(m.EndpointShow(endpoint="gpu"))
    assert shown == {**endpoint(rig), "reached_from": ["box", "other"]}
    breaker = shown["breaker"]
    assert (breaker["state"], breaker["reason"], breaker["failures"]) == ("open", "it broke", 5)
    assert breaker["until"] > breaker["since"]
    assert rig.admin.ask(m.EndpointShow(endpoint=str(number))) == shown
    assert rig.admin.refusal(rig.admin.request(m.EndpointShow(endpoint="nowhere"))).code == "not_found"


def test_endpoint_show_leaves_out_the_host_that_cannot_reach_it(rig: Rig) -> None:
    box, _ = rig.host(), shared(rig)
    rig.admin.submit(task())
    box.fail(box.take(), failed("endpoint_unreachable", "no route"))
    rig.host("other")
    shown = rig.admin.ask(m.EndpointShow(endpoint="gpu"))
    assert (shown["reached_from"], shown["unreachable_from"][0]["host"]) == (["other"], "box")


def test_each_model_of_an_endpoint_says_what_its_calls_do_and_taught(rig: Rig) -> None:
    """Also one without a tag, which is counted under another name than its server's."""
    box = rig.host()
    shared(rig, endpoint_model(name="plain"), endpoint_model(name="other"), cap=3)
    rig.admin.submit(task(model="plain"))
    rig.admin.submit(task(model="plain"))
    assign = box.take()
    models = {one["name"]: one for one in rig.admin.ask(m.EndpointShow(endpoint="gpu"))["models"]}
    assert (models["plain"]["in_flight"], models["other"]["in_flight"]) == (1, 0)
    assert (models["plain"]["measured"], models["plain"]["quarantined"]) == (None, False)
    box.complete(assign)
    models = {one["name"]: one for one in rig.admin.ask(m.EndpointShow(endpoint="gpu"))["models"]}
    assert models["plain"]["measured"] is not None
