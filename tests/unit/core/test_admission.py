"""What may enter the queue, and as what; each refusal names the field."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom.clock import ManualClock, rfc3339
from agentcom.core.admission import Admitted, admit, ttl_ms
from agentcom.errors import Refused
from agentcom.model import CheckKind, CheckSpec, FileRef, Group, Role, TaskSpec, Tier, TierSource
from tests.factories import settings, shell_task, task

NOW = ManualClock().now()


def taken(spec: TaskSpec, role: Role = Role.submit) -> Admitted:
    return admit(spec, role, settings(), NOW, "tasks[0]")


def refused(spec: TaskSpec, role: Role = Role.submit) -> tuple[str, str | None]:
    with pytest.raises(Refused) as found:
        taken(spec, role)
    assert found.value.field is None or found.value.message.startswith(found.value.field)
    return found.value.code, found.value.field


# --- tiers ----------------------------------------------------------------------------------------------


def test_a_command_makes_a_task_trivial() -> None:
    one = taken(shell_task())
    assert (one.tier, one.tier_source) == (Tier.trivial, TierSource.command)


def test_a_task_without_a_command_never_goes_to_the_shell() -> None:
    one = taken(task("Fix a typo in the README"))
    assert (one.tier, one.inferred_tier, one.tier_source) == (
        Tier.standard,
        Tier.trivial,
        TierSource.inferred,
    )


def test_the_explicit_tier_wins() -> None:
    one = taken(task("Fix a typo", tier=Tier.complex))
    assert (one.tier, one.inferred_tier, one.tier_source) == (Tier.complex, Tier.trivial, TierSource.explicit)


def test_trivial_without_a_command_is_refused() -> None:
    assert refused(task(tier=Tier.trivial)) == ("command_required", "tasks[0].command")


@pytest.mark.parametrize("tier", [Tier.standard, Tier.complex])
def test_a_command_with_a_models_tier_is_refused(tier: Tier) -> None:
    assert refused(shell_task(tier=tier)) == ("command_not_allowed", "tasks[0].command")


@pytest.mark.parametrize("command", [" ", "\n\t", "echo \0"])
def test_a_command_that_does_nothing_is_refused(command: str) -> None:
    assert refused(task(command=command)) == ("invalid", "tasks[0].command")


# --- texts and paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [" ", "\n\n", "\t"])
def test_an_empty_description_is_refused(text: str) -> None:
    assert refused(TaskSpec(description=text)) == ("invalid", "tasks[0].description")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../up", "a/../../b", "a/..", "..", "~/x", "~root/x", "a\\..\\..\\b", "..\\b"],
)
def test_a_path_that_leaves_the_worktree_is_refused(path: str) -> None:
    assert refused(task(files=(FileRef("fine"), FileRef(path)))) == ("path_outside", "tasks[0].files[1].path")
    check = CheckSpec(CheckKind.file_exists, path)
    assert refused(task(checks=(check,))) == ("path_outside", "tasks[0].checks[0].target")


@pytest.mark.parametrize("path", [" ", "a\0b"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    assert refused(task(files=(FileRef(path),))) == ("invalid", "tasks[0].files[0].path")


@pytest.mark.parametrize("path", ["a", "a/b.c", ".hidden", "..a/b", "a..", "a/...", "ä ö", "-x"])
def test_a_path_inside_is_taken(path: str) -> None:
    assert taken(task(files=(FileRef(path),))).spec.files[0].path == path


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (CheckKind.file_exists, ""),
        (CheckKind.command_succeeds, " "),
        (CheckKind.command_succeeds, "a\0"),
        (CheckKind.test_passes, "a\0"),
    ],
)
def test_a_check_without_a_usable_target_is_refused(kind: CheckKind, target: str) -> None:
    spec = task(checks=(CheckSpec(CheckKind.git_clean), CheckSpec(kind, target)))
    assert refused(spec) == ("invalid", "tasks[0].checks[1].target")


def test_tests_and_git_need_no_target() -> None:
    assert taken(task(checks=(CheckSpec(CheckKind.test_passes), CheckSpec(CheckKind.git_clean))))


# --- repositories ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "repo", ["https://host/a.git", "ssh://git@host/a.git", "git@host:a.git", "host.xz:path/to/a"]
)
def test_a_repository_elsewhere_is_taken_from_everybody(repo: str) -> None:
    assert taken(task(repo=repo, branch="main")).group.repo == repo


@pytest.mark.parametrize("repo", ["/srv/a.git", "file:///srv/a.git", "/srv/a:b.git"])
def test_a_local_repository_is_taken_from_those_who_operate_the_hub(repo: str) -> None:
    assert refused(task(repo=repo)) == ("forbidden", "tasks[0].repo")
    for role in (Role.operate, Role.admin):
        assert taken(task(repo=repo), role).group.repo == repo


@pytest.mark.parametrize(
    "repo",
    [
        "-uupload",
        "ext::sh -c x",
        "ftp://host/a",
        "git://host/a",
        "http://host/a",
        "a\nb",
        "a\0b",
        "relative",
        "./a",
    ],
)
def test_any_other_address_is_refused(repo: str) -> None:
    for role in (Role.submit, Role.admin):
        assert refused(task(repo=repo), role)[1] == "tasks[0].repo"


@pytest.mark.parametrize(
    "repo",
    [
        "https://169.254.169.254/a",
        "ssh://git@[fe80::1]/a",
        "https://[::ffff:169.254.0.1]:8443/a",
        "git@0.0.0.0:a",
    ],
)
def test_a_repository_on_an_address_of_no_server_is_refused(repo: str) -> None:
    assert refused(task(repo=repo), Role.admin) == ("address_refused", "tasks[0].repo")


@pytest.mark.parametrize(
    "repo", ["https://10.0.0.5/a", "ssh://me@127.0.0.1:22/a", "me@192.168.0.1:a", "https://[::1]/a"]
)
def test_a_repository_on_a_private_address_is_taken_from_those_who_operate_the_hub(repo: str) -> None:
    assert refused(task(repo=repo)) == ("forbidden", "tasks[0].repo")
    assert taken(task(repo=repo), Role.operate).group.repo == repo


@pytest.mark.parametrize("fields", [{"branch": "main"}, {"branch": "-x", "repo": "https://host/a"}])
def test_a_branch_needs_a_repository_and_is_no_option(fields: dict[str, Any]) -> None:
    assert refused(task(**fields)) == ("invalid", "tasks[0].branch")


# --- times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["tomorrow", "2027-01-31", "2027-01-31T08:00:00", "2027-13-01T00:00:00Z", "", "10000-01-01T00:00:00Z"],
)
def test_a_time_without_a_zone_or_a_meaning_is_refused(text: str) -> None:
    assert refused(task(not_before=text)) == ("invalid", "tasks[0].not_before")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z"])
def test_a_time_long_ago_is_now(text: str) -> None:
    assert taken(task(not_before=text)).not_before_ms == 0


def test_the_ttl_counts_from_when_the_task_may_start() -> None:
    later = taken(task(not_before="2027-02-01T00:00:00Z", ttl_s=60))
    assert later.term_ms - (later.not_before_ms - NOW.wall_ms) == 60_000
    assert taken(task(ttl_s=60)).term_ms == 60_000


@pytest.mark.parametrize(("tier", "ttl_s"), [(Tier.trivial, 7), (Tier.standard, 8), (Tier.complex, 9)])
def test_a_tier_may_have_a_time_to_live_of_its_own(tier: Tier, ttl_s: int) -> None:
    queue = settings(ttl_trivial_s=7, ttl_standard_s=8, ttl_complex_s=9)
    spec = shell_task() if tier is Tier.trivial else task(tier=tier)
    assert admit(spec, Role.submit, queue, NOW, "tasks[0]").term_ms == ttl_s * 1000
    assert ttl_ms(5, tier, queue) == 5000
    assert ttl_ms(None, tier, settings(ttl_s=3)) == 3000


@pytest.mark.parametrize("field", ["start_by", "complete_by"])
def test_a_deadline_that_has_passed_is_refused(field: str) -> None:
    assert refused(task(**{field: rfc3339(NOW.wall_ms)})) == ("deadline_passed", f"tasks[0].{field}")
    assert refused(task(**{field: "2001-01-01T00:00:00Z"})) == ("deadline_passed", f"tasks[0].{field}")
    assert refused(task(**{field: "2999-01-01T00:00:00Z"})) == ("invalid", f"tasks[0].{field}")
    assert refused(task(**{field: "soon"})) == ("invalid", f"tasks[0].{field}")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [("not_before", "start_by"), ("not_before", "complete_by"), ("start_by", "complete_by")],
)
def test_moments_that_could_not_all_be_kept_are_refused(earlier: str, later: str) -> None:
    one, other = rfc3339(NOW.wall_ms + 10_000), rfc3339(NOW.wall_ms + 20_000)
    assert refused(task(**{earlier: other, later: one})) == ("invalid", f"tasks[0].{later}")
    assert refused(task(**{earlier: one, later: one})) == ("invalid", f"tasks[0].{later}")
    assert taken(task(**{earlier: one, later: other}))


# --- groups ---------------------------------------------------------------------------------------------


def test_tasks_that_ask_the_same_of_a_place_are_one_group() -> None:
    one = taken(task(needs=("b", "a", "b"), model="m", repo="https://h/r"))
    other = taken(task("Something else entirely", needs=("a", "b"), model="m", repo="https://h/r"))
    assert one.group == other.group == Group(Tier.standard, "m", ("a", "b"), "https://h/r")


@pytest.mark.parametrize("need", ["tool:node>=", "tool:node>=new", ">=20", "  "])
def test_a_need_that_can_mean_nothing_is_refused(need: str) -> None:
    assert refused(shell_task(needs=("docker", need))) == ("invalid", "tasks[0].needs[1]")
