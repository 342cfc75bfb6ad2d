"""What hosts tell of their worktrees, as people see it."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.core import worktree_view
from agentcom.worktrees import Worktree
from tests.core_rig import HostEnd, Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


def tell(box: HostEnd, *trees: Worktree, left_out: int = 0) -> None:
    box.send(m.Worktrees(session=box.token, trees=trees, left_out=left_out))


def listed(rig: Rig, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = rig.admin.ask(m.WorktreeList(**fields))
    return found


def test_the_worktrees_of_all_hosts_are_listed_with_the_age_of_what_is_told(rig: Rig) -> None:
    box, other = rig.host("box"), rig.host("other")
    tree = Worktree(name="7-1", task=7, branch="agentcom/7/1-x", ahead=2, unpushed=2, age_s=60, looked_s=3)
    tell(box, tree, left_out=4)
    rig.advance(5_000)
    tell(other, Worktree(name="8-1", removable=True))
    found = listed(rig)
    assert [(one["host"], one["name"], one["looked_s"], one["age_s"]) for one in found["worktrees"]] == [
        ("box", "7-1", 8, 65), ("other", "8-1", 0, 0),
    ]  # fmt: skip
    first = found["worktrees"][0]
    assert (first["ahead"], first["unpushed"], first["behind"], first["removable"]) == (2, 2, None, False)
    assert [(one["host"], one["worktrees"], one["left_out"], one["age_s"]) for one in found["hosts"]] == [
        ("box", 1, 4, 5), ("other", 1, 0, 0),
    ]  # fmt: skip
    assert [one["name"] for one in listed(rig, host="other")["worktrees"]] == ["8-1"]
    assert rig.admin.refusal(rig.admin.request(m.WorktreeList(host="nowhere"))).code == "not_found"


def test_when_one_goes_by_itself_comes_nearer_between_two_reports(rig: Rig) -> None:
    tell(rig.host("box"), Worktree(name="7-1", removable=True, goes_in_s=7), Worktree(name="8-1"))
    rig.advance(5_000)
    assert [one["goes_in_s"] for one in listed(rig)["worktrees"]] == [2, None]
    rig.advance(5_000)
    assert [one["goes_in_s"] for one in listed(rig)["worktrees"]] == [0, None]


def test_a_report_takes_the_place_of_the_one_before_and_a_restart_forgets_it(rig: Rig) -> None:
    box = rig.host("box")
    tell(box, Worktree(name="7-1"), Worktree(name="8-1"))
    tell(box, Worktree(name="8-1"))
    assert [one["name"] for one in listed(rig)["worktrees"]] == ["8-1"]
    rig.start()
    rig.admin.hello()
    assert listed(rig) == {
        "worktrees": [],
        "hosts": [{"host": "box", "state": "offline", "worktrees": None, "left_out": 0, "age_s": None}],
        "next_cursor": None,
    }


def test_many_worktrees_come_in_pages_of_whole_hosts(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worktree_view, "TREES_PER_PAGE", 3)
    for number in range(5):
        tell(rig.host(f"box{number}"), Worktree(name="1-1"), Worktree(name="2-1"))
    pages, cursor = [], None
    while not pages or cursor is not None:
        page = listed(rig, cursor=cursor)
        pages.append([one["host"] for one in page["hosts"]])
        cursor = page["next_cursor"]
    assert pages == [["box0", "box1"], ["box2", "box3"], ["box4"]]


def test_a_report_is_bounded(rig: Rig) -> None:
    trees = tuple(Worktree(name=f"{number}-1") for number in range(limits.WORKTREES_TOLD_MAX + 1))
    with pytest.raises(m.Refused):
        m.decode_to_hub(m.encode(m.Worktrees(session=b"x" * 16, trees=trees)))
