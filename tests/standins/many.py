"""Very many Ollama servers in one process: the paths /0 to /N-1 are a server each, so that one can check hundreds.

By hand: `python -m tests.standins.many --slow 50 --dead 50`. Of the paths the first `--dead` break the connection, the
next `--slow` answer after `--slow-s`. It says how many checks were under way at once in `/__state`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any

MODELS = {"models": [{"name": "qwen2.5-coder:7b", "digest": "d" * 64, "size": 5 << 30, "capabilities": ["completion"]}]}
ANSWERS: dict[str, Any] = {
    "api/version": {"version": "0.33.0"},
    "api/tags": MODELS,
    "api/ps": {"models": [{"name": "qwen2.5-coder:7b", "size": 5 << 30, "size_vram": 5 << 30}]},
}


class Many:
    """All of the servers."""

    def __init__(self, dead: int, slow: int, slow_s: float) -> None:
        self._dead, self._slow, self._slow_s = dead, slow, slow_s
        self._at_once = self.peak = 0
        self.checked: dict[int, int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode().lstrip("/")
                if path == "__state":
                    self._answer(writer, {"peak": self.peak, "checked": self.checked})
                elif not await self._one(path, writer):
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client has left
        finally:
            writer.close()

    async def _one(self, path: str, writer: asyncio.StreamWriter) -> bool:
        number_text, _, route = path.partition("/")
        number = int(number_text)
        if number < self._dead:
            return False
        self._at_once += 1
        self.peak = max(self.peak, self._at_once)
        try:
            if number < self._dead + self._slow:
                await asyncio.sleep(self._slow_s)
        finally:
            self._at_once -= 1
        if route == "api/version":
            self.checked[number] = self.checked.get(number, 0) + 1
        self._answer(writer, ANSWERS[route])
        return True

    def _answer(self, writer: asyncio.StreamWriter, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)


async def run(options: argparse.Namespace) -> None:
    many = Many(options.dead, options.slow, options.slow_s)
    server = await asyncio.start_server(many.serve, "127.0.0.1", options.port, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"ready": True, "url": f"http://127.0.0.1:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)  # it ends when who started it does
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.standins.many")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dead", type=int, default=0)
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--slow-s", type=float, default=1.0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
