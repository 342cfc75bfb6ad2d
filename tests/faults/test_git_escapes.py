"""I18: what a task can leave in its repository so that the sidecar's own git runs it: nothing of it gets out.

Each case plants a program, as a command of the task, and then the sidecar's git does all that it does in a worktree:
list, commit, discard. The program makes a file outside. With isolation off some of them do: the cases bite.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentcom.config import Home
from agentcom.model import Role, TaskSpec
from agentcom_sidecar import workspace
from agentcom_sidecar.sandbox import CommandSpec, SandboxMode, run_command
from agentcom_sidecar.workspace import Workspace, WorkspaceError
from tests.isolating import need_isolation
from tests.works import repository, settings

BITES_MIN = 3

# Keys that name a program, each set in a repository that the task has put in the place of its own.
KEYS = (
    ("core.fsmonitor", "{program}"),
    ("core.hooksPath", "{hooks}"),
    ("core.pager", "{program}"),
    ("core.editor", "{program}"),
    ("core.sshCommand", "{program}"),
    ("core.gitProxy", "{program}"),
    ("core.alternateRefsCommand", "{program}"),
    ("core.attributesFile", "{attributes}"),
    ("filter.trap.clean", "{program}"),
    ("filter.trap.smudge", "{program}"),
    ("filter.trap.process", "{program}"),
    ("diff.external", "{program}"),
    ("diff.trap.textconv", "{program}"),
    ("diff.trap.command", "{program}"),
    ("merge.trap.driver", "{program}"),
    ("alias.status", "!{program}"),
    ("gpg.program", "{program}"),
    ("credential.helper", "{program}"),
    ("uploadpack.packObjectsHook", "{program}"),
    ("sequence.editor", "{program}"),
    ("interactive.diffFilter", "{program}"),
    ("trailer.trap.command", "{program}"),
    ("include.path", "{included}"),
    ("init.templateDir", "{hooks}"),
    ("gc.recentObjectsHook", "{program}"),
    ("core.worktree", "{outside}"),
)

PREPARE = """
trap=$PWD/trap; mkdir -p "$trap/hooks"
printf '#!/bin/sh\\necho x > "%s/sprung"\\ncat\\n' "$OUTSIDE" > "$trap/program"; chmod 755 "$trap/program"
for hook in pre-commit post-commit post-checkout post-index-change reference-transaction; do
    cp "$trap/program" "$trap/hooks/$hook"
