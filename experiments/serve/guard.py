"""What every request goes through: who may ask, how much is read, what a browser is told, what is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.serve.limits import MEGABYTE
from experiments.serve.metrics import Metrics

LOCAL = ("127.0.0.1", "localhost", "[::1]")
DROPPED = 10
"""Times the largest body that is read of a larger one before its client is cut off."""
DROPPING = 5.0
"""Seconds for that."""
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """An ASGI app around another.

    A page of another host that a user looks at may send requests here, too. Its name may even lead to this machine (DNS
    rebinding): the Host header says under which name a browser asks. Its Origin header says which page does.

    Parameters
    ----------
    app : ASGI app
    metrics : Metrics
    body : int
        Bytes of a request at most.
    hosts : iterable of str
        Names under which it may be asked, beside those of the own machine.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, body: int, hosts: Iterable[str] = ()) -> None:
        self.app, self.metrics, self.body = app, metrics, body
        self.hosts = {*LOCAL, *map(_name, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, begun, headers = time.perf_counter(), 500, False, Headers(scope=scope)
        body, kept_open = _Body(receive, headers, self.body), False

        async def sending(message: Message) -> None:
            nonlocal status, begun, kept_open
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                told = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    told.setdefault(name, value)
                told.setdefault("cache-control", "no-store")
                if not body.ended:  # nobody wants the rest
                    told["connection"] = "close"
            elif not body.ended and not message.get("more_body"):  # whole, but nothing is to be closed yet
                message, kept_open = {**message, "more_body": True}, True
            await send(message)

        try:
            refused = self._refused(headers)
            if refused is not None:
                await refused(scope, receive, sending)
            else:
                await self.app(scope, body.receive, sending)
        except asyncio.CancelledError:  # the server stops, and has waited long enough
            if begun:
                raise
            body.ended = True  # no time is left to wait for it
            await _error(503, "the server was stopped before it could answer.")(scope, receive, sending)
        finally:
            self.metrics.finished(scope["path"], status, time.perf_counter() - started)
            if kept_open:
                await body.drop()
                await send({"type": "http.response.body"})

    def _refused(self, headers: Headers) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if _name(host) not in self.hosts:
            return _error(403, f"host {host!r}: this server answers as localhost alone. Add a name with --allow-host.")
        # "null" is what a sandboxed or local page says. Taken apart as text: `urlsplit` raises on http://[
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return _error(403, f"origin {origin!r}: pages of other sites can't ask here.")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.body:
            return _error(413, _too_large(self.body))
        return None


class _Body:
    """What a client sends, counted."""

    def __init__(self, receive: Receive, headers: Headers, most: int) -> None:
        self._receive, self.most, self.read = receive, most, 0
        self.ended = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"

    async def receive(self) -> Message:
        """Return the next part.

        Raises
        ------
        HTTPException
            413 if all are larger than may be, of a body that didn't say how long it is.
        """
        message = await self._next()
        if self.read > self.most:
            raise HTTPException(413, _too_large(self.most))
        return message

    async def drop(self) -> None:
        """Read what still comes: most clients look for an answer once all is sent, and miss that of a closed door."""
        with suppress(asyncio.CancelledError), anyio.move_on_after(DROPPING):
            while not self.ended and self.read <= DROPPED * self.most:
                await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        self.read += len(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        return message


def _too_large(most: int) -> str:
    return f"the request is larger than {most / MEGABYTE:g} MB. Scale the image down."


def _name(host: str) -> str:
    """Return a Host header without its port.

    >>> _name("LocalHost:8000"), _name("[::1]:8000"), _name("localhost.evil.example"), _name("127.0.0.1:80:90")
    ('localhost', '[::1]', 'localhost.evil.example', '127.0.0.1:80')
    """
    name, colon, port = host.lower().rpartition(":")
    return name if colon and (port.isdigit() or not port) else host.lower()


def _error(status: int, said: str) -> JSONResponse:
    return JSONResponse({"error": said}, status)
