"""A TCP proxy between hosts and their hub that delays, slows, holds, half-opens and resets connections.

It runs in a thread of its own. A held direction loses no byte, as TCP would not: what was held arrives later, all
at once. Every knob may be turned at any time and counts for bytes that come after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Final

CHUNK_BYTES: Final = 16_384
QUEUE_CHUNKS: Final = 16  # read ahead per direction: a slow peer must be felt by the sender
TO_HUB, FROM_HUB = "to_hub", "from_hub"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST instead of FIN


class FaultProxy(threading.Thread):
    """Forwards 127.0.0.1:`port` to `target` ("tcp://HOST:PORT").

    latency_s: added to each direction. bytes_per_s: of each connection and direction, 0 for no limit. held: the
    directions in which nothing passes. half_open: ends are not passed on, so the other side believes in a
    connection that is dead. refusing: new connections are reset at once.
    """

    def __init__(self, target: str, receive_buffer_bytes: int = 0) -> None:
        super().__init__(daemon=True, name="proxy")
        host, port = target.removeprefix("tcp://").rsplit(":", 1)
        self.target = (host, int(port))
        self.latency_s = 0.0
        self.bytes_per_s = 0
        self.held: set[str] = set()
        self.half_open = False
        self.refusing = False
        self.connections = 0
        self.resets = 0
        self.bytes = {TO_HUB: 0, FROM_HUB: 0}
        self._buffer = receive_buffer_bytes
        self._open: set[asyncio.StreamWriter] = set()
        self._hosts: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    def reset(self) -> None:
        """Reset all connections, both sides, at once."""
        asyncio.run_coroutine_threadsafe(self._reset(), self._loop).result(10)

    def reset_hosts(self) -> None:
        """Reset the hosts' side of all connections. With `half_open` the hub does not hear of it."""
        asyncio.run_coroutine_threadsafe(self._reset(self._hosts), self._loop).result(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(10)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=CHUNK_BYTES)
        await self._over.wait()
        server.close()
        await self._reset()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _reset(self, among: set[asyncio.StreamWriter] | None = None) -> None:
        for writer in list(self._open):
            if among is None or writer in among:
                self._cut(writer)

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
        self._open.discard(writer)
        self._hosts.discard(writer)
        self.resets += 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self._hosts.add(writer)
        if self.refusing:
            self._cut(writer)
            return
        try:
            there_reader, there_writer = await self._connect()
        except OSError:
            self._cut(writer)  # the hub is not there: as if nobody listened here either
            return
        self._open.add(there_writer)
        self.connections += 1
        with contextlib.suppress(asyncio.CancelledError):  # `stop`: the streams module would log it
            await asyncio.gather(
                self._pass(reader, there_writer, TO_HUB), self._pass(there_reader, writer, FROM_HUB)
            )

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raw = socket.socket()
        raw.setblocking(False)
        if self._buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
        try:
            await asyncio.get_running_loop().sock_connect(raw, self.target)
        except OSError:
            raw.close()
            raise
        return await asyncio.open_connection(sock=raw, limit=CHUNK_BYTES)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        """One direction: read ahead a little, deliver each chunk when it is due."""
        ahead: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS)
        delivering = asyncio.create_task(self._deliver(ahead, writer, way))
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                await ahead.put((time.monotonic() + self.latency_s, chunk))
        except OSError:
            pass  # a reset is an end like any other
        while self.half_open:
            await asyncio.sleep(0.05)
        await ahead.put((time.monotonic() + self.latency_s, b""))
        await delivering

    async def _deliver(
        self, ahead: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: str
    ) -> None:
        while True:
            due, chunk = await ahead.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            while way in self.held:
                await asyncio.sleep(0.02)
            if not chunk:
                self._open.discard(writer)
                writer.close()
                return
            if writer.transport.is_closing():
                continue  # the other side is gone: swallow the rest until the end comes
            try:
                writer.write(chunk)
                await writer.drain()
            except OSError:
                continue
            self.bytes[way] += len(chunk)
            if self.bytes_per_s:
                await asyncio.sleep(len(chunk) / self.bytes_per_s)


@contextlib.contextmanager
def proxy_to(target: str, receive_buffer_bytes: int = 0) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target, receive_buffer_bytes)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
