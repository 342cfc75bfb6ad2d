"""A result is short on its way and in the store, and whole for people."""

from __future__ import annotations

import msgspec

from agentcom import messages as m
from agentcom.model import Backend, ResultStatus, Role, Route, Strategy, TaskResult, Tier
from agentcom.results import whole_result

RESULT = TaskResult(status=ResultStatus.unchecked, backend=Backend.shell, model="none", cost_usd=0.0)


def test_what_a_result_does_not_say_takes_no_room_and_people_see_every_field() -> None:
    stored = msgspec.msgpack.encode(RESULT)
    assert msgspec.msgpack.decode(stored) == {
        "status": "unchecked",
        "backend": "shell",
        "model": "none",
        "cost_usd": 0.0,
    }
    assert msgspec.msgpack.decode(stored, type=TaskResult) == RESULT
    view = whole_result(RESULT, is_taken=True)
    assert list(view) == [*TaskResult.__struct_fields__, "signature"]
    assert (view["output"], view["iterations"], view["commit"], view["cost_usd"]) == ("", (), None, 0.0)


def test_a_record_with_every_field_as_older_hubs_wrote_it_is_read() -> None:
    whole = {field: getattr(RESULT, field) for field in RESULT.__struct_fields__}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(whole), type=TaskResult) == RESULT


def test_an_assignment_says_only_what_is_not_usual() -> None:
    route = Route(
        strategy=Strategy.trivial,
        backend=Backend.shell,
        agent="a",
        host="h",
        model="none",
        reason="",
        tier=Tier.trivial,
    )
    assign = m.Assign(
        task=1,
        attempt=1,
        agent="a",
        lease_s=45.0,
        spec=msgspec.Raw(msgspec.msgpack.encode({"description": "x"})),
        route=route,
        tier=Tier.trivial,
        submitter="admin",
        submitter_role=Role.admin,
        max_fix_attempts=2,
        timeout_s=60,
    )
    sent = m.encode(assign)
    assert not {"cloud_model", "budget_usd", "repo_checks", "resume", "verifies"} & set(msgspec.msgpack.decode(sent))
    assert m.decode_from_hub(sent) == assign
    assign.resume = 3
    assert msgspec.msgpack.decode(m.encode(assign))["resume"] == 3
