"""Listening, until somebody says stop."""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from rank_xmodal.errors import UserError

CONNECTIONS = 200


class _Server(uvicorn.Server):
    """Says when it is ready."""

    ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound there; port 0 is any that is free.

    Raises
    ------
    UserError
        If the port is taken, or the address can't be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named for asyncio, which else leaves Nagle's algorithm on: 40 ms an answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(port) from error
        if error.errno == errno.EACCES:
            raise UserError(f"--port {port}: is not allowed. Choose one of 1024 or more.") from error
        raise UserError(f"--host {host}: can't listen there ({error.strerror or error}). Use 127.0.0.1.") from error
    return bound


def _taken(port: int) -> UserError:
    return UserError(
        f"--port {port}: another program listens there already. Stop it, or choose another port, such as "
        f"{port + 1 if port < 65_535 else 8_000}."
    )


def is_loopback(host: str) -> bool:
    """Say whether an address is the own machine's alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(app: ASGIApp, bound: socket.socket, say: Callable[[str], None]) -> None:
    """Answer requests until Ctrl-C or SIGTERM; those that have begun have five seconds to be finished.

    Raises
    ------
    UserError
        If another program has come to listen on the port.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, limit_concurrency=CONNECTIONS,
        timeout_keep_alive=10, timeout_graceful_shutdown=5, ws="none", proxy_headers=False,
    )  # fmt: skip
    server = _Server(config)
    host, port = bound.getsockname()[:2]
    try:  # two servers that were started at once are both bound by now
        bound.listen(config.backlog)
    except OSError as error:
        bound.close()
        raise _taken(port) from error
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    server.ready = lambda: say(f"ready: http://{shown}:{port}/  (Ctrl-C stops it)")

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # uvicorn raises the signal again once it has shut down

    before = signal.signal(signal.SIGTERM, stop)
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        bound.close()
    say("stopped")
