"""What is made in a marked folder lies apart where the file system knows the mark, and is made anyhow."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil
import pytest

from agentcom_sidecar.apart import place_apart

MEMORY = Path("/dev/shm")


def file_system_of(folder: Path) -> str:
    within = [each for each in psutil.disk_partitions(all=True) if folder.is_relative_to(each.mountpoint)]
    return max(within, key=lambda each: len(each.mountpoint)).fstype


def places_of_directories_in(folder: Path) -> int:
    """In how many groups of the disk forty new directories lie: ext4 numbers its inodes group by group, and no group
    has more than 32,768 of them."""
    made = [folder / f"each-{number}" for number in range(40)]
    for each in made:
        each.mkdir()
    return len({each.stat().st_ino // 32_768 for each in made})


def test_directories_in_a_marked_folder_lie_apart(tmp_path: Path) -> None:
    if file_system_of(tmp_path) != "ext4":
        pytest.skip("no ext4 here")
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    for folder in (plain, marked):
        folder.mkdir()
    assert place_apart(marked)
    assert place_apart(marked), "again"
    # One or two places for all of the plain ones, a few more on a disk that is nearly full there.
    assert places_of_directories_in(marked) > 2 * places_of_directories_in(plain)


@pytest.mark.skipif(not MEMORY.is_dir(), reason="no file system in memory here")
def test_a_file_system_without_the_mark_is_no_error() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        assert not place_apart(Path(folder))


def test_a_folder_that_is_not_there_or_not_ours_is_no_error(tmp_path: Path) -> None:
    assert not place_apart(tmp_path / "none")
    if os.geteuid() != 0:
        assert not place_apart(Path("/"))
