"""Python's task queues on redis, each with the settings that made it fastest here while a task that was taken is
not forgotten before it is done (huey has no such setting: a worker that dies takes its task along).

A submit is one call of the library, made in threads of which each waits for its own; the workers are the
library's own. None keeps a value: "recorded" means that the queue was told (dramatiq, celery: acknowledged late;
huey: a result of one word).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.peer_wire import ACK_PENDING_MAX, CONSUMER, STREAM, SUBJECT, body_of, make_stream

Begin = Callable[[bytes], None]
End = Callable[[list[bytes]], None]
Submit = Callable[[bytes], None]

HUEY_THREADS: Final = 8
DRAMATIQ_THREADS: Final = 16
CELERY_PREFETCH: Final = 16
HOST: Final = "127.0.0.1"
PIPE_BYTES: Final = 1 << 16
CONNECT_S_MAX: Final = 10


def _nothing(_body: bytes) -> None:
    return


def _ignore(_bodies: list[bytes]) -> None:
    return


class Calls:
    """Submits of a library that waits for each: as many threads as there are tasks in flight, and none at all
    for one alone."""

    def __init__(self, submit: Callable[[bytes], object]) -> None:
        self._submit = submit
        self._in_flight = 0
        self._threads: list[threading.Thread] = []
        self._wanted: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)

    def prepare(self, in_flight: int) -> None:
        self._in_flight = in_flight
        while in_flight > 1 and len(self._threads) < in_flight:
            thread = threading.Thread(target=self._run, daemon=True)
            thread.start()
            self._threads.append(thread)

    def fileno(self) -> int:
        return self._read

    def submit(self, tasks: Sequence[int]) -> None:
        for task in tasks:
            if self._in_flight == 1:
                self._call(task)
            else:
                self._wanted.put(task)

    def acknowledged(self) -> list[int]:
        return taken(self._read, self._done)

    def close(self) -> None:
        for _ in self._threads:
            self._wanted.put(None)
        for thread in self._threads:
            thread.join()
        os.close(self._read)
        os.close(self._write)

    def _run(self) -> None:
        while (task := self._wanted.get()) is not None:
            self._call(task)

    def _call(self, task: int) -> None:
        try:
            self._submit(body_of(task))
            self._done.put(task)
        except Exception as error:
            self._done.put(error)
        os.write(self._write, b"\0")


def taken(pipe: int, done: queue.SimpleQueue[int | Exception]) -> list[int]:
    """The tasks in `done`; the pipe, whose bytes say that there are some, is emptied first."""
    with contextlib.suppress(BlockingIOError):
        os.read(pipe, PIPE_BYTES)
    found = []
    while not done.empty():
        task = done.get()
        if isinstance(task, Exception):
            raise RuntimeError(f"a submit failed: {task}") from task
        found.append(task)
    return found


# --- huey -----------------------------------------------------------------------------------------------


def _huey(port: int, begin: Begin, finish: End) -> tuple[Any, Any]:
    from huey import RedisHuey
    from huey.signals import SIGNAL_COMPLETE

    queue = RedisHuey("bench", host=HOST, port=port)

    @queue.task(name="nothing")  # type: ignore[untyped-decorator,unused-ignore]
    def nothing(body: bytes) -> bool:
        begin(body)
        return True

    @queue.signal(SIGNAL_COMPLETE)  # type: ignore[untyped-decorator,unused-ignore]
    def completed(_signal: str, task: Any, _error: object = None) -> None:
        finish([task.args[0]])

    return queue, nothing


def submit_huey(port: int, _threads: int) -> Submit:
    _, nothing = _huey(port, _nothing, _ignore)
    return lambda body: nothing(body)


def work_huey(port: int, begin: Begin, finish: End, ready: Callable[[], None]) -> None:
    queue, _ = _huey(port, begin, finish)
    logging.disable(logging.INFO)
    ready()
    queue.create_consumer(workers=HUEY_THREADS, periodic=False).run()


# --- dramatiq -------------------------------------------------------------------------------------------


def _dramatiq(port: int, begin: Begin, finish: End) -> tuple[Any, Any]:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    class Told(dramatiq.Middleware):  # type: ignore[misc,unused-ignore]
        def after_ack(self, _broker: Any, message: Any) -> None:
            finish([message.args[0].encode()])

    broker = RedisBroker(host=HOST, port=port, namespace="bench")  # type: ignore[no-untyped-call,unused-ignore]
    broker.add_middleware(Told())
    dramatiq.set_broker(broker)

    @dramatiq.actor(actor_name="nothing")
    def nothing(body: str) -> None:
        begin(body.encode())

    return broker, nothing


def submit_dramatiq(port: int, _threads: int) -> Submit:
    _, nothing = _dramatiq(port, _nothing, _ignore)
    return lambda body: nothing.send(body.decode())


def work_dramatiq(port: int, begin: Begin, finish: End, ready: Callable[[], None]) -> None:
    from dramatiq import Worker

    broker, _ = _dramatiq(port, begin, finish)
    Worker(broker, worker_threads=DRAMATIQ_THREADS).start()
    ready()
    threading.Event().wait()


# --- celery ---------------------------------------------------------------------------------------------


def _celery(port: int, begin: Begin, connections: int) -> tuple[Any, Any]:
    from celery import Celery

    application = Celery("bench", broker=f"redis://{HOST}:{port}/1", set_as_current=False)
    application.conf.update(
        broker_pool_limit=connections,
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        task_ignore_result=True,
        task_default_delivery_mode="persistent",
        worker_prefetch_multiplier=CELERY_PREFETCH,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
    )

    @application.task(name="nothing")  # type: ignore[untyped-decorator,unused-ignore]
    def nothing(body: str) -> None:
        begin(body.encode())

    return application, nothing


def submit_celery(port: int, threads: int) -> Submit:
    _, nothing = _celery(port, _nothing, threads)
    return lambda body: nothing.apply_async((body.decode(),))


def work_celery(port: int, begin: Begin, finish: End, ready: Callable[[], None]) -> None:
    """Told of by the last signal that celery gives, a moment before it acknowledges."""
    from celery import signals

    application, _ = _celery(port, begin, 2)

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator,unused-ignore]
    def is_ready(**_: Any) -> None:
        ready()

    @signals.task_postrun.connect(weak=False)  # type: ignore[untyped-decorator,unused-ignore]
    def is_finished(args: Any = (), **_: Any) -> None:
        finish([args[0].encode()])

    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    application.worker_main(["worker", "--pool", "solo", "--concurrency", "1", *quiet])


# --- nats-py --------------------------------------------------------------------------------------------


class NatsPySubmits:
    """Publishes of NATS's own client, all at once in an event loop with a thread of its own."""

    def __init__(self, port: int) -> None:
        make_stream(port)
        self._port = port
        self._done: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        connecting = asyncio.run_coroutine_threadsafe(self._connect(), self._loop)
        self._connection = connecting.result(CONNECT_S_MAX)
        self._stream = self._connection.jetstream()

    def prepare(self, in_flight: int) -> None:
        """Nothing: one connection carries any number."""

    def fileno(self) -> int:
        return self._read

    def submit(self, tasks: Sequence[int]) -> None:
        self._loop.call_soon_threadsafe(self._publish_all, tasks)

    def acknowledged(self) -> list[int]:
        return taken(self._read, self._done)

    def close(self) -> None:
        closing = asyncio.run_coroutine_threadsafe(self._connection.close(), self._loop)
        closing.result(CONNECT_S_MAX)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        os.close(self._read)
        os.close(self._write)

    async def _connect(self) -> Any:
        import nats

        return await nats.connect(f"nats://{HOST}:{self._port}")

    def _publish_all(self, tasks: Sequence[int]) -> None:
        for task in tasks:
            publish = self._loop.create_task(self._publish(task))
            self._open.add(publish)  # the loop alone would not keep it
            publish.add_done_callback(self._open.discard)

    async def _publish(self, task: int) -> None:
        try:
            await self._stream.publish(SUBJECT, body_of(task))
            self._done.put(task)
        except Exception as error:
            self._done.put(error)
        os.write(self._write, b"\0")


