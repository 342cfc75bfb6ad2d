"""One setting is changed in a config.toml that a person wrote, and all else stays as it was."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from agentcom import config, config_file
from agentcom.errors import ConfigError

WRITTEN = """\
# ours
[hub]
bind = "127.0.0.1"  # only here

[sidecar]
capabilities = [
  "gpu",  # the old one
  "docker",
]
agents = 3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "config.toml"
    found.write_text(WRITTEN)
    return found


def test_a_value_is_replaced_and_comments_stay(path: Path) -> None:
    config_file.put(path, {"sidecar.agents": 5})
    assert path.read_text() == WRITTEN.replace("agents = 3", "agents = 5")


def test_a_list_over_several_lines_is_replaced_whole(path: Path) -> None:
    config_file.put(path, {"sidecar.capabilities": ("a", 'b"c')})
    assert path.read_text() == WRITTEN.replace('[\n  "gpu",  # the old one\n  "docker",\n]', '["a","b\\"c"]')


def test_a_new_key_goes_to_the_end_of_its_section_and_a_new_section_to_the_end(path: Path) -> None:
    config_file.put(path, {"hub.port": 0, "sandbox.accept_unisolated": True})
    expected = WRITTEN.replace("# only here\n", "# only here\nport = 0\n")
    assert path.read_text() == expected + "\n[sandbox]\naccept_unisolated = true\n"


def test_a_key_is_taken_out_and_one_that_is_not_there_is_no_error(path: Path) -> None:
    config_file.remove(path, ["sidecar.agents", "sandbox.mode"])
    assert path.read_text() == WRITTEN.replace("agents = 3\n", "")


def test_a_section_goes_with_its_last_setting_unless_a_comment_is_left_in_it(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# ours\n[hub]\nport = 2\n\n[sandbox]\n# why\nmode = 'off'\n\n[sidecar]\nagents = 3\n")
    config_file.remove(path, ["hub.port", "sidecar.agents", "sandbox.mode"])
    assert path.read_text() == "# ours\n[sandbox]\n# why\n"


def test_two_settings_that_do_not_fit_are_refused_with_the_file_and_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[queue]\nlease_s = 14\n")
    with pytest.raises(ConfigError, match=r"config.toml: queue.lease_s is 14 and queue.heartbeat_s 5"):
        config.load(tmp_path, {})
    with pytest.raises(ConfigError, match=r"config.toml and AGENTCOM_QUEUE_HEARTBEAT_S: queue.lease_s is 14"):
        config.load(tmp_path, {"AGENTCOM_QUEUE_HEARTBEAT_S": "20"})
    with pytest.raises(ConfigError, match=r"^AGENTCOM_QUEUE_LEASE_S: queue.lease_s is 13"):
        config.load(tmp_path, {"AGENTCOM_QUEUE_LEASE_S": "13"})


@pytest.mark.parametrize(("heartbeat_s", "lease_s"), [("0.2", "0.6"), ("0.1", "0.3"), ("0.7", "2.1"), ("5", "15")])
def test_a_lease_of_just_three_heartbeats_is_taken_whatever_floats_make_of_it(
    heartbeat_s: str, lease_s: str, tmp_path: Path
) -> None:
    given = {"AGENTCOM_QUEUE_HEARTBEAT_S": heartbeat_s, "AGENTCOM_QUEUE_LEASE_S": lease_s}
    assert config.load(tmp_path, given).queue.lease_s == float(lease_s)
    with pytest.raises(ConfigError, match="a lease must outlast three heartbeats"):
        config.load(tmp_path, given | {"AGENTCOM_QUEUE_LEASE_S": str(float(lease_s) - 0.001)})


def test_a_file_is_made_where_there_is_none_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    config_file.put(path, {"sidecar.name": "Ärgerlich"})
    assert path.read_text() == '[sidecar]\nname = "Ärgerlich"\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert config.load(tmp_path, {}).sidecar.name == "Ärgerlich"


@pytest.mark.parametrize("text", ["hub.port = 1\n", "hub = { port = 1 }\n", '"hub" = { port = 1 }\n'])
def test_what_is_written_in_another_way_is_left_to_the_person(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"edit it by hand: hub.port = 2"):
        config_file.put(path, {"hub.port": 2})
    with pytest.raises(ConfigError, match=r"edit it by hand: take out hub.port"):
        config_file.remove(path, ["hub.port"])
    assert path.read_text() == text


def test_a_file_that_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[hub\n")
    with pytest.raises(ConfigError, match="line 1"):
        config_file.put(path, {"hub.port": 2})


def test_a_multi_line_text_that_looks_like_a_section_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[sidecar]\nname = """\n[hub]\nport = 1\n"""\n')
    config_file_before = path.read_text()
    try:
        config_file.put(path, {"hub.port": 2})
    except ConfigError:
        assert path.read_text() == config_file_before
    else:
        found = tomllib.loads(path.read_text())
        assert found["hub"] == {"port": 2}
        assert found["sidecar"]["name"] == "[hub]\nport = 1\n"
