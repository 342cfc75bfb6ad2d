"""Files of recordings: bounded, whole up to where a hub was killed, refused in words where they are no recording."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import click
import msgspec
import pytest

import bench.scheduler
from agentcom import recordings
from agentcom.cli import EXIT_FAILED, main
from agentcom.config import ModelSettings, SchedulerSettings, ScoringSettings
from agentcom.core.recording import FORMAT, Recorder, Start
from agentcom.errors import ConfigError
from agentcom.limits import MIB
from agentcom.policy_file import changed, read_policy
from agentcom.recordings import MAGIC, RecordingError, Recordings, read, recordings_in
from agentcom.replay import verify
from tests.factories import endpoint_model, endpoint_probe, shell_task, sighting, task
from tests.recorded import Life, RecordedRig


@pytest.fixture
def rig() -> RecordedRig:
    made = RecordedRig()
    made.host(agents=2).see(sighting(probe=endpoint_probe(endpoint_model(warm=True))))
    made.admin.submit(shell_task(), task())
    return made


def written(path: Path, frames: list[bytes]) -> Path:
    path.write_bytes(MAGIC + b"".join(framed(frame) for frame in frames))
    return path


def framed(frame: bytes) -> bytes:
    return struct.pack("<II", len(frame), zlib.crc32(frame)) + frame


# --- written --------------------------------------------------------------------------------------------


class Scripted:
    """A recorder that has these frames, a start of its own in front whenever it begins anew."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.begins = True

    def begin_anew(self) -> None:
        self.begins = True

    def take(self) -> list[tuple[bool, bytes]]:
        frames = [(True, b"start")] if self.begins else []
        self.begins = False
        return [*frames, (False, b"t" * self.size)]


