"""Local stand-in for the Hugging Face hub: serves a folder of repositories, as far as loading a model needs.

Supported: GET of api/models/NAME/revision/REVISION and .../tree/REVISION, GET and HEAD of NAME/resolve/REVISION/FILE.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves server.root/user/name; server.reads lists the requested paths. All commits have the same files."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        about, status, body, headers = parts[:2] == ["api", "models"], 404, b"", {}
        home = self.server.root / "/".join(parts[2:4] if about else parts[:2])
        commit = next((part for part in parts if re.fullmatch("[0-9a-f]{40}", part)), COMMIT)
        self.server.reads.append("/".join(parts))
        if not home.is_dir():
            headers["X-Error-Code"] = "RepoNotFound"
        elif about:
            names = [path.name for path in home.iterdir()]
            found = {"id": "/".join(parts[2:4]), "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            tree = [{"type": "file", "path": name, "size": 1, "oid": COMMIT} for name in names]
            status, body = 200, json.dumps(found if parts[4] == "revision" else tree).encode()
        elif not (home / parts[-1]).is_file():
            headers["X-Error-Code"] = "EntryNotFound"
        else:
            status, body = 200, (home / parts[-1]).read_bytes()
            headers |= {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": commit}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def hub_in(root: Path, patch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    """Use a local hub in this process, with the repositories in `root`/hub and an empty cache."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.reads = root / "hub", []
    server.url = url = f"http://127.0.0.1:{server.server_port}"
    server.root.mkdir()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "HF_HUB_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": False, "ENDPOINT": url,
        "HF_HUB_DISABLE_XET": True,  # a separate storage service
        "HF_HUB_DISABLE_TELEMETRY": True,  # it would make and cache further requests
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():  # fmt: skip
        patch.setattr(constants, name, value)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
