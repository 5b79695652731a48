"""Filter of HTTP requests: allow only the page, uploads to it, and files from its folder.

Gradio checks which files it serves and their length. But its server can do more (fetch addresses for a visitor, show a
monitor, keep a history of runs) and accepts any number of files. Other requests than the page needs are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from icf_avs.serve.limits import MB, Limits

_API = "/gradio_api/"
_FILE, _UPLOAD = f"{_API}file=", f"{_API}upload"
_CALLS = (f"{_API}queue/join", f"{_API}run/predict")  # the latter for calls without a queue
_ROUTES = {
    "/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", _UPLOAD, *_CALLS,
    *(_API + name for name in ("startup-events", "info", "queue/data", "upload_progress", "cancel")),
}  # fmt: skip
_FOLDERS = ("/assets/", "/static/", f"{_API}heartbeat/", _FILE)
_SLACK = 65_536  # bytes of an upload besides the file
_LONGEST_CALL = 1_000_000  # bytes of a call, which may name files
_LONGEST_NAME = 255  # bytes of a file name
# Nothing may be loaded from other hosts. Gradio's components need inline scripts and eval, and blob: for the video
# trimming tool.
_HEADERS = {
    "content-security-policy": "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class RequestFilter(BaseHTTPMiddleware):
    """Middleware that filters requests to the page, whose files lie in `store`."""

    def __init__(self, app: Callable, store: Path, limits: Limits) -> None:
        super().__init__(app)
        self._store, self._limits = store.resolve(), limits

    async def dispatch(self, request: Request, call_next: Callable) -> Response:
        """Return Gradio's response, or one line with the reason for refusal."""
        try:
            refused = await self._refused(request)
            response = PlainTextResponse(refused[1], refused[0]) if refused else await call_next(request)
        except ClientDisconnect:  # a visitor who leaves during an upload is not an error
            response = Response(status_code=400)
        response.headers.update(_HEADERS)
        return response

    async def _refused(self, request: Request) -> tuple[int, str] | None:
        path = request.scope["path"]  # percent-decoded once
        parts = path.split("/")
        known = path in _ROUTES or path.startswith(_FOLDERS)
        longest = max(len(os.fsencode(part)) for part in parts)
        if not known or ".." in parts or "\\" in path or "\0" in path or longest > _LONGEST_NAME:
            return 404, "there is no such page"
        if path.startswith(_FILE) and not self._is_own(path.removeprefix(_FILE)):
            return 404, "there is no such file"
        if path == _UPLOAD or path in _CALLS:
            text = request.headers.get("content-length", "")
            if not text.isdigit():
                return 411, "say how long the request is (Content-Length)"
            return self._upload_refused(int(text)) if path == _UPLOAD else await self._call_refused(request, int(text))
        return None

    def _upload_refused(self, length: int) -> tuple[int, str] | None:
        if length > self._limits.upload_bytes + _SLACK:  # all files together; Gradio checks each separately
            return 413, f"the file has {length / MB:.0f} MB; this page takes {self._limits.max_mb} MB at most"
        if _size(self._store) + length > self._limits.stored_bytes:
            return 507, "the page is full; come back in an hour"
        return None

    async def _call_refused(self, request: Request, length: int) -> tuple[int, str] | None:
        """Refuse paths outside the store. Gradio treats any dictionary with a "path" as a file or a URL to fetch."""
        paths: list[Any] = []
        try:
            text = await request.body() if length <= _LONGEST_CALL else b""
            json.loads(text, object_pairs_hook=lambda pairs: paths.extend(at for name, at in pairs if name == "path"))
        except (ValueError, RecursionError):
            paths.append(None)
        return None if all(map(self._is_own, paths)) else (400, "give a file that was uploaded to this page")

    def _is_own(self, path: Any) -> bool:
        return isinstance(path, str) and os.path.isabs(path) and Path(path).resolve().is_relative_to(self._store)


def _size(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):  # removed meanwhile
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
