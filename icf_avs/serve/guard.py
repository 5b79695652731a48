"""What the server answers at all: the page, uploads to it, and files out of its own folder.

Gradio's server can do much more (fetch addresses for a visitor, show its monitor, keep a history of runs). Here only
what the page needs gets through, and each path that a visitor names must be in the page's own folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect

from icf_avs.serve.limits import MB, Limits

_PAGE = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
_API = tuple(f"/gradio_api/{name}" for name in ("startup-events", "info", "queue/data", "upload_progress", "cancel"))
_FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_FILE, _UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
_CALLS = ("/gradio_api/queue/join", "/gradio_api/run/predict")  # the latter for what needs no queue
_SLACK = 65_536  # bytes of an upload that are not its file
_LONGEST_CALL = 1_000_000  # bytes of a request that names files
# Nothing is loaded from other hosts, whatever a part of the page may ask for. Gradio's parts need inline scripts and
# eval, and blob: for the tool that cuts a video.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_LONGEST = 255  # bytes of a name that a file can have
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_Send = Callable[[dict[str, Any]], Awaitable[None]]
_Receive = Callable[[], Awaitable[dict[str, Any]]]


class Guard:
    """ASGI middleware in front of the page."""

    def __init__(self, app: Callable, store: Path, limits: Limits) -> None:
        self._app, self._store, self._limits = app, store.resolve(), limits

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        refused = self._refused(scope)
        if refused is None and scope["path"] in _CALLS:
            body = await _body(receive)
            if body is None or not self._names_own_files(body):
                refused = 400, "give a file that was uploaded to this page"
            receive = _again(body or b"", receive)
        if refused is not None:
            return await _refuse(send, *refused)

        async def sent(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        with suppress(ClientDisconnect):  # a visitor who leaves while uploading is no fault to log
            await self._app(scope, receive, sent)

    def _refused(self, scope: dict[str, Any]) -> tuple[int, str] | None:
        path = scope["path"]  # with its %-escapes resolved, once
        parts = path.split("/")
        if ".." in parts or "\\" in path or "\0" in path or max(len(os.fsencode(part)) for part in parts) > _LONGEST:
            return 404, "there is no such page"
        if path.startswith(_FILE):
            return None if self._is_own(path.removeprefix(_FILE)) else (404, "there is no such file")
        if path == _UPLOAD:
            return self._upload_refused(scope)
        known = path in _PAGE or path in _API or path in _CALLS or path.startswith(_FOLDERS)
        return None if known else (404, "there is no such page")

    def _upload_refused(self, scope: dict[str, Any]) -> tuple[int, str] | None:
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "say how long the upload is (Content-Length)"
        if int(length) > self._limits.upload_bytes + _SLACK:
            return 413, f"the file has {int(length) / MB:.0f} MB; this page takes {self._limits.max_mb} MB at most"
        if _size(self._store) + int(length) > self._limits.stored_bytes:
            return 507, "the page is full; come back in an hour"
        return None

    def _is_own(self, path: str) -> bool:
        return os.path.isabs(path) and Path(path).resolve().is_relative_to(self._store)

    def _names_own_files(self, body: bytes) -> bool:
        try:
            return all(isinstance(path, str) and self._is_own(path) for path in _paths(json.loads(body)))
        except (ValueError, RecursionError):
            return False


def _paths(value: Any) -> Iterator[Any]:
    """All values of "path" in a decoded JSON text: Gradio takes any dictionary with one for a file."""
    if isinstance(value, dict):
        yield from (inner for name, inner in value.items() if name == "path")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _paths(inner)


def _size(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # removed meanwhile
                continue
    return total


async def _body(receive: _Receive) -> bytes | None:
    """The whole body of a request; None if it is too long or breaks off."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > _LONGEST_CALL:
            return None
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: _Receive) -> _Receive:
    """A receive that gives a body that has been read, then what follows."""
    given = False

    async def replay() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: _Send, status: int, line: str) -> None:
    text = line.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text)), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
