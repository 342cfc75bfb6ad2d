"""Keys, tokens and links: what `host invite`, `join`, `host accept-key` and `token` print, send and leave in a home."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agentcom import messages as m
from agentcom.auth import KeyPair, load_key, parse_join_code, sha256_hex
from agentcom.cli import main
from agentcom.config import Home
from agentcom.model import Role
from agentcom.supervisor import Start, write_start
from tests.command_line import complaint, said
from tests.fake_hub_requests import FakeHub


@pytest.fixture
def invitation(hub: FakeHub) -> dict[str, Any]:
    answer = {
        "address": hub.address, "hub_key": hub.pair.public, "expires": "soon", "loopback_only": True, "note": "",
    }  # fmt: skip
    hub.answers["host_invite"] = answer
    return answer


def test_an_invitation_of_a_loopback_hub_names_the_settings(
    hub: FakeHub, invitation: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["host", "invite"]) == 0
    captured = capsys.readouterr()
    assert parse_join_code(captured.out).address == hub.address
    assert "hub.bind" in captured.err
    assert "hub.public_address" in captured.err


def joining(
    hub: FakeHub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    role: str = "host",
) -> str:
    """A code of `hub` for `role`; from here on commands run in `home`."""
    assert main(["host", "invite", "--role", role]) == 0
    monkeypatch.setenv("AGENTCOM_HOME", str(home))
    return capsys.readouterr().out.strip()


def test_joining_makes_the_hosts_keys_and_enrols_them(
    hub: FakeHub,
    invitation: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code = joining(hub, capsys, monkeypatch, tmp_path / "b")
    assert main(["join", code, "--name", "box", "--json"]) == 0
    assert said(capsys)["name"] == "box"
    home = Home(tmp_path / "b")
    (enrolled,) = hub.enrolled
    assert enrolled.key == load_key(home.keys / "host.key").public
    assert len(enrolled.signing_key or "") == 64
    assert json.loads((home.keys / "hub.json").read_bytes()) == {"hub": hub.address, "key": hub.pair.public}
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.keys.iterdir())


@pytest.mark.parametrize("written", ["", '[sandbox]\nmode = "auto"\n'])
def test_a_host_that_joins_requires_isolation_unless_its_owner_has_said_otherwise(
    written: str,
    hub: FakeHub,
    invitation: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code = joining(hub, capsys, monkeypatch, tmp_path / "b")
    file = Home(tmp_path / "b").prepare().path / "config.toml"
    file.write_text(written)
    file.chmod(0o600)
    assert main(["join", code, "--name", "box"]) == 0
    assert file.read_text() == (written or '[sandbox]\nmode = "require"\n')


def test_the_same_code_again_gives_the_same_answer_and_another_is_refused(
    hub: FakeHub,
    invitation: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code = joining(hub, capsys, monkeypatch, tmp_path / "b")
    monkeypatch.setattr("sys.stdin", io.StringIO(code + "\n"))
    assert main(["join", "-", "--name", "box"]) == 0
    assert main(["join", code]) == 0
    assert "as box" in capsys.readouterr().out
    assert len(hub.enrolled) == 1
    monkeypatch.setenv("AGENTCOM_HOME", str(hub.home.path))
    other = joining(hub, capsys, monkeypatch, tmp_path / "b")
    assert main(["join", other]) == 1
    assert "has joined already, as box" in complaint(capsys)


def test_a_home_with_a_hub_of_its_own_does_not_join_another(
    hub: FakeHub,
    invitation: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    invitation["hub_key"] = KeyPair.make().public
    code = joining(hub, capsys, monkeypatch, hub.home.path)
    assert main(["join", code]) == 1
    assert "hub of its own" in complaint(capsys)


def test_what_is_not_a_join_code_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTCOM_HOME", str(tmp_path / "b"))
    assert main(["join", "nonsense"]) == 1
    assert "host invite" in complaint(capsys)


@pytest.mark.parametrize("key", ["zzz", "3475:0f98", "AB" * 32, "ab" * 33])
def test_what_is_no_signing_key_is_told_what_one_looks_like_and_where_it_stands(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert main(["host", "accept-key", "box", key]) == 2
    said = complaint(capsys)
    assert "a signing key has 64 hex digits (0-9, a-f)" in said
    assert "the log of the sidecar that was refused has this command" in said
    assert "regex" not in said
    assert hub.asked == []


def test_a_new_token_is_printed_once_and_only_its_hash_is_sent(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["token_add"] = {"name": "ci", "role": "view"}
    assert main(["token", "add", "ci", "--role", "view", "--json"]) == 0
    found = said(capsys)
    assert hub.asked == [m.TokenAdd(name="ci", role=Role.view, token_sha256=sha256_hex(found["token"]))]


def test_a_link_carries_its_secret_in_the_fragment(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers["token_link"] = {"expires": "soon"}
    write_start(hub.home, Start("http://127.0.0.1:7999", "", "", "", os.getpid(), ""))
    assert main(["token", "link"]) == 0
    address, _, secret = capsys.readouterr().out.strip().partition("/#link=")
    assert address == "http://127.0.0.1:7999"
    assert hub.asked[0].secret_sha256 == sha256_hex(secret)
