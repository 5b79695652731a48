"""Models in folders and on the hub: saved ones load again, others give a one-line error."""

from __future__ import annotations

import http.server
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import COMMIT, hub_in
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import icf_avs
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe, save_checkpoint
from icf_avs.config import ModelConfig
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.errors import UserError
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.pretrained import LoadedSegmenter
from icf_avs.networks.build import build_model
from icf_avs.types import ClipSpec

RECIPE = {"command": "icf train tiny", "config": {"seed": 3}, "data": "none", "licence": "Apache-2.0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved folder of a model from a file of another name."""
    torch.manual_seed(0)
    config = ModelConfig(("bell", "cat"), dim=32, pixel_dim=16)
    spec = ClipSpec(frames=2, image_size=64, phase=0.25)
    model = build_model(config, spec, load_efficientnet_lite0(), torch.randn(2, 384))
    home = tmp_path_factory.mktemp("saved")
    save_checkpoint(model, home / "own.safetensors", RECIPE)
    LoadedSegmenter(model, "tiny", home / "own.safetensors").save_pretrained(home / "tiny")
    return home / "tiny"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty hub cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def error_of(checkpoint: str | Path) -> str:
    with pytest.raises(UserError) as raised:
        icf_avs.load(str(checkpoint))
    assert "\n" not in str(raised.value) and str(raised.value).startswith(str(checkpoint))
    return str(raised.value)


def test_a_saved_folder_loads_unchanged(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = icf_avs.load(str(folder))
    expected = load_checkpoint(folder / "model.safetensors")
    frames, waves = torch.zeros(2, 64, 64, 3, dtype=torch.uint8), 0.1 * torch.randn(2, 15_600)
    assert loaded.predictor.predict(frames, waves).logits.equal(Predictor(expected).predict(frames, waves).logits)
    assert loaded.name == "tiny" and loaded.recipe == RECIPE == read_recipe(folder / "model.safetensors")
    assert loaded.model.spec == expected.spec and loaded.model.spec.phase == 0.25


def test_save_pretrained_again_keeps_everything(folder: Path, tmp_path: Path) -> None:
    icf_avs.load(str(folder)).save_pretrained(tmp_path / "tiny")
    for name in ("config.json", "README.md"):
        assert (tmp_path / "tiny" / name).read_text() == (folder / name).read_text()
    before, after = (load_file(home / "model.safetensors") for home in (folder, tmp_path / "tiny"))
    assert before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)
    assert read_recipe(tmp_path / "tiny" / "model.safetensors") == RECIPE


def test_the_folder_has_config_and_model_card(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    assert described["model"]["classes"] == ["bell", "cat"] and described["spec"]["image_size"] == 64
    assert described["recipe"] == RECIPE and described["library_name"] == "icf-avs"
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "icf-avs" and "audio-visual-segmentation" in card.data.tags
    assert "icf train tiny" in card.text and "None are known here" in card.text


def test_shipped_names_and_files_load(folder: Path) -> None:
    assert icf_avs.load("stamps").name == "stamps"
    assert icf_avs.load(str(folder / "model.safetensors")).name == "model"
    assert "no such checkpoint" in error_of(folder / "absent.safetensors")
    assert "no such checkpoint" in error_of("neither-shipped-nor-a-file")


def test_a_name_in_the_cache_of_the_hub_loads_offline(folder: Path, cache: Path) -> None:
    home = cache / "models--user--tiny-avs"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, home / "snapshots" / COMMIT)
    loaded = icf_avs.load("user/tiny-avs")
    assert loaded.name == "tiny-avs" and loaded.recipe == RECIPE


def test_an_offline_hub_is_reported(cache: Path) -> None:
    assert "cannot be reached" in error_of("user/tiny-avs")


def test_a_missing_hub_library_is_reported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'icf-avs[hub]'" in error_of("user/tiny-avs")
    with pytest.raises(UserError, match=r"pip install 'icf-avs\[hub\]'"):
        icf_avs.load("stamps").push_to_hub("user/tiny-avs")


def test_a_model_is_uploaded(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, object] = {}

    class Api:
        def __init__(self, token: str | None) -> None:
            sent["token"] = token

        def create_repo(self, name: str, **options: object) -> str:
            return f"https://huggingface.co/{name}"

        def upload_folder(self, repo_id: str, folder_path: str) -> None:
            sent[repo_id] = {path.name: path.read_text(errors="replace") for path in Path(folder_path).iterdir()}

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = icf_avs.load(str(folder)).push_to_hub("user/tiny-avs", token="t")
    assert address == "https://huggingface.co/user/tiny-avs" and sent["token"] == "t"
    assert sent["user/tiny-avs"].pop("model.safetensors")
    assert sent["user/tiny-avs"] == {name: (folder / name).read_text() for name in ("README.md", "config.json")}


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert "has no model.safetensors" in error_of(tmp_path)
    for name in ("last.pt", "own.safetensors", "best.safetensors"):  # as in a run folder
        (tmp_path / name).touch()
    assert error_of(tmp_path).endswith(f"name one of them: {tmp_path}/best.safetensors, {tmp_path}/own.safetensors")


def test_a_foreign_safetensors_file_is_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of icf-avs"):
        icf_avs.load(str(tmp_path))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    monkeypatch.chdir(tmp_path)
    with hub_in(tmp_path, monkeypatch) as server:
        yield server


def test_a_model_is_downloaded_from_the_hub(hub: http.server.HTTPServer, folder: Path) -> None:
    shutil.copytree(folder, hub.root / "user" / "tiny-avs")
    assert icf_avs.load("user/tiny-avs").recipe == RECIPE


def test_an_unknown_name_is_refused(hub: http.server.HTTPServer) -> None:
    assert "no such model on the hub" in error_of("user/unknown")


def test_a_repository_with_only_a_pickle_is_refused(hub: http.server.HTTPServer) -> None:
    home = hub.root / "user" / "old"
    home.mkdir(parents=True)
    (home / "pytorch_model.bin").write_bytes(b"pickled")
    assert "pytorch_model.bin is a pickle" in error_of("user/old")
    (home / "pytorch_model.bin").rename(home / "weights.h5")
    assert "has no model.safetensors" in error_of("user/old")
