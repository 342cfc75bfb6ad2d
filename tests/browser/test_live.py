"""The dashboard of a real `agentcom up`: the link that it prints, and a task that completes while one looks on."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect

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
