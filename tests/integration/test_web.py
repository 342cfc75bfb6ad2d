"""The web process, whole: real gunicorn, real HTTP, a scripted hub behind it. Who may ask, and for what."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.config import HttpSettings
from agentcom.errors import ConfigError
from agentcom.model import Role, Tier
from agentcom_web import server
from tests.fake_hub_web import FakeWebHub, WebProcess, client, eventually, problem_of, task_of, web_beside


@pytest.fixture(scope="module")
def standing_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeWebHub]:
    """For tests whose requests change nothing: one hub and one web process serve them all."""
    hub = FakeWebHub(tmp_path_factory.mktemp("standing") / "home").start()
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def standing(standing_hub: FakeWebHub) -> Iterator[WebProcess]:
    with web_beside(standing_hub) as web:
        eventually(lambda: httpx2.get(f"{web.url}/readyz").status_code == 200)
        yield web


@pytest.fixture
def visitor(standing_hub: FakeWebHub, standing: WebProcess) -> Iterator[httpx2.Client]:
    """An admin at the standing web process."""
    standing_hub.asked.clear()
    standing_hub.answers.clear()
    with client(standing, standing_hub.token(Role.admin)) as visitor:
        yield visitor


# --- tokens -------------------------------------------------------------------------------------------------


READS = ["/api/v1/tasks", "/api/v1/queue", "/api/v1/whoami", "/api/v1/snapshot", "/api/v1/events", "/api/v1/stats",
         "/api/v1/agents", "/api/v1/hosts", "/api/v1/endpoints", "/api/v1/schemas", "/api/v1/openapi.json",
         "/metrics"]  # fmt: skip


def test_without_a_token_only_the_shell_the_trade_and_the_health_words_answer(standing: WebProcess) -> None:
    with client(standing) as stranger:
        for path in ("/", "/static/app.js", "/static/style.css"):
            assert stranger.get(path).status_code == 200
        assert stranger.get("/healthz").text.split() == ["ok"]
        assert stranger.get("/readyz").text.split() == ["ready"]
        problem_of(
            stranger.post("/api/v1/session", json={"secret": "acl_no-such-secret"}), 401, "unauthorised"
        )
        for path in READS:
            problem = problem_of(stranger.get(path), 401, "unauthorised")
            assert "Bearer" in problem["detail"]
        problem_of(stranger.post("/api/v1/tasks", json={"description": "x"}), 401, "unauthorised")


def test_an_unknown_token_is_refused_everywhere(standing: WebProcess) -> None:
    with client(standing, "act_unknown-unknown-unknown") as stranger:
        for path in READS:
            problem_of(stranger.get(path), 401, "unauthorised")


@pytest.mark.parametrize(
    ("role", "status"), [(Role.view, 200), (Role.operate, 200), (Role.admin, 200), (Role.submit, 403)]
)
def test_the_live_view_needs_a_role_that_reads_everything(
    standing_hub: FakeWebHub, standing: WebProcess, role: Role, status: int
) -> None:
    token = standing_hub.token(role)
    with client(standing, token) as person:
        assert person.get("/api/v1/snapshot").status_code == status
        assert person.get("/metrics").status_code == status
        with person.stream("GET", "/api/v1/events") as stream:
            assert stream.status_code == status


def test_the_hub_decides_what_a_role_may_do(standing_hub: FakeWebHub, standing: WebProcess) -> None:
    standing_hub.asked.clear()
    with client(standing, standing_hub.token(Role.view)) as viewer:
        problem_of(viewer.post("/api/v1/tasks", json={"description": "x"}), 403, "forbidden")
    assert [caller.role for op, caller in standing_hub.asked if isinstance(op, m.Submit)] == [Role.view]


def test_a_link_is_traded_once_and_the_hub_sees_only_hashes(
    standing_hub: FakeWebHub, standing: WebProcess
) -> None:
    standing_hub.asked.clear()
    secret = standing_hub.link(Role.operate)
    with client(standing) as page:
        traded = page.post("/api/v1/session", json={"secret": secret})
        assert traded.status_code == 201
        session = traded.json()
        assert session["role"] == "operate"
        assert session["expires"]
        assert session["token"].startswith("acs_")
        assert "set-cookie" not in traded.headers
        own = page.get("/api/v1/whoami", headers={"Authorization": f"Bearer {session['token']}"})
        assert own.json()["role"] == "operate"
        problem_of(page.post("/api/v1/session", json={"secret": secret}), 401, "unauthorised")
    (trade, again) = standing_hub.asked_of(m.LinkTrade)
    assert secret not in repr((trade, again))
    assert session["token"] not in repr(trade)


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
def test_loopback_names_with_our_port_are_ours(standing: WebProcess, name: str) -> None:
    with client(standing) as anyone:
        assert anyone.get("/healthz", headers={"Host": f"{name}:{standing.port}"}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}"],
)
def test_a_request_under_another_name_is_refused(standing: WebProcess, host: str) -> None:
    with client(standing) as anyone:
        for path in ("/healthz", "/", "/static/app.js", "/api/v1/whoami"):
            answer = anyone.get(path, headers={"Host": host.format(port=standing.port)})
            problem_of(answer, 421, "host_refused")


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/x",
    ],
)
def test_a_request_from_another_page_is_refused(
    visitor: httpx2.Client, standing: WebProcess, origin: str
) -> None:
    answer = visitor.get("/api/v1/whoami", headers={"Origin": origin.format(port=standing.port)})
    problem_of(answer, 403, "origin_refused")


def test_our_own_pages_may_ask(visitor: httpx2.Client, standing: WebProcess) -> None:
    assert visitor.get("/api/v1/whoami", headers={"Origin": standing.url}).status_code == 200


def test_a_name_in_allowed_hosts_is_ours(hub: FakeWebHub) -> None:
    with (
        web_beside(
            hub,
            AGENTCOM_HTTP_ALLOWED_HOSTS="hub.example,other.example:8443",
            AGENTCOM_HTTP_BEHIND_PROXY="true",
        ) as web,
        client(web) as anyone,
    ):
        for host in ("hub.example", f"hub.example:{web.port}", "other.example:8443"):
            assert anyone.get("/healthz", headers={"Host": host}).status_code == 200
        assert (
            anyone.get(
                "/healthz", headers={"Host": "hub.example", "Origin": "https://hub.example"}
            ).status_code
            == 200
        )
        problem_of(anyone.get("/healthz", headers={"Host": "other.example"}), 421, "host_refused")


def test_every_answer_carries_the_security_headers(visitor: httpx2.Client) -> None:
    for path in ("/", "/static/app.js", "/api/v1/whoami", "/nowhere", "/healthz"):
        headers = visitor.get(path).headers
        assert headers["content-security-policy"] == "default-src 'self'; frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert visitor.get("/api/v1/whoami").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("bind", ["0.0.0.0", "192.0.2.7", "hub.example", "::"])
def test_beyond_loopback_it_listens_only_with_tls_or_behind_a_proxy(bind: str) -> None:
    with pytest.raises(ConfigError) as refused:
        server.check_exposure(HttpSettings(bind=bind))
    for setting in ("http.tls_cert", "http.tls_key", "http.behind_proxy"):
        assert setting in str(refused.value)
    server.check_exposure(HttpSettings(bind=bind, behind_proxy=True))
    server.check_exposure(HttpSettings(bind=bind, tls_cert="c.pem", tls_key="k.pem"))


def test_a_taken_port_is_refused_with_the_setting_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match=r"http\.port"):
        server.bind(HttpSettings(port=taken.getsockname()[1]))


# --- requests -------------------------------------------------------------------------------------------------


def test_a_submitted_task_is_answered_whole_with_its_place(hub: FakeWebHub, admin: httpx2.Client) -> None:
    given = {
        "description": "Räum auf\n\t„alles“ ",
        "lane": "high",
        "labels": ["a"],
        "files": [{"path": "x.py"}],
    }
    answer = admin.post("/api/v1/tasks", json=given)
    assert answer.status_code == 201
    task = answer.json()
    assert answer.headers["location"] == f"/api/v1/tasks/{task['id']}"
    assert admin.get(answer.headers["location"]).json() == task
    (submitted,) = hub.asked_of(m.Submit)[0].tasks
    assert submitted.description == given["description"]
    assert submitted.idempotency_key


def test_a_batch_is_submitted_as_one(hub: FakeWebHub, admin: httpx2.Client) -> None:
    answer = admin.post("/api/v1/tasks", json={"tasks": [{"description": "one"}, {"description": "two"}]})
    assert answer.status_code == 201
    assert [task["id"] for task in answer.json()["tasks"]] == [1, 2]
    assert [len(op.tasks) for op in hub.asked_of(m.Submit)] == [2]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"description": "x", "lan": "high"}, "lan"),
        ({"description": "x", "lane": "now"}, "lane"),
        ({"description": ""}, "description"),
        ({}, "description"),
        ({"description": "x", "max_retries": 1.5}, "max_retries"),
        ({"description": "x", "checks": [{"kind": "No kind"}]}, "checks"),
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"description": "x"}, {"description": "y", "lane": "now"}]}, "tasks[1].lane"),
        ({"tasks": [{"description": "x"}], "more": 1}, "more"),
    ],
)
def test_a_bad_field_is_refused_by_name_and_nothing_reaches_the_hub(
    standing_hub: FakeWebHub, visitor: httpx2.Client, body: Any, field: str
) -> None:
    problem = problem_of(visitor.post("/api/v1/tasks", json=body), 422, "invalid")
    assert problem["field"].startswith(field)
    assert field in problem["detail"]
    assert standing_hub.asked_of(m.Submit) == []


def test_a_topic_that_there_is_not_is_refused_with_those_that_there_are(
    standing_hub: FakeWebHub, visitor: httpx2.Client
) -> None:
    problem = problem_of(visitor.get("/api/v1/events/history?topic=nonsense"), 422, "invalid")
    assert problem["field"] == "topic"
    assert "it is one of task, agent, host, endpoint, queue, hub" in problem["detail"]
    assert standing_hub.asked_of(m.EventList) == []


@pytest.mark.parametrize(
    "raw", [b"{", b"\xff\xfe", b'{"description": "\\ud800"}', b'{"x": ' + b"[" * 100_000]
)
def test_what_is_not_json_is_malformed(visitor: httpx2.Client, raw: bytes) -> None:
    problem_of(visitor.post("/api/v1/tasks", content=raw), 400, "malformed")


def test_a_body_over_the_limit_is_refused_with_the_limit(visitor: httpx2.Client) -> None:
    problem = problem_of(
        visitor.post("/api/v1/tasks", content=b" " * (limits.REQUEST_BYTES_MAX + 1)), 413, "too_large"
    )
    assert str(limits.REQUEST_BYTES_MAX) in problem["detail"]


def test_unknown_paths_methods_and_queries_are_problems_too(visitor: httpx2.Client) -> None:
    problem_of(visitor.get("/api/v1/nothing"), 404, "not_found")
    problem_of(visitor.get("/api/v1/tasks/77"), 404, "not_found")
    answer = visitor.put("/api/v1/tasks")
    problem_of(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["allow"]
    assert problem_of(visitor.get("/api/v1/tasks?stat=dead"), 422, "invalid")["field"] == "stat"
    assert problem_of(visitor.get("/api/v1/tasks?limit=9999"), 422, "invalid")["field"] == "limit"
    problem_of(visitor.get("/api/v1/tasks?limit=1&limit=2"), 422, "invalid")


def test_a_page_of_tasks_is_asked_for_as_the_query_says(
    standing_hub: FakeWebHub, visitor: httpx2.Client
) -> None:
    query = "?state=ready&lane=high&tier=complex&repo=https://x/y&label=l&cursor=9&limit=7"
    assert visitor.get(f"/api/v1/tasks{query}").json() == {"tasks": [], "next_cursor": None}
    (op,) = standing_hub.asked_of(m.TaskList)
    assert op == m.TaskList(
        state="ready", lane="high", tier="complex", repo="https://x/y", label="l", cursor=9, limit=7
    )  # fmt: skip


FORWARDED: list[tuple[str, str, Any, Any]] = [
    ("GET", "/tasks/3", None, m.TaskGet(task=3)),
    ("DELETE", "/tasks/3", None, m.TaskCancel(task=3)),
    ("DELETE", "/tasks/3", {"reason": "r"}, m.TaskCancel(task=3, reason="r")),
    ("GET", "/tasks/3/why", None, m.TaskWhy(task=3)),
    ("GET", "/tasks/3/reports", None, m.TaskReports(task=3)),
    ("GET", "/tasks/3/story?limit=9", None, m.TaskStory(task=3, limit=9)),
    ("GET", "/tasks/3/log?offset=5&attempt=2", None, m.TaskLog(task=3, attempt=2, offset=5)),
    ("POST", "/tasks/3/retry", None, m.TaskRetry(task=3)),
    ("POST", "/tasks/3/hold", {"reason": "r"}, m.TaskHold(task=3, reason="r")),
    ("POST", "/tasks/3/release", None, m.TaskRelease(task=3)),
    ("POST", "/tasks/3/answer", {"text": "Blue."}, m.TaskAnswer(task=3, text="Blue.")),
    ("GET", "/dead?limit=3", None, m.DeadList(limit=3)),
    ("POST", "/dead/retry", {"tasks": [1, 2]}, m.DeadRetry(tasks=(1, 2))),
    ("POST", "/dead/purge", {"all": True}, m.DeadPurge()),
    ("POST", "/dead/retry", {"state": "expired", "cursor": 9}, m.DeadRetry(state="expired", cursor=9)),
    ("GET", "/dead?state=cancelled&label=a", None, m.DeadList(state="cancelled", label="a")),
    ("GET", "/agents", None, m.AgentList()),
    ("GET", "/hosts/box", None, m.HostShow(host="box")),
    ("POST", "/agents/HMS%20Beagle/cordon", None, m.AgentCordon(agent="HMS Beagle")),
    ("POST", "/agents/Beagle/uncordon", None, m.AgentCordon(agent="Beagle", cordoned=False)),
    ("GET", "/hosts", None, m.HostList()),
    ("POST", "/hosts/orion/drain", None, m.HostDrain(host="orion")),
    ("POST", "/hosts/orion/drain", {"draining": False}, m.HostDrain(host="orion", draining=False)),
    ("POST", "/hosts/orion/accept-key", {"key": "ab" * 32}, m.HostAcceptKey(host="orion", key="ab" * 32)),
    ("DELETE", "/hosts/orion", None, m.HostRemove(host="orion")),
    ("DELETE", "/hosts/orion?now=true", None, m.HostRemove(host="orion", now=True)),
    ("DELETE", "/agents/Beagle", None, m.AgentRemove(agent="Beagle")),
    ("DELETE", "/agents/Beagle?now=true", None, m.AgentRemove(agent="Beagle", now=True)),
    ("GET", "/worktrees?host=box&cursor=3", None, m.WorktreeList(host="box", cursor=3)),
    ("GET", "/endpoints", None, m.EndpointList()),
    ("GET", "/endpoints/gpu", None, m.EndpointShow(endpoint="gpu")),
    ("POST", "/endpoints", {"url": "http://g:1", "cap": 2}, m.EndpointAdd(url="http://g:1", cap=2)),
    ("PATCH", "/endpoints/4", {"cap": 3}, m.EndpointUpdate(endpoint="4", cap=3)),
    ("DELETE", "/endpoints/4", None, m.EndpointRemove(endpoint="4")),
    ("DELETE", "/endpoints/4?now=true", None, m.EndpointRemove(endpoint="4", now=True)),
    ("POST", "/endpoints/4/probe", None, m.EndpointProbeNow(endpoint="4")),
    ("GET", "/repos", None, m.RepoList()),
    ("POST", "/repos", {"name": "a", "url": "https://g/a"}, m.RepoAdd(name="a", url="https://g/a")),
    ("GET", "/repos/a", None, m.RepoShow(repo="a")),
    ("PATCH", "/repos/a", {"default_branch": "x"}, m.RepoUpdate(repo="a", default_branch="x")),
    ("DELETE", "/repos/a?force=true", None, m.RepoRemove(repo="a", force=True)),
    ("GET", "/queue", None, m.QueueStats()),
    ("POST", "/queue/pause", None, m.QueuePause()),
    ("POST", "/queue/resume", None, m.QueuePause(paused=False)),
    ("POST", "/queue/pause", {"tier": "complex"}, m.QueuePause(tier=Tier.complex)),
    ("POST", "/queue/resume", {"host": "orion"}, m.QueuePause(paused=False, host="orion")),
    ("GET", "/queue/rules", None, m.QueueRules()),
    ("PUT", "/queue/limits", {"key": "label:deploy", "number": 2}, m.QueueLimit(key="label:deploy", number=2)),
    ("PUT", "/queue/limits", {"key": "label:deploy", "number": None}, m.QueueLimit(key="label:deploy")),
    ("PUT", "/queue/weights", {"key": "repo:x", "number": 3}, m.QueueWeight(key="repo:x", number=3)),
    ("GET", "/budgets", None, m.BudgetList()),
    ("PUT", "/budgets", {"key": "all", "usd": 5}, m.BudgetSet(key="all", usd=5)),
    ("PUT", "/budgets", {"key": "all", "usd": None}, m.BudgetSet(key="all", usd=None)),
    ("GET", "/events/history?topic=host&limit=9", None, m.EventList(topic="host", limit=9)),
    ("GET", "/backups", None, m.BackupList()),
    ("POST", "/backups", None, m.BackupNow()),
    ("POST", "/backups/backup-1.mdb/verify", None, m.BackupVerify(backup="backup-1.mdb")),
    ("POST", "/store/compact", None, m.Compact()),
    ("POST", "/store/acknowledge", None, m.StoreAcknowledge()),
    ("GET", "/backups", None, m.BackupList()),
    ("POST", "/backups", None, m.BackupNow()),
    ("POST", "/backups/backup-1.mdb/verify", None, m.BackupVerify(backup="backup-1.mdb")),
    ("POST", "/store/compact", None, m.Compact()),
    ("POST", "/store/acknowledge", None, m.StoreAcknowledge()),
    ("GET", "/config?name=queue", None, m.ConfigGet(name="queue")),
    (
        "PATCH",
        "/config",
        {"set": {"queue.lease_s": 60}, "unset": ["queue.park_s"]},
        m.ConfigChange(set={"queue.lease_s": 60}, unset=("queue.park_s",)),
    ),
    ("GET", "/whoami", None, m.Whoami()),
]  # fmt: skip


def test_each_path_asks_the_hub_for_its_operation_with_the_callers_token(
    standing_hub: FakeWebHub, visitor: httpx2.Client
) -> None:
    for op in {type(op) for *_, op in FORWARDED}:
        standing_hub.answers[op.__struct_config__.tag] = lambda _op, _caller: {"done": True}
    for method, path, body, wanted in FORWARDED:
        standing_hub.asked.clear()
        answer = visitor.request(method, f"/api/v1{path}", json=body)
        assert answer.is_success, (path, answer.text)
        assert answer.json() == {"done": True}
        (asked, caller) = next((op, by) for op, by in standing_hub.asked if type(op) is type(wanted))
        assert asked == wanted
        assert caller.role is Role.admin


@pytest.mark.parametrize("body", [None, {}, {"tasks": []}, {"tasks": [1], "all": True}, {"all": "yes"}])
def test_all_dead_tasks_are_meant_only_when_the_body_says_so(
    standing_hub: FakeWebHub, visitor: httpx2.Client, body: Any
) -> None:
    problem_of(visitor.post("/api/v1/dead/purge", json=body), 422, "invalid")
    assert standing_hub.asked_of(m.DeadPurge) == []


@pytest.mark.parametrize(("path", "op"), [("limits", m.QueueLimit), ("weights", m.QueueWeight)])
def test_a_forgotten_number_takes_no_limit_and_no_weight_back(
    standing_hub: FakeWebHub, visitor: httpx2.Client, path: str, op: Any
) -> None:
    answer = visitor.put(f"/api/v1/queue/{path}", json={"key": "repo:x"})
    assert problem_of(answer, 422, "invalid")["field"] == "number"
    assert standing_hub.asked_of(op) == []


def test_a_malformed_signing_key_is_told_in_words_what_one_looks_like(
    standing_hub: FakeWebHub, visitor: httpx2.Client
) -> None:
    problem = problem_of(visitor.post("/api/v1/hosts/orion/accept-key", json={"key": "3475:0f98"}), 422, "invalid")
    assert problem["detail"] == "key: a signing key has 64 hex digits (0-9, a-f), more than its fingerprint"
    assert standing_hub.asked_of(m.HostAcceptKey) == []


@pytest.mark.parametrize(
    ("code", "status"),
    [("not_found", 404), ("forbidden", 403), ("invalid", 422), ("command_required", 422), ("wrong_state", 409),
     ("too_large", 413), ("storage_full", 507), ("store_damaged", 500)],
)  # fmt: skip
def test_a_refusal_of_the_hub_keeps_its_code(
    standing_hub: FakeWebHub, visitor: httpx2.Client, code: str, status: int
) -> None:
    def refuse(_op: Any, _caller: Any) -> Any:
        raise m.Refused(code, "because", field="task")

    standing_hub.answers["task_retry"] = refuse
    problem = problem_of(visitor.post("/api/v1/tasks/1/retry"), status, code)
    assert (problem["detail"], problem["field"]) == ("because", "task")


def test_a_refusal_of_a_single_task_names_its_field_as_it_was_given(
    standing_hub: FakeWebHub, visitor: httpx2.Client
) -> None:
    def refuse(_op: Any, _caller: Any) -> Any:
        raise m.Refused("command_required", "tasks[0].command: is missing", field="tasks[0].command")

    standing_hub.answers["submit"] = refuse
    problem = problem_of(visitor.post("/api/v1/tasks", json={"description": "x"}), 422, "command_required")
    assert (problem["field"], problem["detail"]) == ("command", "command: is missing")
    batch = visitor.post("/api/v1/tasks", json={"tasks": [{"description": "x"}]})
    assert problem_of(batch, 422, "command_required")["field"] == "tasks[0].command"


@pytest.mark.parametrize(("code", "status"), [("rate", 429), ("busy", 503)])
def test_a_refusal_that_passes_says_when_to_come_back(
    standing_hub: FakeWebHub, visitor: httpx2.Client, code: str, status: int
) -> None:
    def refuse(_op: Any, _caller: Any) -> Any:
        raise m.Refused(code, "later", retry_after_s=6.2)

    standing_hub.answers["queue_stats"] = refuse
    answer = visitor.get("/api/v1/queue")
    problem_of(answer, status, code)
    assert answer.headers["retry-after"] == "7"


def test_openapi_describes_exactly_the_paths_that_answer(visitor: httpx2.Client) -> None:
    document = visitor.get("/api/v1/openapi.json").json()
    described = {(method.upper(), path) for path, ways in document["paths"].items() for method in ways}
    forwarded = {(method, "/api/v1" + path.split("?")[0]) for method, path, *_ in FORWARDED}
    for method, path in forwarded:
        assert any(method == known and _fits(path, shape) for known, shape in described), (method, path)
    assert {("GET", "/healthz"), ("GET", "/metrics"), ("GET", "/api/v1/events")} <= described
    references = [r.split("/")[-1] for r in _references(document)]
    assert references
    assert set(references) <= set(document["components"]["schemas"])


def _fits(path: str, shape: str) -> bool:
    parts, wanted = path.split("/"), shape.split("/")
    return len(parts) == len(wanted) and all(
        w == p or w.startswith("{") for p, w in zip(parts, wanted, strict=True)
    )


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_metrics_tell_tasks_agents_hosts_and_endpoints(hub: FakeWebHub, admin: httpx2.Client) -> None:
    hub.put_task(task_of(1, m.TaskSpec(description="one")))
    hub.put_agent({"name": "Beagle", "state": "idle"})
    wanted = {'agentcom_tasks{state="ready"} 1', 'agentcom_agents{state="idle"} 1', "agentcom_hub_up 1",
              'agentcom_endpoints{healthy="true"} 0', "agentcom_web_streams 0"}  # fmt: skip
    eventually(lambda: wanted <= set(admin.get("/metrics").text.splitlines()))