def test_a_recording_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    settings = SchedulerSettings(record=True, record_mib=3, record_file_mib=1)
    recorded, recorder = Recordings(tmp_path / "recordings"), Scripted(MIB // 4)
    names: set[str] = set()
    for tick in range(60):
        assert recorded.turn(recorder, settings, tick) == ""  # type: ignore[arg-type]
        found = recordings_in(tmp_path / "recordings")
        names |= {path.name for path in found}
        assert sum(path.stat().st_size for path in found) <= 3 * MIB
    assert len(names) > 8
    assert [path.name for path in found] == sorted(names)[-len(found) :]
    assert {oct(path.stat().st_mode & 0o777) for path in found} == {"0o600"}
    recorded.close()


def test_a_turn_that_is_larger_than_all_that_is_allowed_is_not_kept(tmp_path: Path) -> None:
    settings = SchedulerSettings(record=True, record_mib=1, record_file_mib=1)
    recorded, recorder = Recordings(tmp_path / "recordings"), Scripted(2 * MIB)
    recorded.turn(recorder, settings, 1)  # type: ignore[arg-type]
    assert recordings_in(tmp_path / "recordings") == []
    recorder.size = 10
    recorded.turn(recorder, settings, 2)  # type: ignore[arg-type]
    assert len(recordings_in(tmp_path / "recordings")) == 1
    recorded.close()


def test_a_disk_that_takes_no_recording_ends_it_and_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("a file in the way")
    recorded, recorder = Recordings(tmp_path / "recordings"), Scripted(10)
    settings = SchedulerSettings(record=True)
    assert "recordings" in recorded.turn(recorder, settings, 1)  # type: ignore[arg-type]
    assert recorded.turn(recorder, settings, 2) == ""  # type: ignore[arg-type]
    assert recorded.turn(None, settings, 3) == ""
    (tmp_path / "recordings").unlink()
    recorder.begin_anew()
    recorded.turn(recorder, settings, 4)  # type: ignore[arg-type]
    assert len(recordings_in(tmp_path / "recordings")) == 1
    recorded.close()


def test_a_file_that_is_full_is_followed_by_one_that_stands_for_itself(tmp_path: Path) -> None:
    rig = RecordedRig()
    recorder = rig.hub.board.recorder
    assert isinstance(recorder, Recorder)
    life = Life(rig, 5)
    life.live(20)
    recorder.begin_anew()  # as after a file that is full
    life.live(20)
    for n, (frames, (_, turns)) in enumerate(zip(rig.frames, rig.recordings(), strict=True)):
        found = read(written(tmp_path / str(n), frames))
        assert (found.turns, found.cut) == (turns, "")
        assert verify(found.start, found.turns) is None
    assert n >= 1


# --- read -----------------------------------------------------------------------------------------------


def test_what_a_killed_hub_has_written_reads_up_to_its_last_whole_frame(rig: RecordedRig, tmp_path: Path) -> None:
    [frames] = rig.frames
    whole = written(tmp_path / "whole", frames)
    content, last = whole.read_bytes(), len(framed(frames[-1]))
    for lost in (1, last // 2, last - 3):
        cut = tmp_path / "cut"
        cut.write_bytes(content[:-lost])
        found = read(cut)
        assert len(found.turns) == len(frames) - 2
        where = f"the last frame, at byte {len(content) - last}, is cut"
        assert found.cut == f"{where}: {len(frames) - 2} turns before it were read"
        assert verify(found.start, found.turns) is None


def test_a_file_that_is_no_recording_is_refused_in_words(rig: RecordedRig, tmp_path: Path) -> None:
    [frames] = rig.frames
    start = msgspec.msgpack.encode(Start(FORMAT + 1, "9.0.0", 0, ScoringSettings(), ModelSettings(), False))
    damaged = bytearray(MAGIC + framed(frames[0]) + framed(frames[1]))
    damaged[-1] ^= 1
    cases = {
        b"": "this is not a recording",
        b"#!/bin/sh\n": "this is not a recording",
        MAGIC: "nothing was recorded",
        MAGIC + framed(frames[0])[:-1]: "cut within its first frame",
        MAGIC + framed(start): f"it has format {FORMAT + 1}, this version reads up to {FORMAT}",
        MAGIC + framed(b"\x93\x01\x02\x03"): "its first frame does not read",
        MAGIC + framed(b"rubbish"): "its first frame does not read",
        MAGIC + framed(frames[0]) + framed(b"\x91\xa1x"): "frame 1 at byte",
        bytes(damaged): "is damaged: its checksum does not fit",
    }
    for content, said in cases.items():
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(RecordingError, match=said):
            read(path)
    with pytest.raises(RecordingError, match="No such file"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[scoring]\nshoe_size = 3\n", "there is no setting scoring.shoe_size"),
        ("[scoring]\nload_percent = -1\n", "scoring.load_percent cannot be -1: Expected `int` >= 0"),
        ('[scoring]\nload_percent = "much"\n', 'scoring.load_percent cannot be "much"'),
        ("[queue]\nlease_s = 3\n", "queue does not belong to a policy"),
        ("load_percent = 3\n", "load_percent does not belong to a policy"),
        ("scoring = 3\n", "no section"),
        ("", "no section"),
        ("[scoring\n", "line 1"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_its_key_and_bound(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "other.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"other\.toml") as caught:
        read_policy(path, ScoringSettings())
    assert said in caught.value.message


def test_a_policy_changes_what_it_names_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("[scoring]\nload_percent = 50\n")
    base = ScoringSettings(shell_ms=7)
    assert changed(base, read_policy(path, base)) == {"load_percent": (100, 50)}


# --- the command ----------------------------------------------------------------------------------------


def replayed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["scheduler", "replay", *arguments])
    out, err = capsys.readouterr()
    return code, click.unstyle(out), err


def test_replay_says_that_all_is_as_recorded_and_what_another_policy_changes(
    rig: RecordedRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "one.sched", rig.frames[0])
    code, out, _ = replayed(capsys, str(path))
    assert code == 0
    assert "every decision is as it was recorded" in out
    policy = tmp_path / "other.toml"
    policy.write_text("[scoring]\nload_percent = 0\n")
    code, out, _ = replayed(capsys, str(path), "--policy", str(policy))
    assert code == 0
    assert "other policy: load_percent 0 (was 100)" in out
    assert "of 2 starts 2 go to the same place, 0 elsewhere and 0 wait" in out
    assert "OTHER POLICY, ESTIMATED" in out
    code, out, _ = replayed(capsys, str(path), "--policy", str(policy), "--json")
    told = json.loads(out)
    assert (code, told["difference"], told["starts"], told["policy"]) == (0, None, 2, {"load_percent": [100, 0]})
    assert list(told["figures"]) == ["recorded", "estimate", "other"]
    assert told["figures"]["other"]["tasks"] == 2


def test_replay_of_other_decisions_names_the_first_and_fails(
    rig: RecordedRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, turns = rig.recordings()[0]
    last = turns.pop()
    heads = tuple(msgspec.structs.replace(head, agent=-1, endpoint=-1) for head in last.heads)
    encode = msgspec.msgpack.encode
    forged = [encode(start), *map(encode, turns), encode(msgspec.structs.replace(last, heads=heads))]
    code, out, _ = replayed(capsys, str(written(tmp_path / "one.sched", forged)))
    assert code == EXIT_FAILED
    assert "was recorded as waits, and is now" in out


def test_the_bench_times_the_schedulers_on_a_recording(
    rig: RecordedRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "one.sched", rig.frames[0])
    assert bench.scheduler.main(["--replay", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["replay"]
    assert {row["impl"] for row in rows} >= {"python"}
    assert {(row["ticks"], row["decisions"]) for row in rows} == {(len(rig.frames[0]) - 1, 2)}
    assert bench.scheduler.main(["--replay", str(tmp_path / "nothing")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_the_recordings_of_a_home_are_listed(
    rig: RecordedRig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCOM_HOME", str(tmp_path))
    assert main(["scheduler", "list"]) == 0
    assert "nothing was recorded here" in capsys.readouterr().out
    (tmp_path / "recordings").mkdir()
    name = f"0001790000000000-000001{recordings.SUFFIX}"
    written(tmp_path / "recordings" / name, rig.frames[0])
    assert main(["scheduler", "list"]) == 0
    out = capsys.readouterr().out
    assert name in out
    assert "2026-09-21" in out
