"""As much of the Hugging Face hub as loading and pushing a model need, over HTTP, from a folder of repositories.

Of the hub's interface: POST api/repos/create, api/validate-yaml, api/models/NAME/preupload/REVISION, the batch call and
the upload of Git LFS, api/models/NAME/commit/REVISION; GET of api/models/NAME/revision/REVISION; GET and HEAD of
NAME/resolve/REVISION/FILE. Who writes needs the token TOKEN. Files named *.safetensors are large ones, as there.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_a_test"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves server.root/user/name; server.calls has what was written, server.reads the paths that were read,
    server.objects the uploaded large files. Every commit that is asked for has the same files.
    """

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.read(head=True)

    def do_GET(self) -> None:
        self.read(head=False)

    def read(self, head: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        about = parts[:2] == ["api", "models"]
        home = self.server.root / "/".join(parts[2:4] if about else parts[:2])
        status, body, headers = 404, b"", {}
        commit = next((part for part in parts if re.fullmatch("[0-9a-f]{40}", part)), COMMIT)
        self.server.reads.append("/".join(parts))
        if not home.is_dir():
            headers["X-Error-Code"] = "RepoNotFound"
        elif parts[4:5] == ["revision"]:
            found = {
                "id": "/".join(parts[2:4]),
                "sha": commit,
                "siblings": [{"rfilename": p.name} for p in home.iterdir()],
            }
            status, body = 200, json.dumps(found).encode()
        elif about:
            entries = [{"type": "file", "path": path.name, "size": 1, "oid": COMMIT} for path in home.iterdir()]
            status, body = 200, json.dumps(entries).encode()
        elif not (home / parts[-1]).is_file():
            headers["X-Error-Code"] = "EntryNotFound"
        else:
            status, body = 200, (home / parts[-1]).read_bytes()
            headers |= {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": commit}
        self.answer(status, body, headers, head)

    def do_POST(self) -> None:
        body = self.received()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, b"{}")
        parts = self.path.partition("?")[0].strip("/").split("/")
        match parts:
            case ["api", "repos", "create"]:
                found = self.create(json.loads(body))
            case ["api", "validate-yaml"]:
                found = {"errors": [], "warnings": []}
            case ["api", "models", _, _, "preupload", "main"]:
                large = {True: "lfs", False: "regular"}
                found = {"files": [
                    {"path": file["path"], "shouldIgnore": False, "uploadMode": large[file["path"].endswith("tensors")]}
                    for file in json.loads(body)["files"]
                ]}  # fmt: skip
            case [_, _, "info", "lfs", "objects", "batch"]:
                found = {"transfer": "basic", "objects": [
                    {**each, "actions": {"upload": {"href": f"{self.server.url}/objects/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]}  # fmt: skip
            case ["api", "models", user, name, "commit", "main"]:
                found = self.commit(self.server.root / user / name, [json.loads(line) for line in body.splitlines()])
            case _:
                return self.answer(404, b"{}")
        self.server.calls.append("/".join(parts))
        self.answer(200, json.dumps(found).encode())

    def do_PUT(self) -> None:
        self.server.objects[self.path.rpartition("/")[2]] = self.received()
        self.answer(200, b"")

    def create(self, wanted: dict[str, Any]) -> dict[str, str]:
        name = f"{wanted['organization']}/{wanted['name']}"
        (self.server.root / name).mkdir(parents=True, exist_ok=True)
        return {"url": f"{self.server.url}/{name}"}

    def commit(self, home: Path, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Only what was really uploaded, with the digest that it was announced by, becomes a file."""
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                (home / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                content = self.server.objects[value["oid"]]
                assert (hashlib.sha256(content).hexdigest(), len(content)) == (value["oid"], value["size"])
                (home / value["path"]).write_bytes(content)
        name = home.relative_to(self.server.root)
        return {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}"}

    def received(self) -> bytes:
        """The body, sent whole or in chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, head: bool = False) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def hub_in(root: Path, patch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    """The hub of this process is a server on this machine, with the repositories in `root`/hub; the cache is empty."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.calls, server.reads, server.objects = root / "hub", [], [], {}
    server.url = url = f"http://127.0.0.1:{server.server_port}"
    server.root.mkdir()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage is a service of its own
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # else it asks for more, and keeps the answers
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
