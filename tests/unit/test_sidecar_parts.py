"""The sidecar's small parts: its policy, the log stream, its names, which addresses it probes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from agentcom import limits, messages
from agentcom.auth import KeyPair
from agentcom.config import (
    AnthropicSettings,
    Home,
    PolicySettings,
    ProgramSettings,
    SandboxSettings,
    Settings,
    SidecarSettings,
)
from agentcom.errors import ConfigError
from agentcom.model import Allowance, Backend, FailureClass, Role, Strategy, TaskSpec
from agentcom_sidecar import agents, isolation, policy
from agentcom_sidecar.backends.base import BackendError
from agentcom_sidecar.daemon import Daemon
from agentcom_sidecar.endpoints import is_loopback
from agentcom_sidecar.git import Git, WorkspaceError, check_branch
from agentcom_sidecar.log_stream import PIECES_PER_FLUSH_MAX, LogStream
from agentcom_sidecar.programs import catalogue
from agentcom_sidecar.session import Offers
from agentcom_sidecar.work import Outcome, Work
from agentcom_sidecar.workspace import Workspace
from tests.fake_hub import assignment


def work(home: Path, role: Role, sandbox: SandboxSettings) -> Work:
    async def open_gate() -> None:
        return None

    spec = TaskSpec(description="x", command="true")
    return Work(
        assign=assignment(1, 1, "agent", spec, submitter_role=role),
        spec=spec,
        spec_sha256="",
        workspace=Workspace(path=home, branch="", base_commit="", has_repository=False, git=Git(home=home)),
        settings=Settings(sandbox=sandbox),
        home=Home(home),
        log=lambda text: None,
        progress=lambda: None,
        hub_gate=open_gate,
        on_process=lambda mark: None,
        scratch=home,
    )


@pytest.fixture
def nothing_isolates(monkeypatch: pytest.MonkeyPatch) -> None:
    found = isolation.Isolation("none", "bubblewrap is not installed", "install it")
    monkeypatch.setattr(isolation, "_found", found)


def test_isolated_commands_of_everyone_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_found", isolation.BUBBLEWRAP)
    for mode in ("auto", "require"):
        one = work(tmp_path, Role.submit, SandboxSettings(mode=mode))
        assert policy.check_commands(one) is None
        assert policy.check_model_commands(one) is None
    one = work(tmp_path, Role.submit, SandboxSettings(mode="off"))
    assert policy.check_commands(one) is not None


def test_before_isolation_was_tried_out_nothing_isolates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_found", None)
    assert policy.check_commands(work(tmp_path, Role.submit, SandboxSettings())) is not None


@pytest.mark.usefixtures("nothing_isolates")
@pytest.mark.parametrize("role", [Role.operate, Role.admin])
def test_commands_of_those_who_operate_the_hub_run_without_isolation(tmp_path: Path, role: Role) -> None:
    assert policy.check_commands(work(tmp_path, role, SandboxSettings())) is None


@pytest.mark.usefixtures("nothing_isolates")
def test_commands_of_others_need_the_owner_to_accept_the_risk(tmp_path: Path) -> None:
    error = policy.check_commands(work(tmp_path, Role.submit, SandboxSettings()))
    assert error is not None
    assert (error.failure_class, error.code) == (FailureClass.configuration, "unisolated_refused")
    assert "sandbox.accept_unisolated" in error.message
    accepted = SandboxSettings(accept_unisolated=True)
    assert policy.check_commands(work(tmp_path, Role.submit, accepted)) is None


@pytest.mark.usefixtures("nothing_isolates")
def test_a_command_that_a_model_chose_is_vouched_for_by_nobody(tmp_path: Path) -> None:
    error = policy.check_model_commands(work(tmp_path, Role.admin, SandboxSettings()))
    assert error is not None
    assert error.code == "unisolated_refused"
    accepted = SandboxSettings(accept_unisolated=True)
    assert policy.check_model_commands(work(tmp_path, Role.submit, accepted)) is None


@pytest.mark.usefixtures("nothing_isolates")
def test_a_host_that_requires_isolation_refuses_every_command_where_nothing_isolates(tmp_path: Path) -> None:
    required = SandboxSettings(mode="require", accept_unisolated=True)
    error = policy.check_commands(work(tmp_path, Role.admin, required))
    assert error is not None
    assert (error.failure_class, error.code) == (FailureClass.configuration, "sandbox_unavailable")
    assert "sandbox.mode" in error.message
    assert "bubblewrap is not installed: install it" in error.message


def assigned(spec: TaskSpec, role: Role = Role.submit, **route: Any) -> messages.Assign:
    made = assignment(1, 1, "agent", spec, submitter_role=role)
    return msgspec.structs.replace(made, route=msgspec.structs.replace(made.route, **route))


COMMAND = TaskSpec(description="x", command="true")
NETWORK = TaskSpec(description="x", command="true", allow=(Allowance.network,))
REPOSITORY = TaskSpec(description="x", repo="https://git.example/team/one")


@pytest.mark.parametrize(
    ("allowed", "spec", "role", "setting"),
    [
        ({}, COMMAND, Role.submit, None),
        ({}, NETWORK, Role.submit, "policy.network"),
        ({}, NETWORK, Role.operate, None),
        ({"network": "nobody"}, NETWORK, Role.admin, "policy.network"),
        ({"network": "all"}, NETWORK, Role.submit, None),
        ({"commands": "trusted"}, COMMAND, Role.submit, "policy.commands"),
        ({"commands": "trusted"}, COMMAND, Role.admin, None),
        ({"commands": "nobody"}, COMMAND, Role.admin, "policy.commands"),
        ({"tiers": ("standard",)}, COMMAND, Role.admin, "policy.tiers"),
        ({"repositories": ("https://git.example/team/*",)}, REPOSITORY, Role.submit, None),
        ({"repositories": ("https://git.example/other/*",)}, REPOSITORY, Role.submit, "policy.repositories"),
        ({"repositories": ("https://git.example/other/*",)}, COMMAND, Role.submit, None),
    ],
)
def test_a_host_takes_what_its_policy_allows_and_says_which_setting_does_not(
    allowed: dict[str, Any], spec: TaskSpec, role: Role, setting: str | None
) -> None:
    why = policy.refusal_of(assigned(spec, role), spec, PolicySettings(**allowed))
    assert (why or "").split(" ")[0] == (setting or "")


def test_a_host_calls_the_models_of_its_policy_only() -> None:
    spec = TaskSpec(description="x")
    allowed = PolicySettings(models=("qwen*",))
    one = assigned(spec, strategy=Strategy.local_llm, model="qwen2.5-coder:7b")
    assert policy.refusal_of(one, spec, allowed) is None
    one = assigned(spec, strategy=Strategy.local_llm, model="llama3")
    assert "policy.models" in (policy.refusal_of(one, spec, allowed) or "")


def test_a_host_says_for_whom_it_calls_models_that_a_third_party_runs() -> None:
    spec = TaskSpec(description="x")
    for who, role, is_taken in (
        ("all", Role.submit, True),
        ("trusted", Role.submit, False),
        ("trusted", Role.operate, True),
        ("nobody", Role.admin, False),
    ):
        allowed = PolicySettings(cloud_models=who)  # type: ignore[arg-type]
        one = assigned(spec, role, strategy=Strategy.local_llm, model="gpt-oss:120b-cloud")
        assert policy.refusal_of(one, spec, allowed) is None, "of its own machine"
        one.route = msgspec.structs.replace(one.route, remote=True)
        why = policy.refusal_of(one, spec, allowed)
        assert (why is None) == is_taken
        assert is_taken or "policy.cloud_models" in (why or "")


def test_where_nobodys_commands_run_no_check_runs_one_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_found", isolation.BUBBLEWRAP)
    one = work(tmp_path, Role.admin, SandboxSettings())
    one = replace(one, settings=msgspec.structs.replace(one.settings, policy=PolicySettings(commands="nobody")))
    for refusal in (policy.check_commands(one), policy.check_model_commands(one)):
        assert refusal is not None
        assert refusal.code == "policy_refused"


def test_a_command_sees_what_the_settings_name_but_never_the_sidecars_home(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    home = tmp_path / "state"
    home.mkdir()

    def shown(*named: Path | str) -> tuple[Path, ...]:
        one = work(home, Role.admin, SandboxSettings(readable=tuple(map(str, named))))
        return policy.view(one).readable

    assert shown(tools, tmp_path / "gone") == (tools,)
    for wrong in (tmp_path, home, home / "keys", "relative"):
        with pytest.raises(BackendError, match=r"sandbox\.readable") as refusal:
            shown(wrong)
        assert refusal.value.code == "bad_setting"


def test_a_command_gets_the_network_only_when_its_task_asks(tmp_path: Path) -> None:
    one = work(tmp_path, Role.admin, SandboxSettings())
    assert not policy.view(one).network
    assert policy.view(replace(one, spec=NETWORK)).network


def test_limits_of_a_command_are_the_hosts() -> None:
    made = policy.command_limits(Settings(sandbox=SandboxSettings(memory_mib=5, processes_max=9, file_mib=7)))
    assert (made.tree_memory_bytes_max, made.tree_processes_max) == (5 << 20, 9)
    assert made.file_bytes_max == 7 << 20
    memory = psutil.virtual_memory().total
    assert policy.command_limits(Settings()).tree_memory_bytes_max == int(0.8 * memory)


class Wire:
    """What a log stream sends; `is_up` false loses it, as without a session."""

    def __init__(self) -> None:
        self.sent: list[messages.Log] = []
        self.is_up = True

    def __call__(self, make: object) -> bool:
        assert callable(make)
        if self.is_up:
            log = messages.decode_to_hub(messages.encode(make(b"0" * 16)))
            assert isinstance(log, messages.Log)
            self.sent.append(log)
        return self.is_up


def test_offsets_count_bytes_and_pieces_never_cut_a_character() -> None:
    wire = Wire()
    stream = LogStream(1, 2, wire)
    text = "grüße 🚀 " * 3000
    stream.add(text)
    stream.flush()
    assert "".join(log.text for log in wire.sent) == text
    at = 0
    for log in wire.sent:
        assert log.offset == at
        at += len(log.text.encode())
    assert len(wire.sent) > 1


def test_pieces_lost_without_a_session_leave_a_gap_in_the_offsets() -> None:
    wire = Wire()
    stream = LogStream(1, 1, wire)
    wire.is_up = False
    stream.add("lost\n")
    stream.flush()
    wire.is_up = True
    stream.add("seen\n")
    stream.flush()
    assert [(log.offset, log.text) for log in wire.sent] == [(5, "seen\n")]


def test_a_flood_keeps_its_newest_part_within_the_bound() -> None:
    wire = Wire()
    stream = LogStream(1, 1, wire)
    for _ in range(100):
        stream.add("x" * 10_000)
    stream.add("the end")
    stream.close()
    kept = sum(len(log.text) for log in wire.sent)
    assert kept <= PIECES_PER_FLUSH_MAX * limits.LOG_CHUNK_BYTES_MAX
    assert wire.sent[-1].text.endswith("the end")
    assert wire.sent[-1].offset + len(wire.sent[-1].text) == 1_000_007


def test_what_looks_like_a_key_is_not_streamed() -> None:
    wire = Wire()
    stream = LogStream(1, 1, wire)
    stream.add("key sk-ant-REDACTED end")
    stream.flush()
    assert "sk-ant" not in wire.sent[0].text


def test_a_secret_that_comes_in_two_pieces_is_not_streamed() -> None:
    wire = Wire()
    stream = LogStream(1, 1, wire)
    stream.add("the key is sk-ant-01234")
    stream.flush()
    stream.add("56789abcdef, he said")
    stream.close()
    assert "".join(log.text for log in wire.sent) == "the key is [redacted], he said"


def test_bytes_that_are_no_text_are_streamed_without_harm() -> None:
    wire = Wire()
    stream = LogStream(1, 1, wire)
    stream.add(b"\xff\xfe\x80".decode(errors="replace") + "\udc80")
    stream.close()
    assert len(wire.sent) == 1


def test_agents_keep_their_names_over_restarts_and_get_new_ones_when_more_are_wanted(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    first = agents.agent_names(home, 2)
    assert len(set(first)) == 2
    assert agents.agent_names(home, 2) == first
    assert agents.agent_names(home, 3)[:2] == first
    assert agents.agent_names(home, 1) == first[:1]
    assert len(agents.agent_names(home, 3)) == 3


@pytest.mark.parametrize("content", ["", "[]", '{"agents": 3}', '{"agents": [1]}', '{"agents": [""]}'])
def test_a_damaged_list_of_agents_is_refused_and_not_replaced(tmp_path: Path, content: str) -> None:
    home = Home(tmp_path / "home").prepare()
    (home.sidecar / "agents.json").write_text(content)
    with pytest.raises(ConfigError, match=r"agents\.json"):
        agents.agent_names(home, 1)
    assert (home.sidecar / "agents.json").read_text() == content


@pytest.mark.parametrize("name", ["", "büro.example.org", "-x", "a/b", "!!!", "x" * 200])
def test_every_host_has_a_name_that_the_hub_takes(name: str) -> None:
    found = agents.host_name(Settings(sidecar=SidecarSettings(name=name)))
    offer = messages.HostOffer(name=found, agents=())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(offer), type=messages.HostOffer) == offer


def test_claude_is_offered_only_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    key_file = tmp_path / "key"
    with_file = Settings(anthropic=AnthropicSettings(key_file=str(key_file)))
    assert agents.backends(Settings()) == (Backend.shell, Backend.ollama, Backend.openai)
    assert Backend.claude not in agents.backends(with_file)
    key_file.write_text("sk-ant-a-key")
    key_file.chmod(0o644)
    assert Backend.claude not in agents.backends(with_file)
    key_file.chmod(0o600)
    assert Backend.claude in agents.backends(with_file)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-a-key")
    assert Backend.claude in agents.backends(Settings())


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:11434", "http://localhost:1", "http://[::1]:1", "https://127.8.0.1"]
)
def test_servers_on_loopback_are_probed(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1",
        "http://169.254.169.254",
        "http://localhost.evil.example",
        "ftp://127.0.0.1",
        "http://u@127.0.0.1",
        "http://[",
        "",
    ],
)
def test_nothing_else_is_called_at_the_hubs_word(url: str) -> None:
    assert not is_loopback(url)


@pytest.mark.parametrize(
    "name", ["-x", "a..b", "a b", "x.lock", "a:b", "/x", "x/", "a\\b", "a\x00b", "@{x", ".x", "a/.b"]
)
def test_a_branch_that_git_could_take_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(WorkspaceError):
        check_branch(name)


@pytest.mark.parametrize("name", ["main", "release/1.0", "feature_x-2", "größe"])
def test_ordinary_branches_are_taken(name: str) -> None:
    assert check_branch(name) == name


def test_agents_json_holds_plain_names(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    names = agents.agent_names(home, 2)
    assert json.loads((home.sidecar / "agents.json").read_text()) == {"agents": list(names)}


# --- what the daemon tells of its host --------------------------------------------------------------------------


def daemon_of(home: Path) -> Daemon:
    """A daemon that has neither a hub nor a loop that goes on."""

    async def make() -> Daemon:
        made = Daemon(Home(home).prepare(), Settings(), KeyPair(public="p" * 40, secret="s" * 40), no_execute)
        made.session._context.destroy()
        return made

    async def no_execute(work: Work) -> Outcome:
        raise NotImplementedError

    return asyncio.run(make())


def test_a_sample_that_is_old_is_not_told_as_a_new_one(tmp_path: Path) -> None:
    """Older than two reports: what it comes from hangs."""
    daemon = daemon_of(tmp_path)
    assert daemon.resources() is None
    asyncio.run(daemon._take_sample())
    assert daemon.resources() is not None
    daemon._sampled_at -= 2 * Settings().sidecar.resources_s + 1
    assert daemon.resources() is None


def test_capabilities_are_told_again_only_when_they_have_changed(tmp_path: Path) -> None:
    daemon = daemon_of(tmp_path)
    daemon._tools.known = ["tool:node=18.0.0"]
    assert "tool:node=18.0.0" in daemon.offer().capabilities
    assert daemon.new_offers() is None
    daemon._tools.known = ["tool:node=20.0.0"]
    assert "tool:node=20.0.0" in (daemon.new_offers() or ((),))[0]
    assert daemon.new_offers() is None


def test_programs_that_are_offered_and_cannot_be_used_are_told_with_what_the_doctor_says(tmp_path: Path) -> None:
    well, ill = tmp_path / "well", tmp_path / "ill"
    for path in (well, ill):
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    settings = ProgramSettings(
        offer=("codex", "well", "ill", "gone", "unknown"),
        commands=("codex=", f"well={well}", f"ill={ill}", f"gone={tmp_path}/gone"),
    )
    found = dict(line.split(": ", 1) for line in catalogue.faults(settings, {"program:ill": "it ended with 3"}))
    assert found.keys() == {"codex", "ill", "gone", "unknown"}
    assert "the command of codex is empty; install Codex" in found["codex"]
    assert found["ill"] == "it ended with 3"
    assert "gone is not on this host (PATH of its sidecar); install" in found["gone"]
    assert "programs.commands" in found["unknown"]

    daemon = daemon_of(tmp_path)
    daemon.settings = msgspec.structs.replace(daemon.settings, programs=settings)
    daemon._look_at_programs()
    assert [line.partition(":")[0] for line in daemon.offer().program_faults] == ["codex", "gone", "unknown"]
    assert daemon.new_offers() is None
    daemon._tools.faults = {"program:ill": "it ended with 3"}
    daemon._look_at_programs()
    assert "ill: it ended with 3" in (daemon.new_offers() or Offers()).program_faults