done
echo '* filter=trap diff=trap merge=trap' > .gitattributes; cp .gitattributes "$trap/attributes"
git config --file "$trap/included" core.fsmonitor "$trap/program"
echo changed >> README.md; echo new > new.txt
"""
COMMON = PREPARE + """
evil=$PWD/evil; cp -r "$(git rev-parse --git-common-dir)" "$evil"; rm -rf "$evil/worktrees"
git config --file "$evil/config" commit.gpgSign true
git config --file "$evil/config" "$KEY" "$VALUE"
echo "$evil" > "$(git rev-parse --git-dir)/commondir"
"""
OTHERS = {
    "configuration of the worktree": PREPARE + (
        'git config extensions.worktreeConfig true; git config --worktree core.fsmonitor "$trap/program"; '
        'git config --worktree filter.trap.clean "$trap/program"'
    ),
    "configuration of the mirror": PREPARE + 'git config filter.trap.clean "$trap/program"',
    "hooks of the mirror": PREPARE + 'mkdir -p "$(git rev-parse --git-common-dir)/hooks"; '
    'cp "$trap"/hooks/* "$(git rev-parse --git-common-dir)/hooks/"',
    "hooks of the worktree": PREPARE + 'mkdir "$(git rev-parse --git-dir)/hooks"; '
    'cp "$trap"/hooks/* "$(git rev-parse --git-dir)/hooks/"',
    "another .git": PREPARE + 'rm .git; git init -q .; git config core.fsmonitor "$trap/program"; '
    'git config filter.trap.clean "$trap/program"',
    "a repository within": PREPARE + 'git init -q inner; git -C inner -c user.name=a -c user.email=a commit -q '
    '--allow-empty -m x; git -C inner config core.fsmonitor "$trap/program"; touch inner/file',
    "a submodule with a program for an address": PREPARE + 'git config --file .gitmodules submodule.s.path s; '
    'git config --file .gitmodules submodule.s.url "ext::$trap/program"; '
    'git config --file .gitmodules submodule.s.update "!$trap/program"',
    "a link in the place of a tracked file": 'rm README.md; ln -s "$OUTSIDE/kept" README.md',
    "a link in the place of its git directory": PREPARE
    + 'd=$(git rev-parse --git-dir); rm -rf "$d"; ln -s "$OUTSIDE" "$d"',
    "a link in the place of its branches": 'd=$(git rev-parse --git-common-dir)/refs/heads/agentcom; '
    'rm -rf "$d"; ln -s "$OUTSIDE" "$d"; echo x > new.txt',
    "the branch of another task": 'd=$(git rev-parse --git-common-dir); git rev-parse HEAD > "$d/refs/heads/main"; '
    'mkdir -p "$d/refs/heads/agentcom/8" && git rev-parse HEAD > "$d/refs/heads/agentcom/8/1-x"',
}  # fmt: skip
CASES = {**{key: COMMON for key, _ in KEYS}, **OTHERS}


async def _spring(folder: Path, case: str, mode: SandboxMode) -> bool:
    """Plants the case and has the sidecar's git work on it; whether anything outside, or another
    task's branch, has changed."""
    outside = folder / "outside"
    outside.mkdir(parents=True)
    (outside / "kept").write_text("kept")
    home = Home(folder / "home").prepare()
    spec = TaskSpec(description="x", repo=str(repository(folder / "repo")))
    place = await workspace.prepare(spec, 7, 1, settings(mode=mode), home, submitter_role=Role.admin)
    trap = place.path / "trap"
    value = dict(KEYS).get(case, "").format(
        program=trap / "program", hooks=trap / "hooks", attributes=trap / "attributes", included=trap / "included",
        outside=outside,
    )  # fmt: skip
    planted = CommandSpec(
        argv=("sh", "-c", CASES[case]),
        cwd=place.path,
        home=folder / "scratch",
        timeout_s=60.0,
        env={**place.environment, "OUTSIDE": str(outside), "KEY": case, "VALUE": value},
        mode=mode,
        view=place.view,
    )
    await run_command(planted)
    await _work_on(place)
    assert place.mirror is not None
    branches = place.mirror / "refs" / "heads"
    if (branches / "main").exists() or (branches / "agentcom" / "8").exists():
        return True  # branches of others were made or moved
    return sorted(each.name for each in outside.iterdir()) != ["kept"] or (outside / "kept").read_text() != "kept"


async def _work_on(place: Workspace) -> None:
    """All that the sidecar does there. That git fails on what it finds is the task's own loss."""
    for step in (place.is_clean, place.files_changed, lambda: place.commit("work"), place.discard, place.is_clean):
        try:
            await step()
        except WorkspaceError:
            pass


@pytest.mark.parametrize("case", CASES)
def test_i18_what_git_finds_in_a_worktree_does_not_get_out(case: str, tmp_path: Path) -> None:
    need_isolation()
    assert not asyncio.run(_spring(tmp_path, case, "require"))


def test_i18_what_git_finds_bites_where_nothing_isolates(tmp_path: Path) -> None:
    tried = (
        "a link in the place of its git directory", "a link in the place of its branches", "the branch of another task",
    )  # fmt: skip
    sprung = [case for n, case in enumerate(tried) if asyncio.run(_spring(tmp_path / str(n), case, "off"))]
    print(f"\ngit: {len(CASES)} cases; without isolation {sprung} of {tried} get out")
    assert len(sprung) >= BITES_MIN


@pytest.mark.parametrize("case", ["filter.trap.clean", "filter.trap.process", "configuration of the worktree"])
def test_i18_programs_that_git_is_told_of_do_not_run_though_nothing_isolates(case: str, tmp_path: Path) -> None:
    """git asks the mirror for its configuration, whatever the worktree's directory says."""
    assert not asyncio.run(_spring(tmp_path, case, "off"))
