"""The page in a real browser (Chromium from the system's packages), over a real web process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Page, expect

from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.model import Role, TaskSpec
from tests.browser.conftest import PATIENCE_MS
from tests.fake_hub_web import FakeWebHub, WebProcess, task_of, web_beside

pytestmark = pytest.mark.browser
GIB = 2**30


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeWebHub]:
    hub = FakeWebHub(tmp_path / "home").start()
    yield hub
    hub.stop()


@pytest.fixture
def web(hub: FakeWebHub) -> Iterator[WebProcess]:
    with web_beside(hub) as web:
        yield web


def signed_in(page: Page, web: WebProcess, hub: FakeWebHub, role: Role = Role.admin) -> None:
    hub.show_everything()
    page.goto(f"{web.url}/#link={hub.link(role)}")
    expect(page.locator("#connection")).to_have_text("live", timeout=PATIENCE_MS)


def routed(task: dict[str, Any], agent: str = "Beagle", model: str = "qwen2.5-coder:7b") -> dict[str, Any]:
    """`task`, working on an agent."""
    route = {
        "strategy": "local_llm", "backend": "ollama", "agent": agent, "host": "orion", "model": model,
        "endpoint": "ollama-1", "reason": "warm model on an idle agent", "tier": "standard",
        "score": {"agent": agent, "host": "orion", "cost_us": 4_200_000},
        "others": [{"agent": "Calypso", "host": "lyra", "endpoint": "ollama-2", "cost_us": 19_800_000}],
    }  # fmt: skip
    return {
        **task,
        "state": "working",
        "attempt": 1,
        "route": route,
        "assigned_at": "2026-01-01T00:00:05.000Z",
    }


def completed(task: dict[str, Any], status: str = "verified") -> dict[str, Any]:
    """`task`, done, with a failing first round and a second one that passes."""
    checks = [
        {"kind": "test_passes", "target": "pytest -q", "status": "fail", "output": "1 failed, 11 passed",
         "duration_ms": 4100},
        {"kind": "git_clean", "target": "", "status": "pass", "output": "", "duration_ms": 20},
    ]  # fmt: skip
    passing = deepcopy(checks)
    passing[0].update(status="pass", output="12 passed")
    result = {
        "status": status, "output": "The parser keeps empty lines now.", "backend": "ollama",
        "model": "qwen2.5-coder:7b", "tokens_in": 18_204, "tokens_out": 2_113, "cost_usd": 0.0,
        "duration_ms": 74_300, "sandbox": "bubblewrap", "commit": "4f1c0de9a7b3", "branch": "agentcom/2/1-parser",
        "pull_request": None, "warnings": [],
        "iterations": [{"n": 1, "status": "fail", "checks": checks}, {"n": 2, "status": "pass", "checks": passing}],
    }  # fmt: skip
    return {**routed(task), "state": "completed", "result": result, "finished_at": "2026-01-01T00:01:19.000Z"}


def furnish(hub: FakeWebHub) -> None:
    """A small fleet and a queue with something in most states."""

    def agent(name: str, host: str, state: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name, "host": host, "state": state, "since": None, "task": None, "attempt": None,
            "backends": ["shell", "ollama"], "capabilities": [], "cordoned": False, "draining": False,
            "unresponsive": False, "completed_count": 12, "failed_count": 0, **more,
        }  # fmt: skip

    hub.agents = [
        agent("Beagle", "orion", "working", task=7, attempt=1),
        agent("Calypso", "orion", "idle", failed_count=1),
        agent("Endurance", "lyra", "offline", completed_count=3),
    ]
    figures = {
        "cpu_percent": 37.2, "logical_cpus": 16, "ram_total_bytes": 64 * GIB, "ram_available_bytes": 41 * GIB,
        "gpus": [{"name": "RTX 4090", "utilisation_percent": 93.0, "vram_total_bytes": 24 * GIB,
                  "vram_used_bytes": 22.4 * GIB}],
    }  # fmt: skip
    hub.hosts = [
        {"name": "orion", "state": "online", "last_seen": None, "agents": ["Beagle", "Calypso"], "capabilities": [],
         "resources": figures, "resources_age_s": 1.0, "draining": False, "sandbox": "bubblewrap", "software": ""},
        {"name": "lyra", "state": "offline", "last_seen": "2026-01-01T00:00:00.000Z", "agents": ["Endurance"],
         "capabilities": [], "resources": None, "resources_age_s": None, "draining": False, "sandbox": "",
         "software": ""},
    ]  # fmt: skip
    hub.endpoints = [
        {"id": 1, "name": "ollama-1", "kind": "ollama", "url": "http://127.0.0.1:11434", "seen_from": "host",
         "host": "orion", "healthy": True, "reason": "", "since": None, "checked": None, "version": "0.9", "cap": 1,
         "num_ctx": None, "in_flight": {"qwen2.5-coder:7b": 1},
         "models": [{"name": "qwen2.5-coder:7b", "warm": True}, {"name": "llama3.1:8b", "warm": False}]},
        {"id": 2, "name": "gpu-box", "kind": "ollama", "url": "http://10.0.0.7:11434", "seen_from": "hub", "host": None,
         "healthy": False, "reason": "connection refused", "since": None, "checked": None, "version": "", "cap": 1,
         "num_ctx": None, "in_flight": {}, "models": []},
    ]  # fmt: skip
    lines = [
        ("List the files of the release archive", {}),
        (
            "Fix the parser: empty lines inside a block are dropped when the block is the last one of its file",
            {},
        ),
        ("Write a changelog entry for the new queue settings", {"lane": "low"}),
        ("Upgrade the client to the new token format and remove the old one", {"tier": "complex"}),
        ("Translate the error messages of the importer", {"lane": "high"}),
        ("Why does the nightly job take twice as long since Tuesday?", {"lane": "urgent", "tier": "complex"}),
        ("Add a test for the retry limit", {"repo": "https://git.example/team/importer.git"}),
    ]
    specs = [msgspec.convert({"description": text, **more}, TaskSpec) for text, more in lines]
    tasks = [task_of(n, spec) for n, spec in enumerate(specs, 1)]
    tasks[0] = completed(tasks[0], "skipped")
    tasks[1] = completed(tasks[1])
    tasks[2] = completed(tasks[2], "partial_pass")
    tasks[3] = {
        **tasks[3],
        "state": "dead",
        "error": {
            "class": "task_error",
            "code": "exit_1",
            "message": "three attempts failed; the last: exit 1",
        },
    }
    tasks[4] = {**tasks[4], "state": "cancelled"}
    tasks[6] = routed(tasks[6])
    tasks[6]["log"] = (
        "reading tests/test_retry.py\nwriting tests/test_retry.py\n$ pytest -q tests/test_retry.py\n"
    )
    hub.tasks = {task["id"]: task for task in tasks}


# --- signing in ---------------------------------------------------------------------------------------------


def test_a_link_signs_in_and_leaves_the_address(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    signed_in(page, web, hub)
    assert "#" not in page.url
    expect(page.locator("#who-name")).to_contain_text("admin")
    assert page.context.cookies() == []
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")


def test_without_a_token_the_page_asks_for_one(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    page.goto(web.url)
    field = page.get_by_label("Token")
    expect(field).to_be_focused()
    field.fill("act_wrong-wrong-wrong-wrong")
    field.press("Enter")
    expect(page.locator("#gate-note")).to_contain_text("not known")
    field.fill(hub.token(Role.view))
    field.press("Enter")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#pause")).to_be_hidden()


def test_a_used_link_says_so(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    page.goto(f"{web.url}/#link=acl_used-used-used-used-used")
    expect(page.locator("#gate-note")).to_contain_text("used before")


def test_a_revoked_session_is_signed_out(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    signed_in(page, web, hub)
    hub.page_tokens.clear()
    expect(page.get_by_label("Token")).to_be_visible()


# --- tasks --------------------------------------------------------------------------------------------------


def test_a_task_that_completes_meanwhile_is_shown_without_a_reload(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    signed_in(page, web, hub)
    page.evaluate("window.notReloaded = true")
    expect(page.locator("#tasks-empty")).to_contain_text("agentcom submit")
    task = task_of(1, TaskSpec(description="Fix the parser"))
    hub.put_task(task)
    row = page.locator("#task-rows tr")
    expect(row).to_contain_text("Fix the parser")
    expect(row).to_contain_text("ready")
    hub.put_task(routed(task))
    expect(row).to_contain_text("working")
    expect(row).to_contain_text("Beagle")
    hub.put_task(completed(task))
    expect(row).to_contain_text("verified")
    expect(page.get_by_role("button", name="1 completed")).to_be_visible()
    assert page.evaluate("window.notReloaded")


def test_what_has_happened_is_told_newest_first(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    at = "2026-01-01T00:00:00.000Z"
    hub.events = [{"number": 1, "at": at, "topic": "host", "event": "host_online", "name": "orion"}]
    signed_in(page, web, hub)
    rows = page.locator("#events li")
    expect(rows).to_have_count(1)
    changed = {"name": "queue.lease_s", "was": 45, "value": 60, "by": "ann"}
    hub.publish("hub", {"event": "setting_changed", "number": 2, **changed})
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("setting changed queue.lease_s")
    expect(rows.first).to_contain_text("45 → 60, by ann")
    expect(rows.last).to_contain_text("host online orion")


@pytest.mark.parametrize("status", ["partial_pass", "unchecked", "skipped", "no_change", "already_done"])
def test_only_verified_is_shown_as_verified(
    page: Page, web: WebProcess, hub: FakeWebHub, status: str
) -> None:
    hub.tasks[1] = completed(task_of(1, TaskSpec(description="Fix the parser")), status)
    signed_in(page, web, hub)
    row = page.locator("#task-rows tr")
    expect(row).to_contain_text(status.replace("_", " "))
    expect(row).not_to_contain_text("verified")


def test_a_task_whose_result_has_gone_still_tells_its_status(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    task = completed(task_of(1, TaskSpec(description="Fix the parser")))
    hub.tasks[1] = {**task, "result": None, "status": "unchecked"}
    signed_in(page, web, hub)
    page.locator("#task-rows .what").click()
    expect(page.locator("#pane")).to_contain_text("retention.reports_s, retention.reports_max")
    expect(page.locator("#pane-title")).to_contain_text("unchecked")
    page.get_by_role("button", name="1 completed").click()
    expect(page.locator("#task-rows tr")).to_contain_text("unchecked")


def test_ages_go_by_the_clock_of_the_hub_and_not_of_the_browser(page: Page, hub: FakeWebHub) -> None:
    hub.ahead_s = 7_200.0
    created = rfc3339(int((time.time() + 7_200 - 600) * 1000))
    hub.tasks[1] = {**task_of(1, TaskSpec(description="Fix the parser")), "created_at": created}
    with web_beside(hub) as web:
        signed_in(page, web, hub)
        expect(page.locator("#task-rows time")).to_have_text("10 min")


def test_a_task_whose_story_was_shortened_says_so(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    cut = {"at": "2026-05-01T10:00:00Z", "by": "retention.stories_max"}
    hub.tasks[1] = {**task_of(1, TaskSpec(description="Fix the parser")), "story_shortened": cut}
    signed_in(page, web, hub)
    page.locator("#task-rows .what").click()
    expect(page.locator("#pane")).to_contain_text("shortened by retention.stories_max")


def test_what_a_task_says_is_text_and_never_markup(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    text = '<img src=x onerror="window.broken = true"><b>bold</b>'
    hub.tasks[1] = task_of(1, TaskSpec(description=text))
    signed_in(page, web, hub)
    expect(page.locator("#task-rows .title")).to_have_text(text)
    page.locator("#task-rows .what").click()
    expect(page.locator(".description")).to_have_text(text)
    assert page.evaluate("window.broken") is None


def test_the_keyboard_opens_a_task_reads_it_and_goes_back(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    furnish(hub)
    signed_in(page, web, hub)
    opener = page.locator("#task-rows tr", has_text="Fix the parser").get_by_role("button")
    opener.focus()
    page.keyboard.press("Enter")
    pane = page.locator("#pane")
    expect(pane).to_contain_text("warm model on an idle agent")
    expect(pane).to_contain_text("Iteration 1")
    expect(pane).to_contain_text("1 failed, 11 passed")
    expect(pane).to_contain_text("The parser keeps empty lines now.")
    page.keyboard.press("Escape")
    expect(pane).to_be_hidden()
    expect(opener).to_be_focused()


def test_a_waiting_task_says_why_and_what_would_help(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    furnish(hub)
    signed_in(page, web, hub)
    page.locator("#task-rows tr", has_text="nightly job").click()
    expect(page.locator("#pane")).to_contain_text("ollama pull qwen2.5-coder:32b")


def test_a_task_that_waits_for_a_time_shows_when_that_is(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    later, retried = (task_of(n, TaskSpec(description=f"Wait {n}")) for n in (1, 2))
    hub.tasks[1] = {**later, "state": "delayed", "not_before": "2031-05-06T12:00:00.000Z"}
    hub.tasks[2] = {**retried, "state": "delayed", "retry_at": "2032-05-06T12:00:00.000Z"}
    signed_in(page, web, hub)
    for number, label, year in ((1, "Not before", "2031"), (2, "Tried again", "2032")):
        page.locator("#task-rows tr", has_text=f"Wait {number}").click()
        fact = page.locator("#pane .facts div", has=page.locator("dt", has_text=label))
        expect(fact.locator("dd")).to_contain_text(year)


def test_a_running_task_shows_its_log_as_it_grows(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    furnish(hub)
    signed_in(page, web, hub)
    page.locator("#task-rows tr", has_text="retry limit").click()
    log = page.locator("#pane .log pre")
    expect(log).to_contain_text("reading tests/test_retry.py")
    hub.tasks[7]["log"] += "3 passed\n"
    expect(log).to_contain_text("3 passed")
    expect(log).to_contain_text("reading tests/test_retry.py")


def test_cancelling_asks_once_more(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    furnish(hub)
    signed_in(page, web, hub)
    page.locator("#task-rows tr", has_text="nightly job").click()
    page.get_by_role("button", name="Cancel task 6").click()
    assert hub.asked_of(m.TaskCancel) == []
    page.get_by_role("button", name="press again").click()
    expect(page.locator("#pane-title")).to_contain_text("cancelled")
    assert hub.asked_of(m.TaskCancel) == [m.TaskCancel(task=6)]


# --- the fleet ----------------------------------------------------------------------------------------------


def test_hosts_show_their_load_and_endpoints_their_models(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    furnish(hub)
    signed_in(page, web, hub)
    orion = page.locator("#hosts li", has_text="orion")
    expect(orion.get_by_role("meter", name="CPU")).to_have_attribute("aria-valuenow", "37")
    expect(orion.get_by_role("meter", name="VRAM")).to_have_attribute("aria-valuenow", "93")
    first = page.locator("#endpoints > li", has_text="ollama-1")
    expect(first).to_contain_text("qwen2.5-coder:7b, warm")
    expect(first).to_contain_text("llama3.1:8b")
    expect(page.locator("#endpoints > li", has_text="gpu-box")).to_contain_text("connection refused")


def test_an_endpoint_is_added_and_removed(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    signed_in(page, web, hub)
    page.get_by_text("Add an endpoint").click()
    page.get_by_label("Address").fill("http://gpu-box:11434")
    page.get_by_role("button", name="Add", exact=True).click()
    row = page.locator("#endpoints > li")
    expect(row).to_contain_text("http://gpu-box:11434")
    row.get_by_role("button", name="Remove").click()
    row.get_by_role("button", name="press again").click()
    expect(row).to_have_count(0)


def test_a_table_that_is_drawn_anew_between_two_presses_asks_on(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    signed_in(page, web, hub)
    page.get_by_text("Add an endpoint").click()
    page.get_by_label("Address").fill("http://gpu-box:11434")
    page.get_by_role("button", name="Add", exact=True).click()
    row = page.locator("#endpoints > li")
    row.get_by_role("button", name="Remove").click()
    pressed = row.get_by_role("button", name="press again")
    pressed.evaluate("button => button.classList.add('before')")
    endpoint = {**hub.endpoints[0], "reason": "gone"}
    hub.publish("endpoint", {"event": "endpoint_changed", "endpoint": endpoint})
    expect(row.locator(".before")).to_have_count(0)
    expect(pressed).to_have_text("Really remove?")


def test_what_is_paused_by_itself_stands_in_the_queues_line(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    hub.pauses = ["host:orion", "tier:complex"]
    signed_in(page, web, hub)
    expect(page.locator("#paused")).to_have_text(
        "Paused: host:orion, tier:complex. Their tasks wait, the others go on."
    )
    page.get_by_role("button", name="Pause dispatch").click()
    expect(page.locator("#paused")).to_contain_text("Dispatch is paused")


def test_a_degraded_hub_says_why_in_a_banner(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    hub.troubles = ["batches 3 to 5 are not in the store: <b>gone</b>"]
    signed_in(page, web, hub)
    banner = page.get_by_role("alert")
    expect(banner).to_contain_text("The hub is degraded.")
    expect(banner).to_contain_text("batches 3 to 5 are not in the store: <b>gone</b>")


def test_no_banner_stands_over_a_sound_hub(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    signed_in(page, web, hub)
    expect(page.locator("#degraded")).to_be_hidden()


def test_the_queue_is_paused_and_resumed(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    signed_in(page, web, hub)
    page.get_by_role("button", name="Pause dispatch").click()
    expect(page.locator("#paused")).to_be_visible()
    page.get_by_role("button", name="Resume dispatch").click()
    expect(page.locator("#paused")).to_be_hidden()


def test_one_odd_value_does_not_take_the_page_with_it(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    furnish(hub)
    hub.hosts[0]["resources"]["gpus"] = None
    hub.hosts[0]["resources"]["cpu_percent"] = "many"
    hub.endpoints[0]["models"] = None
    signed_in(page, web, hub)
    expect(page.locator("#hosts li")).to_have_count(2)
    expect(page.locator("#endpoints > li")).to_have_count(2)
    expect(page.locator("#task-rows tr")).to_have_count(7)


# --- the connection -----------------------------------------------------------------------------------------


def test_the_page_says_that_the_hub_is_away_and_comes_back(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    signed_in(page, web, hub)
    hub.stop()
    expect(page.locator("#connection")).to_contain_text("hub is away")
    hub.tasks[1] = task_of(1, TaskSpec(description="Of the time after"))
    hub.start()
    expect(page.locator("#connection")).to_have_text("live", timeout=PATIENCE_MS)
    expect(page.locator("#task-rows")).to_contain_text("Of the time after")


def test_a_narrow_screen_needs_no_sideways_scrolling(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    furnish(hub)
    page.set_viewport_size({"width": 360, "height": 740})
    signed_in(page, web, hub)
    expect(page.locator("#task-rows tr")).to_have_count(7)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#task-rows tr", has_text="Fix the parser").click()
    expect(page.locator("#pane")).to_contain_text("Iteration 1")
    assert page.evaluate("document.getElementById('pane').scrollWidth") <= 360


# --- hosts ------------------------------------------------------------------------------------------------------


def test_a_host_has_a_line_of_its_last_minutes_with_gaps_where_nothing_was_known(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    furnish(hub)
    hub.hosts[0]["trend"] = {"cpu": [10, 50, None, 90, 20], "gpu": [None, None]}
    signed_in(page, web, hub)
    row = page.locator("#hosts > li").first
    line = row.get_by_role("img")
    expect(line).to_have_count(1)
    expect(line).to_have_attribute("aria-label", "CPU over the last minutes, between 10 and 90 percent")
    assert (line.locator("path").get_attribute("d") or "").count("M") == 2


def test_figures_that_are_too_old_are_said_to_be_unknown_with_their_age(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    furnish(hub)
    hub.hosts[0] |= {"resources": None, "resources_age_s": 40.0, "trend": {"cpu": [1, 2, 3]}}
    signed_in(page, web, hub)
    row = page.locator("#hosts > li").first
    expect(row).to_contain_text("no current figures, the last are 40.0 s old")
    expect(row.get_by_role("meter")).to_have_count(0)
    expect(row.get_by_role("img")).to_have_count(0)


def test_vram_that_is_known_by_loaded_models_only_is_shown_without_a_bar(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    furnish(hub)
    hub.hosts[0]["resources"]["gpus"] = []
    hub.hosts[0]["vram"] = {"used_bytes": 5 * GIB, "total_bytes": None, "source": "api_ps"}
    signed_in(page, web, hub)
    meter = page.locator("#hosts > li").first.get_by_role("meter", name="VRAM")
    expect(meter).to_have_attribute("aria-valuetext", "5.0 GiB by models")
    assert meter.get_attribute("aria-valuenow") is None


def test_repositories_and_worktrees_stand_in_tables_with_what_is_nowhere_else(
    page: Page, web: WebProcess, hub: FakeWebHub
) -> None:
    def tree(task: int, **fields: Any) -> dict[str, Any]:
        given = {
            "name": f"{task}-1", "task": task, "host": "vega", "branch": f"agentcom/{task}/1-x", "ahead": 2,
            "behind": 1, "files_changed": 3, "insertions": 9, "deletions": 4, "uncommitted": 0, "unpushed": 0,
            "merged": False, "in_use": False, "removable": True, "why": "pushed", "age_s": 60, "looked_s": 5,
        }  # fmt: skip
        return {**given, **fields}

    hosts = [{"host": "vega", "state": "online", "worktrees": 2, "left_out": 4, "age_s": 5}]
    only = tree(7, uncommitted=1, unpushed=2, removable=False)
    hub.answers["worktree_list"] = lambda _op, _caller: {
        "worktrees": [tree(8), only], "hosts": hosts, "next_cursor": None,
    }  # fmt: skip
    repo = {
        "id": 1, "name": "engine", "url": "https://git.example/engine", "default_branch": "trunk", "hosts": ["vega"],
        "checks": [{"kind": "git_clean"}], "live_tasks": 2,
    }  # fmt: skip
    hub.answers["repo_list"] = lambda _op, _caller: {"repos": [repo]}
    signed_in(page, web, hub)
    expect(page.locator("#repo-rows tr")).to_have_text(["enginehttps://git.example/enginetrunkvega12"])
    expect(page.locator("#worktree-rows tr")).to_have_text([
        "7agentcom/7/1-xvegaseen 5.0 s ago+2 -13 files +9 -41 uncommitted, 2 unpushed",
        "8agentcom/8/1-xvegaseen 5.0 s ago+2 -13 files +9 -4",
    ])
    expect(page.locator("#worktrees-note")).to_have_text("2, 1 with work that is nowhere else, 4 more not shown")


def test_budgets_stand_in_a_table_with_what_they_hold(page: Page, web: WebProcess, hub: FakeWebHub) -> None:
    def of(key: str, per: str, *amounts: float, held: int = 0) -> dict[str, Any]:
        usd, spent, reserved, left = amounts
        return {"key": key, "per": per, "usd": usd, "spent_usd": spent, "reserved_usd": reserved, "left_usd": left,
                "held": held}  # fmt: skip

    found: dict[str, Any] = {
        "budgets": [], "attempt_usd": 2.0, "counted_usd": {"day": 0.0, "month": 0.0, "ever": 0.0}, "held": 0,
    }  # fmt: skip
    hub.answers["budget_list"] = lambda _op, _caller: found
    signed_in(page, web, hub)
    expect(page.locator("#budgets-section")).to_be_hidden()
    found.update(
        budgets=[of("all", "day", 20, 5, 4, 11), of("submitter:ci", "ever", 5, 4, 0, 1, held=3)],
        counted_usd={"day": 9.0, "month": 9.0, "ever": 9.0},
        held=3,
    )
    hub.publish("queue", {"event": "budget_set", "number": 7, "key": "all", "usd": 20, "per": "day", "by": "admin"})
    rows = page.locator("#budget-rows tr")
    expect(rows).to_have_text(["all per day20.005.004.0011.00", "submitter:ci everreached5.004.000.001.003"])
    expect(page.locator("#budgets-note")).to_have_text("9.00 USD today, 9.00 this month, 3 held")
