"""An agent in one file, written from docs/protocol.md alone: pyzmq and msgpack, nothing of AgentCom.

Usage: foreign_agent.py JOIN_CODE. Joins with the code, takes one shell task, runs it, reports it, and leaves.
"""

import base64
import json
import secrets
import subprocess
import sys
import time

import msgpack
import zmq

SECONDS_MAX = 60


def connect(context, address, hub_key, public, secret):
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = hub_key, public, secret
    socket.connect(address)
    return socket


def receive(socket, kinds):
    """The next message of one of these types; others are passed over."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        if socket.poll(200):
            message = msgpack.unpackb(socket.recv())
            if message["type"] in kinds:
                return message
            if message["type"] == "error":
                raise SystemExit(f"refused: {message['code']}: {message['message']}")
    raise SystemExit(f"no {kinds} came")


def send(socket, kind, **fields):
    socket.send(msgpack.packb({"type": kind, **fields}))


def main(code):
    packed = code.removeprefix("acj1.")
    address, hub_key, one_time, _role = msgpack.unpackb(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    context, hub_key = zmq.Context(), hub_key.encode()

    public, secret = zmq.curve_keypair()
    joining = connect(context, address, hub_key, zmq.curve_public(one_time.encode()), one_time.encode())
    send(joining, "enrol", name="foreigner", key=public.decode())
    print("enrolled as", receive(joining, ["enrolled"])["name"], flush=True)
    joining.close()

    hub = connect(context, address, hub_key, public, secret)
    agents = [{"name": "stranger", "backends": ["shell"]}]
    send(hub, "hello", protocol=1, process=secrets.token_hex(16), host={"name": "foreigner", "agents": agents})
    session = receive(hub, ["welcome"])["session"]
    send(hub, "heartbeat", session=session, beat=1, attempts=[])

    assign = receive(hub, ["assign"])
    lease = {"session": session, "task": assign["task"], "attempt": assign["attempt"]}
    send(hub, "accept", **lease)
    send(hub, "heartbeat", session=session, beat=2, attempts=[[assign["task"], assign["attempt"], 0]])
    started = time.monotonic()
    done = subprocess.run(["sh", "-c", assign["spec"]["command"]], capture_output=True, text=True)
    result = {
        "status": "unchecked",
        "output": done.stdout,
        "backend": "shell",
        "model": "none",
        "cost_usd": 0,
        "duration_ms": int((time.monotonic() - started) * 1000),
        "exit_code": done.returncode,
    }
    send(hub, "result", **lease, outcome="completed", result=result)
    print(json.dumps(receive(hub, ["result_ack"])), flush=True)
    send(hub, "bye", session=session)
    hub.close()
    context.term()


if __name__ == "__main__":
    main(sys.argv[1])
