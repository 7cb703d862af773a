"""What every request goes through: who may ask, how much is read, what a browser is told, what is counted."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.serve.limits import MEGABYTE
from experiments.serve.metrics import Metrics

LOCAL = ("127.0.0.1", "localhost", "[::1]")
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
        self.hosts = {*LOCAL, *(name.lower() for name in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, headers = time.perf_counter(), 500, Headers(scope=scope)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    told.setdefault(name, value)
                told.setdefault("cache-control", "no-store")
            await send(message)

        try:
            refused = self._refused(headers)
            if refused is not None:
                await refused(scope, receive, sending)
            else:
                await self.app(scope, self._counted(receive), sending)
        finally:
            self.metrics.finished(scope["path"], status, time.perf_counter() - started)

    def _refused(self, headers: Headers) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if _name(host) not in self.hosts:
            return _error(403, f"host {host!r}: this server answers as localhost alone. Add a name with --allow-host.")
        # "null" is what a sandboxed or local page says.
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _error(403, f"origin {origin!r}: pages of other sites can't ask here.")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.body:
            return _error(413, self._too_large, close=True)
        return None

    @property
    def _too_large(self) -> str:
        return f"the request is larger than {self.body / MEGABYTE:g} MB. Scale the image down."

    def _counted(self, receive: Receive) -> Receive:
        read = 0

        async def receiving() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.body:  # of a body that didn't say how long it is
                raise HTTPException(413, self._too_large, {"connection": "close"})
            return message

        return receiving


def _name(host: str) -> str:
    """Return a Host header without its port.

    >>> _name("LocalHost:8000"), _name("[::1]:8000"), _name("localhost.evil.example"), _name("127.0.0.1:80:90")
    ('localhost', '[::1]', 'localhost.evil.example', '127.0.0.1:80')
    """
    name, colon, port = host.lower().rpartition(":")
    return name if colon and (port.isdigit() or not port) else host.lower()


def _error(status: int, said: str, *, close: bool = False) -> JSONResponse:
    headers: dict[str, Any] | None = {"connection": "close"} if close else None
    return JSONResponse({"error": said}, status, headers)
