"""The dashboard of a real `agentcom up`: the link that it prints, and a task that completes while one looks on."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect

from tests.standins.gpu import GIB, StandInGpu
from tests.world import World, eventually

pytestmark = pytest.mark.browser


def test_the_page_shows_a_task_that_completes_meanwhile_without_a_reload(page: Page, world: World) -> None:
    up = world.start("home", "up", "--json", "--http", "127.0.0.1:0", "--hub-port", "0")
    link = world.json("home", "token", "link")["link"]
    page.goto(link)
    expect(page.locator("#connection")).to_have_text("live", timeout=15_000)
    assert "acl_" not in page.url, "the one-time secret leaves the address bar"
    page.evaluate("window.notReloaded = true")
    gate = world.folder / "gate"
    headers = {"Authorization": f"Bearer {Path(up.ready['token_file']).read_text().strip()}"}
    command = f"until [ -e {gate} ]; do sleep 0.1; done; echo done > out.txt"
    fields = {
        "description": "watched by a browser",
        "command": command,
        "checks": [{"kind": "file_exists", "target": "out.txt"}],
    }
    made = httpx2.post(f"{up.ready['http']}/api/v1/tasks", json=fields, headers=headers, trust_env=False)
    assert made.status_code == 201
    row = page.locator("tr", has_text="watched by a browser")
    expect(row).to_contain_text("working", timeout=15_000)

    gate.touch()

    expect(row).to_contain_text(re.compile("verified"), timeout=15_000)
    assert page.evaluate("window.notReloaded") is True
    client = world.client("home")
    eventually("the hub says the same", lambda: client.task_get(made.json()["id"])["state"] == "completed")


def test_removing_all_says_which_tasks_were_kept_for_others_that_wait_for_them(page: Page, world: World) -> None:
    world.start("home", "up", "--json", "--http", "127.0.0.1:0", "--hub-port", "0")
    client = world.client("home")
    client.queue_pause()
    alone, wanted = (client.submit(description=name, command="true")["id"] for name in ("alone", "wanted"))
    client.submit(description="waits", command="true", depends_on=[wanted])
    for task in (alone, wanted):
        client.task_cancel(task)
    page.goto(world.json("home", "token", "link")["link"])
    page.get_by_role("button", name=re.compile("cancelled")).first.click()
    for name in ("Remove all cancelled", "Remove all cancelled for good?"):
        page.get_by_role("button", name=name, exact=True).click()
    expect(page.get_by_text(f"Kept, since other tasks wait for them: {wanted}.")).to_be_visible(timeout=15_000)
    assert [one["id"] for one in client.task_list(state="cancelled")["tasks"]] == [wanted]


def test_a_link_works_once(page: Page, world: World) -> None:
    world.start("home", "up", "--json", "--http", "127.0.0.1:0", "--hub-port", "0")
    link = world.json("home", "token", "link")["link"]
    page.goto(link)
    expect(page.locator("#connection")).to_have_text("live", timeout=15_000)
    page.evaluate("sessionStorage.clear()")
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("form").first).to_be_visible(timeout=15_000)
    expect(page.locator("#connection")).not_to_have_text("live")


def test_phase_18_4_the_page_shows_the_resources_that_each_sidecar_reports(page: Page, world: World) -> None:
    each_second = {"AGENTCOM_SIDECAR_RESOURCES_S": "1", "AGENTCOM_QUEUE_HEARTBEAT_S": "1"}
    gpu = StandInGpu(world.folder / "gpu")
    world.start("home", "up", "--json", "--http", "127.0.0.1:0", "--hub-port", "0", **each_second)
    world.join("gpu-box", hub="home")
    sidecar = world.sidecar("gpu-box", **each_second, **gpu.environment)
    page.goto(world.json("home", "token", "link")["link"])
    hosts = page.locator("#hosts > li")
    expect(hosts).to_have_count(2, timeout=15_000)
    box = hosts.filter(has_text="gpu-box")
    other = hosts.filter(has_not_text="gpu-box")

    for row in (box, other):
        for name in ("CPU", "RAM"):
            expect(row.get_by_role("meter", name=name, exact=True)).to_be_visible(timeout=15_000)
        expect(row.get_by_role("img", name=re.compile("CPU over the last minutes"))).to_be_visible(timeout=30_000)
    expect(box.get_by_role("meter", name="GPU", exact=True)).to_have_attribute("aria-valuenow", "40", timeout=15_000)
    expect(box.get_by_role("meter", name="VRAM")).to_have_attribute("aria-valuetext", "6.0 / 24 GiB")
    expect(other.get_by_role("meter", name="GPU", exact=True)).to_have_count(0)

    gpu.set(utilisation=93, vram_used=22 * GIB)
    expect(box.get_by_role("meter", name="GPU", exact=True)).to_have_attribute("aria-valuenow", "93", timeout=15_000)
    expect(box.get_by_role("meter", name="VRAM")).to_have_attribute("aria-valuetext", "22 / 24 GiB")

    sidecar.kill()
    expect(box).to_contain_text("offline", timeout=30_000)
    expect(box.get_by_role("meter")).to_have_count(0, timeout=15_000)
