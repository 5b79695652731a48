"""Models in folders and on the hub: what is saved loads again, and one line for all that cannot be loaded."""

from __future__ import annotations

import http.server
import json
import pickle
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import icf_avs
from icf_avs.backbones.efficientnet_lite import load_efficientnet_lite0
from icf_avs.checkpoint import load_checkpoint, read_recipe
from icf_avs.config import ModelConfig
from icf_avs.contracts import ClipSpec
from icf_avs.errors import UserError
from icf_avs.hub import HubSegmenter
from icf_avs.model.icf import ICF

RECIPE = {"command": "icf train tiny", "config": {"seed": 3}, "data": "none", "licence": "Apache-2.0"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Trap:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved by the mixin from a model that was never in a file."""
    torch.manual_seed(0)
    config = ModelConfig(("bell", "cat"), dim=32, pixel_dim=16)
    spec = ClipSpec(frames=2, image_size=64, phase=0.25)
    model = ICF(config, spec, load_efficientnet_lite0(), torch.randn(2, 384))
    path = tmp_path_factory.mktemp("saved") / "tiny"
    HubSegmenter(model, "tiny", RECIPE).save_pretrained(path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way out to it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def line(checkpoint: str | Path) -> str:
    with pytest.raises(UserError) as raised:
        icf_avs.load(str(checkpoint))
    assert "\n" not in str(raised.value) and str(raised.value).startswith(str(checkpoint))
    return str(raised.value)


def test_a_folder_loads_as_what_was_saved(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = icf_avs.load(str(folder))
    expected = load_checkpoint(folder / "model.safetensors")
    frames, waves = torch.zeros(2, 64, 64, 3, dtype=torch.uint8), 0.1 * torch.randn(2, 15_600)
    assert loaded.model.predict(frames, waves).logits.equal(expected.predict(frames, waves).logits)
    assert loaded.name == "tiny" and loaded.recipe == RECIPE == read_recipe(folder / "model.safetensors")
    assert loaded.model.spec == expected.spec and loaded.model.spec.phase == 0.25


def test_save_pretrained_again_keeps_everything(folder: Path, tmp_path: Path) -> None:
    HubSegmenter.from_pretrained(folder).save_pretrained(tmp_path / "tiny")
    for name in ("config.json", "README.md"):
        assert (tmp_path / "tiny" / name).read_text() == (folder / name).read_text()
    before, after = (load_file(home / "model.safetensors") for home in (folder, tmp_path / "tiny"))
    assert before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)
    assert read_recipe(tmp_path / "tiny" / "model.safetensors") == RECIPE


def test_the_folder_describes_itself(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    assert described["model"]["classes"] == ["bell", "cat"] and described["spec"]["image_size"] == 64
    assert described["recipe"] == RECIPE and described["library_name"] == "icf-avs"
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "icf-avs" and "audio-visual-segmentation" in card.data.tags
    assert "icf train tiny" in card.text and "None are known here" in card.text


def test_a_shipped_name_and_a_file_load_as_ever(folder: Path) -> None:
    assert icf_avs.load().name == icf_avs.load("stamps").name == "stamps"
    assert icf_avs.load(str(folder / "model.safetensors")).name == "model"
    assert "no such checkpoint" in line(folder / "absent.safetensors")
    assert "no such checkpoint" in line("neither-shipped-nor-a-file")


def test_a_name_in_the_cache_of_the_hub_loads_offline(folder: Path, cache: Path) -> None:
    home = cache / "models--user--tiny-avs"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, home / "snapshots" / COMMIT)
    loaded = icf_avs.load("user/tiny-avs")
    assert loaded.name == "tiny-avs" and loaded.recipe == RECIPE


def test_offline(cache: Path) -> None:
    assert "cannot be reached" in line("user/tiny-avs")


def test_without_the_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "icf_avs.hub", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'icf-avs[hub]'" in line("user/tiny-avs")


def test_a_folder_without_our_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert "has no model.safetensors" in line(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.safetensors"])
def test_a_pickle_is_refused_unopened(name: str, tmp_path: Path) -> None:
    mark, home = tmp_path / "opened", tmp_path / "model"
    home.mkdir()
    (home / name).write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError, match="safetensors"):
        icf_avs.load(str(home))
    assert "safetensors" in line(home / name)
    assert not mark.exists()
    pickle.loads((home / name).read_bytes())  # it would have
    assert mark.exists()


def test_a_file_of_others_is_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of icf-avs"):
        icf_avs.load(str(tmp_path))


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs, from the folder `server.root`/user/name."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        status, body, headers = 404, b"", {}
        if parts[:2] == ["api", "models"]:
            home = self.server.root / "/".join(parts[2:4])
            entries = [{"type": "file", "path": path.name, "size": 1, "oid": COMMIT} for path in home.iterdir()]
            status, body = 200, json.dumps(entries).encode()
        elif not (home := self.server.root / "/".join(parts[:2])).is_dir():
            headers["X-Error-Code"] = "RepoNotFound"
        elif not (home / parts[-1]).is_file():
            headers["X-Error-Code"] = "EntryNotFound"
        else:
            status, body = 200, (home / parts[-1]).read_bytes()
            headers |= {"ETag": '"etag"', "X-Repo-Commit": COMMIT}
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine; the folder of its repositories."""
    root = tmp_path / "hub"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root = root
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # else it asks for more, and keeps the answers
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.chdir(tmp_path)
    yield root
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_is_downloaded_from_the_hub(hub: Path, folder: Path) -> None:
    shutil.copytree(folder, hub / "user" / "tiny-avs")
    assert icf_avs.load("user/tiny-avs").recipe == RECIPE


def test_an_unknown_name(hub: Path) -> None:
    assert "no such model on the hub" in line("user/unknown")


def test_a_repository_with_a_pickle_alone(hub: Path) -> None:
    home = hub / "user" / "old"
    home.mkdir(parents=True)
    (home / "pytorch_model.bin").write_bytes(b"pickled")
    assert "pytorch_model.bin is a pickle" in line("user/old")
    (home / "pytorch_model.bin").rename(home / "weights.h5")
    assert "has no model.safetensors" in line("user/old")
