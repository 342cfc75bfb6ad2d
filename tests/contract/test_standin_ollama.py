"""The Ollama stand-in behaves as the real server is known to: each test names one fact about that server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.standins import StandIn, standin
from tests.standins.starter import ROOT

HELLO = [{"role": "user", "content": "Say hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "read_file", "description": "", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=10.0) as client:
        yield client


@pytest.fixture(scope="module")
def process() -> Iterator[StandIn]:
    with standin("ollama") as running:
        yield running


@pytest.fixture
def server(process: StandIn) -> StandIn:
    """One process for all tests, as new: default script, nothing loaded, an empty log."""
    process.reset()
    return process


def chat(http: httpx2.Client, server: StandIn, **fields: Any) -> httpx2.Response:
    body = {"model": "llama3.2:3b", "messages": HELLO} | fields
    return http.post(f"{server.url}/api/chat", json=body)


def lines_of(response: httpx2.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


def loaded(http: httpx2.Client, server: StandIn) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = http.get(f"{server.url}/api/ps").json()["models"]
    return models


def test_the_read_routes_have_the_shapes_of_the_real_server(http: httpx2.Client, server: StandIn) -> None:
    assert http.get(server.url).text == "Ollama is running"
    assert http.head(server.url).status_code == 200
    assert http.get(f"{server.url}/api/version").json() == {"version": "0.33.0"}
    tags = http.get(f"{server.url}/api/tags").json()["models"]
    assert [tag["name"] for tag in tags] == ["llama3.2:3b", "qwen2.5-coder:7b"]
    assert all(tag["model"] == tag["name"] and len(tag["digest"]) == 64 for tag in tags)
    assert loaded(http, server) == []
    shown = http.post(f"{server.url}/api/show", json={"model": "llama3.2:3b"}).json()
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["llama.context_length"] == 131_072
    assert http.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "llama3.2:3b"
    assert http.get(f"{server.url}/metrics").status_code == 404


def test_a_chat_streams_by_default_and_ends_with_figures_in_nanoseconds(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"replies": [{"content": "Hello there", "chunks": 3, "tokens_in": 9, "tokens_out": 2}]})
    response = chat(http, server)
    *pieces, final = lines_of(response)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert "".join(piece["message"]["content"] for piece in pieces) == "Hello there"
    assert len(pieces) == 3
    assert not any(piece["done"] for piece in pieces)
    assert (final["done"], final["done_reason"]) == (True, "stop")
    assert (final["prompt_eval_count"], final["eval_count"]) == (9, 2)
    assert final["eval_duration"] == 20_000_000


def test_without_streaming_there_is_one_object_and_a_figure_of_0_is_left_out(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"replies": [{"content": "Hi", "tokens_in": 0, "tokens_out": 1}]})
    answer = chat(http, server, stream=False).json()
    assert answer["message"] == {"role": "assistant", "content": "Hi"}
    assert answer["done"] is True
    assert "prompt_eval_count" not in answer
    assert "prompt_eval_duration" not in answer


def test_generate_has_response_instead_of_message(http: httpx2.Client, server: StandIn) -> None:
    body = {"model": "llama3.2:3b", "prompt": "Say hello", "stream": False}
    answer = http.post(f"{server.url}/api/generate", json=body).json()
    assert answer["response"] == "Done."
    assert "context" in answer
    assert "message" not in answer


def test_a_tool_call_comes_whole_with_an_object_and_ends_with_stop(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"replies": [{"tool_calls": [{"name": "read_file", "arguments": {"path": "a.py"}}]}]})
    call_line, final = lines_of(chat(http, server, tools=[TOOL]))
    function = call_line["message"]["tool_calls"][0]["function"]
    assert function == {"index": 0, "name": "read_file", "arguments": {"path": "a.py"}}
    assert final["done_reason"] == "stop"


def test_a_model_that_was_offered_no_tools_writes_its_call_as_text(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"replies": [{"tool_calls": [{"name": "read_file", "arguments": {}}]}]})
    message = chat(http, server, stream=False).json()["message"]
    assert json.loads(message["content"]) == {"name": "read_file", "arguments": {}}
    assert "tool_calls" not in message


def test_thinking_is_on_unless_switched_off_and_comes_before_the_content(
    http: httpx2.Client, server: StandIn
) -> None:
    model = {"name": "deep:1b", "capabilities": ["completion", "thinking"]}
    server.set_script({"models": [model], "replies": [{"content": "4", "thinking": "2+2", "chunks": 1}]})
    first, second, _ = lines_of(chat(http, server, model="deep:1b"))
    assert first["message"] == {"role": "assistant", "content": "", "thinking": "2+2"}
    assert second["message"]["content"] == "4"
    without = chat(http, server, model="deep:1b", think=False, stream=False).json()
    assert without["message"] == {"role": "assistant", "content": "4"}


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"model": "absent"}, 404, "model 'absent' not found"),
        ({"model": ""}, 400, "model is required"),
        ({"model": "a//b"}, 400, "invalid model name"),
        ({"think": True}, 400, '"llama3.2:3b" does not support thinking'),
        ({"keep_alive": "300"}, 400, 'time: missing unit in duration "300"'),
        ({"options": {"num_ctx": "big"}}, 500, 'option "num_ctx" must be of type integer'),
        ({"format": "yaml"}, 500, 'invalid format: "yaml"; expected "json" or a valid JSON Schema object'),
    ],
)
def test_a_wrong_request_is_refused_with_its_status_and_a_text(
    http: httpx2.Client, server: StandIn, fields: dict[str, Any], status: int, text: str
) -> None:
    response = chat(http, server, **fields)
    assert (response.status_code, response.json()) == (status, {"error": text})


def test_tools_for_a_model_without_them_and_broken_bodies_are_refused(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"models": [{"name": "plain:1b", "capabilities": ["completion"]}]})
    response = chat(http, server, model="plain:1b", tools=[TOOL])
    assert (response.status_code, response.json()) == (400, {"error": '"plain:1b" does not support tools'})
    for content in (b"", b"{"):
        assert http.post(f"{server.url}/api/chat", content=content).status_code == 400


def test_names_mean_the_same_model_in_any_case_and_with_the_default_tag(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"models": [{"name": "Mine"}]})
    assert http.get(f"{server.url}/api/tags").json()["models"][0]["name"] == "Mine:latest"
    for name in ("mine", "MINE:latest", "library/mine"):
        assert chat(http, server, model=name).status_code == 200
    assert server.state()["loads"] == {"Mine:latest": 1}


def test_only_loopback_and_private_hosts_are_answered(http: httpx2.Client, server: StandIn) -> None:
    for host, status in (
        ("localhost:11434", 200),
        ("gpu.internal", 200),
        ("192.168.1.4", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("93.184.216.34", 403),
    ):
        response = http.get(f"{server.url}/api/version", headers={"host": host})
        assert response.status_code == status, host
    refused = http.get(f"{server.url}/api/version", headers={"host": "evil.example"})
    assert refused.content == b""


def test_a_model_that_is_being_loaded_is_not_listed_before_the_load_has_ended(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"models": [{"name": "big:70b", "load_delay_s": 0.4}]})
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(chat, http, server, model="big:70b")
        server.wait_for(lambda state: state["loading"] == "big:70b")
        assert loaded(http, server) == []
        assert answer.result().status_code == 200
    (entry,) = loaded(http, server)
    assert (entry["name"], entry["context_length"]) == ("big:70b", 4096)
    assert entry["size_vram"] == entry["size"]


def test_a_cold_load_holds_up_other_loads_but_not_a_warm_model(http: httpx2.Client, server: StandIn) -> None:
    cold = [{"name": name, "load_delay_s": 30} for name in ("first:1b", "second:1b")]
    server.set_script({"models": [*cold, {"name": "warm:1b", "warm": True}], "max_queue": 1})
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(chat, http, server, model="first:1b")]
        server.wait_for(lambda state: state["loading"] == "first:1b")
        waiting.append(pool.submit(chat, http, server, model="second:1b"))
        server.wait_for(lambda state: state["pending"] == 1)
        refused = chat(http, server, model="second:1b")
        assert refused.status_code == 503
        assert refused.json()["error"].startswith("server busy, please try again.")
        assert chat(http, server, model="warm:1b").status_code == 200
        server.kill()
        assert all(
            isinstance(one.exception(), httpx2.RemoteProtocolError | httpx2.ReadError) for one in waiting
        )


def test_requests_beyond_num_parallel_wait_in_silence_and_are_never_refused(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"num_parallel": 2, "max_queue": 1, "replies": [{"first_byte_delay_s": 0.1}]})
    assert chat(http, server).status_code == 200
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: chat(http, server).status_code, range(6)))
    assert answers == [200] * 6
    assert server.state()["peak_running"] == {"llama3.2:3b": 2}


def test_another_load_time_option_means_a_reload_and_a_runtime_option_does_not(
    http: httpx2.Client, server: StandIn
) -> None:
    for options in ({}, {"num_ctx": 4096}, {"temperature": 0.1, "no_such_option": 1}, {"num_gpu": -1}):
        chat(http, server, options=options)
    assert server.state()["loads"] == {"llama3.2:3b": 1}
    chat(http, server, options={"num_ctx": 8192})
    assert server.state()["loads"] == {"llama3.2:3b": 2}
    assert loaded(http, server)[0]["context_length"] == 8192
    chat(http, server, options={"num_ctx": 8192}, shift=False)
    assert server.state()["loads"] == {"llama3.2:3b": 3}


def test_an_empty_chat_loads_and_keep_alive_0_unloads(http: httpx2.Client, server: StandIn) -> None:
    assert chat(http, server, messages=[]).json()["done_reason"] == "load"
    assert [entry["name"] for entry in loaded(http, server)] == ["llama3.2:3b"]
    assert chat(http, server, messages=[], keep_alive=0).json()["done_reason"] == "unload"
    assert loaded(http, server) == []
    chat(http, server, keep_alive=0)
    assert loaded(http, server) == []
    assert server.state()["loads"] == {"llama3.2:3b": 2}


def test_keep_alive_minus_1_expires_in_the_far_future_and_stands_first(
    http: httpx2.Client, server: StandIn
) -> None:
    chat(http, server, keep_alive="1h30m")
    chat(http, server, model="qwen2.5-coder:7b", keep_alive=-1)
    forever, later = loaded(http, server)
    assert forever["name"] == "qwen2.5-coder:7b"
    assert forever["expires_at"] > "2300"
    assert later["expires_at"] < "2100"


def test_beyond_max_loaded_the_idle_model_with_the_shortest_keep_alive_goes(
    http: httpx2.Client, server: StandIn
) -> None:
    warm = [{"name": f"m{n}:1b", "warm": True, "keep_alive": f"{n}h"} for n in (1, 2)]
    server.set_script({"models": [*warm, {"name": "new:1b"}], "max_loaded": 2})
    assert chat(http, server, model="new:1b").status_code == 200
    assert server.state()["loaded"] == ["m2:1b", "new:1b"]


def test_a_load_that_fails_is_a_500_with_the_reason(http: httpx2.Client, server: StandIn) -> None:
    reason = "model requires more system memory (40.0 GiB) than is available (8.0 GiB)"
    server.set_script({"models": [{"name": "huge:400b", "load_error": reason}]})
    response = chat(http, server, model="huge:400b")
    assert (response.status_code, response.json()) == (500, {"error": reason})
    assert loaded(http, server) == []


def test_a_cloud_model_is_listed_as_remote_and_never_loaded(http: httpx2.Client, server: StandIn) -> None:
    server.set_script({"models": [{"name": "big:cloud", "remote_host": "https://cloud.invalid"}]})
    assert http.get(f"{server.url}/api/tags").json()["models"][0]["remote_host"] == "https://cloud.invalid"
    assert chat(http, server, model="big:cloud").status_code == 200
    assert loaded(http, server) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503])
def test_a_status_fault_has_a_text_and_strikes_once(
    http: httpx2.Client, server: StandIn, status: int
) -> None:
    server.set_script({"replies": [{"fault": str(status)}, {"content": "Now it works"}]})
    response = chat(http, server)
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)
    assert chat(http, server, stream=False).json()["message"]["content"] == "Now it works"


def test_an_error_in_mid_stream_has_status_200_and_is_the_last_line(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"replies": [{"content": "abcdef", "fault": "mid_stream_error"}]})
    response = chat(http, server)
    first, last = lines_of(response)
    assert response.status_code == 200
    assert first["message"]["content"] == "ab"
    assert last["error"].startswith("model runner has unexpectedly stopped")
    assert chat(http, server, stream=False).status_code == 500


@pytest.mark.parametrize("streams", [True, False])
def test_a_cut_answer_breaks_the_connection(http: httpx2.Client, server: StandIn, streams: bool) -> None:
    server.set_script({"replies": [{"fault": "cut"}]})
    with pytest.raises(httpx2.RemoteProtocolError):
        chat(http, server, stream=streams)
    assert server.wait_for_outcome("cut", "/api/chat")["status"] == 200


def test_an_unfinished_stream_ends_cleanly_without_its_final_line(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"replies": [{"fault": "unfinished"}]})
    assert [line["done"] for line in lines_of(chat(http, server))] == [False]


def test_rubbish_is_no_json_and_an_empty_answer_has_no_content(http: httpx2.Client, server: StandIn) -> None:
    server.set_script({"replies": [{"fault": "rubbish"}, {"fault": "empty"}]})
    with pytest.raises(ValueError, match=r"Expecting value|codec"):
        chat(http, server).json()
    (final,) = lines_of(chat(http, server))
    assert final["done"] is True
    assert final["message"]["content"] == ""


@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_a_hung_model_is_silent_until_its_client_leaves_while_the_server_stays_well(
    http: httpx2.Client, server: StandIn, fault: str
) -> None:
    server.set_script({"replies": [{"fault": fault}]})
    with pytest.raises(httpx2.ReadTimeout):
        http.post(f"{server.url}/api/chat", json={"model": "llama3.2:3b", "messages": HELLO}, timeout=0.3)
    assert http.get(f"{server.url}/api/version").status_code == 200
    assert server.wait_for_outcome("client_left", "/api/chat")["status"] == (None if fault == "hang" else 200)
    server.wait_for(lambda state: state["running"] == {"llama3.2:3b": 0})


def test_a_client_that_leaves_during_a_load_aborts_the_load(http: httpx2.Client, server: StandIn) -> None:
    server.set_script({"models": [{"name": "big:70b", "load_delay_s": 600}, {"name": "small:1b"}]})
    with pytest.raises(httpx2.ReadTimeout):
        http.post(f"{server.url}/api/chat", json={"model": "big:70b", "messages": HELLO}, timeout=0.2)
    server.wait_for(lambda state: state["loading"] is None)
    assert chat(http, server, model="small:1b").status_code == 200
    assert server.state()["loads"] == {"small:1b": 1}


def test_a_client_that_leaves_in_mid_stream_frees_its_slot(http: httpx2.Client, server: StandIn) -> None:
    server.set_script({"replies": [{"chunk_delay_s": 600}, {"content": "next"}]})
    body = {"model": "llama3.2:3b", "messages": HELLO}
    with http.stream("POST", f"{server.url}/api/chat", json=body) as response:
        next(response.iter_lines())
    assert chat(http, server, stream=False).json()["message"]["content"] == "next"
    assert server.log("/api/chat")[0]["outcome"] == "client_left"


def test_a_prompt_beyond_the_context_is_cut_in_silence_unless_truncate_is_false(
    http: httpx2.Client, server: StandIn
) -> None:
    long = [{"role": "user", "content": "word " * 2000}]
    options = {"num_ctx": 1024}
    server.set_script({"replies": [{}, {}, {"fault": "truncate"}]})
    answer = chat(http, server, messages=long, options=options, stream=False).json()
    assert answer["prompt_eval_count"] == 514
    refused = chat(http, server, messages=long, options=options, truncate=False)
    assert (refused.status_code, refused.json()) == (
        400,
        {"error": "the input length exceeds the context length"},
    )
    assert chat(http, server, options=options, stream=False).json()["prompt_eval_count"] == 514


def test_num_predict_cuts_the_answer_with_done_reason_length(http: httpx2.Client, server: StandIn) -> None:
    server.set_script({"replies": [{"content": "abcdefghij", "tokens_out": 10}]})
    answer = chat(http, server, options={"num_predict": 4}, stream=False).json()
    assert answer["message"]["content"] == "abcd"
    assert (answer["done_reason"], answer["eval_count"]) == ("length", 4)


def test_replies_are_chosen_by_the_last_user_message_and_then_by_turn(
    http: httpx2.Client, server: StandIn
) -> None:
    replies = [
        {"content": "one"},
        {"content": "two"},
        {"content": "blue", "match": "colour"},
        {"content": "coder", "model": "qwen2.5-coder:7b"},
    ]
    server.set_script({"replies": replies})

    def answer(text: str, model: str = "llama3.2:3b") -> str:
        messages = [{"role": "user", "content": text}, {"role": "tool", "content": "colour"}]
        reply = chat(http, server, model=model, messages=messages, stream=False)
        return str(reply.json()["message"]["content"])

    said = [answer("a"), answer("which colour?"), answer("b"), answer("c"), answer("d", "qwen2.5-coder:7b")]
    assert said == ["one", "blue", "two", "two", "coder"]


def test_a_misspelt_script_is_refused_by_name(server: StandIn) -> None:
    with pytest.raises(ValueError, match="unknown contnt"):
        server.set_script({"replies": [{"contnt": "x"}]})
    with pytest.raises(ValueError, match="unknown fault 999"):
        server.set_script({"replies": [{"fault": "999"}]})


def test_a_server_that_is_down_gives_no_byte_until_it_is_up_again(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"replies": [{"fault": "hang"}, {}]})
    with ThreadPoolExecutor() as pool:
        running = pool.submit(chat, http, server)
        server.wait_for(lambda state: state["running"] == {"llama3.2:3b": 1})
        server.down()
        assert isinstance(running.exception(), httpx2.TransportError)
    with pytest.raises(httpx2.TransportError):
        http.get(f"{server.url}/api/version")
    assert server.state()["down"] is True
    assert server.log("/api/chat")[0]["outcome"] == "dropped"
    server.up()
    assert chat(http, server).status_code == 200


def test_a_killed_server_refuses_connections_and_comes_back_on_its_port(
    http: httpx2.Client, server: StandIn
) -> None:
    url = server.url
    server.kill()
    with pytest.raises(httpx2.ConnectError):
        http.get(url)
    server.restart()
    assert server.url == url
    assert http.get(url).status_code == 200


def test_a_route_can_be_slow_or_broken_while_the_others_are_well(
    http: httpx2.Client, server: StandIn
) -> None:
    server.set_script({"routes": {"/api/ps": {"delay_s": 600}, "/api/tags": {"status": 500}}})
    with pytest.raises(httpx2.ReadTimeout):
        http.get(f"{server.url}/api/ps", timeout=0.1)
    assert http.get(f"{server.url}/api/tags").status_code == 500
    assert http.get(f"{server.url}/api/version").status_code == 200


def test_the_log_has_each_request_in_order_with_its_headers_and_body(
    http: httpx2.Client, server: StandIn
) -> None:
    http.get(f"{server.url}/api/tags?x=1", headers={"x-team": "blue"})
    chat(http, server)
    first, second = server.log()
    assert (first["method"], first["path"], first["query"]) == ("GET", "/api/tags", "x=1")
    assert first["headers"]["x-team"] == "blue"
    assert second["body"] == {"model": "llama3.2:3b", "messages": HELLO}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_started_by_hand_it_says_one_ready_line_and_ends_on_a_signal(
    http: httpx2.Client, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"version": "9.9.9"}))
    command = [sys.executable, "-m", "tests.standins.ollama", "--port", "0", "--script", str(script)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        ready = json.loads(child.stdout.readline())
        assert (ready["ready"], ready["pid"]) == (True, child.pid)
        assert http.get(f"{ready['url']}/api/version").json() == {"version": "9.9.9"}
        os.kill(child.pid, number)
        assert child.wait(5) == 0


def test_it_ends_by_itself_when_the_process_that_started_it_dies() -> None:
    starter = (
        "from tests.standins import standin\nwith standin('ollama') as s: print(s.url, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        connection = HTTPConnection(parent.stdout.readline().decode().strip().removeprefix("http://"))
        connection.request("GET", "/api/version")
        assert connection.getresponse().read() == b'{"version": "0.33.0"}'
        parent.kill()
        assert connection.sock.recv(1) == b""
        connection.close()
