"""Files that were cut, flipped or edited wrongly are refused in words, never with a traceback. Found by the fuzzer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agentcom import auth, config
from agentcom import messages as m
from agentcom.errors import ConfigError, Refused
from agentcom.store import backup, start

NO_TEXT = b'{"public": "\xff\xff"}'
ENDLESS = b"[" * 100_000


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("hub = 1", {"AGENTCOM_HUB_PORT": "7420"}, "hub is a section: write [hub]"),
        ("anthropic = 3", {"ANTHROPIC_BASE_URL": "https://x.invalid"}, "anthropic is a section"),
        ("[hub]\nport = " + "9" * 5000, {}, "config.toml"),
        ("hub = " + "[" * 5000, {}, "config.toml"),
    ],
)
def test_a_config_toml_that_makes_no_sense_is_a_config_error(
    tmp_path: Path, text: str, environment: dict[str, str], said: str
) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        config.load(tmp_path, environment)
    assert said in str(error.value)


@pytest.mark.parametrize("content", [NO_TEXT, ENDLESS, b""])
def test_a_damaged_key_file_is_a_config_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "host.key"
    config.write_private(path, content)
    with pytest.raises(ConfigError, match=r"host\.key is not a key file"):
        auth.load_key(path)


@pytest.mark.parametrize("content", [NO_TEXT, ENDLESS, b""])
def test_a_damaged_hub_json_is_a_config_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    home = config.Home(tmp_path / "home").prepare()
    (home.run / "hub.json").write_bytes(content)
    with pytest.raises(ConfigError, match="remove it and start the hub again"):
        auth.read_hub_address(home)


@pytest.mark.parametrize("content", [NO_TEXT, ENDLESS, b""])
def test_a_damaged_note_of_the_last_stop_does_not_keep_a_hub_from_starting(
    tmp_path: Path, content: bytes
) -> None:
    paths = start.StorePaths.of_home(tmp_path)
    start.open_store(paths).close()
    (paths.store / start.NOTE_FILE).write_bytes(content)
    opened = start.open_store(paths)
    assert opened.report.how == "full"
    opened.close()


@pytest.mark.parametrize("content", [NO_TEXT, ENDLESS, b""])
def test_a_backup_with_a_damaged_manifest_counts_as_not_verified(tmp_path: Path, content: bytes) -> None:
    paths = start.StorePaths.of_home(tmp_path)
    start.open_store(paths).close()
    made = backup.make_backup(paths.store, paths.backups)
    Path(made.path).with_suffix(".json").write_bytes(content)
    assert [one.verified for one in backup.list_backups(paths.backups)] == [False]


def test_the_time_of_a_backup_is_that_of_its_name_whatever_its_manifest_says(tmp_path: Path) -> None:
    paths = start.StorePaths.of_home(tmp_path)
    start.open_store(paths).close()
    made = backup.make_backup(paths.store, paths.backups)
    manifest = Path(made.path).with_suffix(".json")
    manifest.write_bytes(manifest.read_bytes().replace(made.time.encode(), made.time[:-3].encode() + b"t6Z"))
    assert [(one.time, one.verified) for one in backup.list_backups(paths.backups)] == [(made.time, True)]


def test_a_file_that_is_named_almost_like_a_backup_is_none(tmp_path: Path) -> None:
    (tmp_path / f"backup-{1:020}-20269999T000000Z.mdb").write_bytes(b"x")
    assert backup.list_backups(tmp_path) == []


def test_a_task_that_cannot_be_read_is_refused_with_its_field() -> None:
    with pytest.raises(Refused, match="description"):
        m.decode_spec(msgspec.msgpack.encode({"description": 7}))