def work_nats_py(port: int, begin: Begin, finish: End, ready: Callable[[], None]) -> None:
    asyncio.run(_work_nats_py(port, begin, finish, ready))


async def _work_nats_py(port: int, begin: Begin, finish: End, ready: Callable[[], None]) -> None:
    import nats
    from nats.js.api import ConsumerConfig

    open_: set[asyncio.Task[None]] = set()

    async def work(message: Any) -> None:
        begin(message.data)
        await message.ack_sync()  # a task has ended when the server has recorded that
        finish([message.data])

    async def begin_work(message: Any) -> None:
        task = asyncio.get_running_loop().create_task(work(message))
        open_.add(task)  # the loop alone would not keep it
        task.add_done_callback(open_.discard)

    connection = await nats.connect(f"nats://{HOST}:{port}")
    await connection.jetstream().subscribe(
        SUBJECT,
        queue=CONSUMER,
        durable=CONSUMER,
        stream=STREAM,
        cb=begin_work,
        manual_ack=True,
        config=ConsumerConfig(max_ack_pending=ACK_PENDING_MAX),
    )
    ready()
    await asyncio.Event().wait()


SUBMITS: Final = {"huey": submit_huey, "dramatiq": submit_dramatiq, "celery": submit_celery}
WORKERS: Final = {
    "huey": work_huey,
    "dramatiq": work_dramatiq,
    "celery": work_celery,
    "nats-py": work_nats_py,
}
