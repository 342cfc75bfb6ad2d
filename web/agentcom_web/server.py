"""The web daemon: gunicorn in this process with one threaded worker that owns the link to the hub.

One worker, because streams and sockets live in its memory; it is started again when it dies, with the same
process id towards the hub, so that page sessions outlive it. ZeroMQ is touched only after the fork.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import sys
import threading
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from agentcom import limits, logs
from agentcom.auth import ready_line
from agentcom.config import Home, HttpSettings, Settings
from agentcom.errors import ConfigError
from agentcom.lifeline import follow_parent
from agentcom_web.app import create_app
from agentcom_web.auth import OwnNames, People, is_loopback
from agentcom_web.feed import LiveView
from agentcom_web.hub_link import HubLink, new_process_id
from agentcom_web.services import Services

READY_S = 2.0  # how long the ready line waits for the hub; later /readyz tells
GRACE_S = 2  # for requests in progress when the process is told to stop; streams end at once
KEEPALIVE_S = 15
CONNECTIONS_MAX = 512
BACKLOG = 256


def main(home: Home, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. ConfigError when the address cannot be used."""
    follow_parent()
    logs.configure("web", settings.log.level)
    home.check()
    http = settings.http
    check_exposure(http)
    listener = bind(http)
    port = listener.getsockname()[1]
    Server(home, http, port, listener.detach(), settings.log.level).run()
    return 0


def check_exposure(http: HttpSettings) -> None:
    """Tokens never cross a network in clear: beyond loopback only with TLS, here or at a proxy."""
    if bool(http.tls_cert) != bool(http.tls_key):
        raise ConfigError("http.tls_cert and http.tls_key go together: set both or none")
    if not is_loopback(http.bind) and not (http.tls_cert or http.behind_proxy):
        raise ConfigError(
            f"http.bind is {http.bind}, beyond loopback tokens would cross the network in clear: set "
            "http.tls_cert and http.tls_key, or http.behind_proxy = true behind a proxy that does TLS"
        )


def bind(http: HttpSettings) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            http.bind, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {http.bind}:{http.port} (http.bind, http.port): {error.strerror or error}"
        ) from error
    return listener


def url_of(http: HttpSettings, port: int) -> str:
    """The address as a person on this machine would type it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.bind, http.bind)  # noqa: S104
    scheme = "https" if http.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's application: its settings, and the app that is made in the worker."""

    def __init__(self, home: Home, http: HttpSettings, port: int, descriptor: int, level: str) -> None:
        self._home, self._http, self._port = home, http, port
        self._descriptor, self._level = descriptor, level
        self._process = new_process_id()
        # Shared with the workers: the ready line is printed once, by the first that is ready.
        self._said_ready = mmap.mmap(-1, 1)
        self.services: Services | None = None
        super().__init__()

    def load_config(self) -> None:
        wanted: dict[str, Any] = {
            "bind": f"fd://{self._descriptor}",
            "worker_class": Worker,
            "workers": 1,
            "threads": limits.WEB_THREADS,
            "worker_connections": CONNECTIONS_MAX,
            "keepalive": KEEPALIVE_S,
            "graceful_timeout": GRACE_S,
            "timeout": 60,
            "logger_class": ServerLog,
            "loglevel": self._level,
            "proc_name": "agentcom-web",
            "forwarded_allow_ips": "",
            "control_socket_disable": True,
        }
        if self._http.tls_cert:
            wanted |= {"certfile": self._http.tls_cert, "keyfile": self._http.tls_key}
        for name, value in wanted.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """Runs in the worker, after the fork."""
        view = LiveView()
        link = HubLink(self._home, self._process, view)
        self.services = Services(
            link=link, view=view, people=People(link), names=OwnNames(self._http, self._port), http=self._http
        )
        link.start()
        threading.Thread(target=self._say_ready, name="ready", daemon=True).start()
        return create_app(self.services)

    def stop_streams(self) -> None:
        """Called in a signal handler of the worker's main thread, which never reads the view."""
        if self.services is not None:
            self.services.stopping.set()
            self.services.view.close()

    def close(self) -> None:
        if self.services is not None:
            self.services.link.stop()
            self.services = None

    def _say_ready(self) -> None:
        assert self.services is not None
        self.services.link.wait_connected(READY_S)
        if self._said_ready[0]:
            return
        self._said_ready[0] = 1
        sys.stdout.write(ready_line(http=url_of(self._http, self._port), pid=os.getppid()) + "\n")
        sys.stdout.flush()


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, which ends its streams before it waits for its requests."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.app.stop_streams()
        for connection in getattr(self, "keepalived_conns", ()):
            connection.timeout = 0.0
        super().handle_exit(sig, frame)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """A stopping worker does not linger for another request: browsers keep idle connections open."""
        super().finish_request(conn, fs)
        if not self.alive:
            conn.timeout = 0.0

    def handle_quit(self, sig: int, frame: Any) -> None:
        self.app.stop_streams()
        super().handle_quit(sig, frame)

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.app.stop_streams()
            self.app.close()


class ServerLog(Logger):  # type: ignore[misc]
    """gunicorn's log as ours: JSON lines on stderr, secrets redacted."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = False
        self.error_log.setLevel(self.LOG_LEVELS.get(cfg.loglevel, logging.INFO))
        self.error_log.handlers = [_ToOurLog()]
        self.access_log.propagate = False
        self.access_log.handlers = []


class _ToOurLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = max(logging.DEBUG, min(record.levelno, logging.ERROR))
        # What gunicorn says at `info` is about its own processes.
        if record.levelno <= logging.INFO:
            level = logging.DEBUG
        logs.get(component="web").log(level, "server", message=record.getMessage(), exc_info=record.exc_info)
