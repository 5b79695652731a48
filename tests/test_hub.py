"""Models in folders and on the hub: saved ones load again, others give a one-line error."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from hub_server import hub_in
from huggingface_hub import constants
from safetensors.torch import load_file

import icf_avs
from icf_avs.checkpoint.serialization import save_checkpoint
from icf_avs.config import ModelConfig
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.errors import UserError
from icf_avs.inference.pretrained import LoadedSegmenter
from icf_avs.networks.build import build_model
from icf_avs.types import ClipSpec

RECIPE = {"command": "icf train tiny", "config": {"seed": 3}, "data": "none", "licence": "Apache-2.0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved folder of a model from a file of another name."""
    config, spec = ModelConfig(("bell", "cat"), dim=32, pixel_dim=16), ClipSpec(frames=2, image_size=64, phase=0.25)
    model = build_model(config, spec, load_efficientnet_lite0(), torch.randn(2, 384))
    home = tmp_path_factory.mktemp("saved")
    save_checkpoint(model, home / "own.safetensors", RECIPE)
    LoadedSegmenter(model, "tiny", home / "own.safetensors").save_pretrained(home / "tiny")
    return home / "tiny"


def error_of(checkpoint: str | Path) -> str:
    with pytest.raises(UserError) as raised:
        icf_avs.load(str(checkpoint))
    assert "\n" not in str(raised.value) and str(raised.value).startswith(str(checkpoint))
    return str(raised.value)


def test_a_saved_folder_describes_the_model_and_loads_unchanged(folder: Path, tmp_path: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    assert described["model"]["classes"] == ["bell", "cat"] and described["spec"]["image_size"] == 64
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == described["library_name"] == "icf-avs"
    assert "icf train tiny" in card.text and "None are known here" in card.text
    loaded = icf_avs.load(str(folder))
    assert loaded.name == "tiny" and loaded.recipe == RECIPE and loaded.model.spec.phase == 0.25
    loaded.save_pretrained(tmp_path / "tiny")
    before, after = (load_file(home / "model.safetensors") for home in (folder, tmp_path / "tiny"))
    assert before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)


def test_a_model_is_downloaded_and_then_loads_offline(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with hub_in(tmp_path, monkeypatch) as hub:
        shutil.copytree(folder, hub.root / "user" / "tiny-avs")
        assert icf_avs.load("user/tiny-avs").recipe == RECIPE
        (hub.root / "user" / "old").mkdir()
        (hub.root / "user" / "old" / "pytorch_model.bin").write_bytes(b"pickled")
        assert "pytorch_model.bin is a pickle" in error_of("user/old")
        assert "no such model on the hub" in error_of("user/unknown")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert icf_avs.load("user/tiny-avs").name == "tiny-avs"
    assert "cannot be reached" in error_of("user/other")


def test_a_model_is_uploaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, str] = {}

    def upload_folder(repo_id: str, folder_path: str) -> None:
        sent.update({path.name: path.read_text(errors="replace") for path in Path(folder_path).iterdir()})

    api = {"create_repo": lambda name, **_: f"https://huggingface.co/{name}", "upload_folder": upload_folder}
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: SimpleNamespace(**api))
    monkeypatch.chdir(tmp_path)
    loaded = icf_avs.load(str(folder))
    assert loaded.push_to_hub("user/tiny-avs") == "https://huggingface.co/user/tiny-avs"
    assert sent.pop("model.safetensors")
    assert sent == {name: (folder / name).read_text() for name in ("README.md", "config.json")}
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'icf-avs[hub]'" in error_of("user/tiny-avs")
    with pytest.raises(UserError, match=r"pip install 'icf-avs\[hub\]'"):
        loaded.push_to_hub("user/tiny-avs")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "no such checkpoint" in error_of("neither-shipped-nor-a-file")
    assert "has no model.safetensors" in error_of(tmp_path)
    for name in ("last.pt", "own.safetensors", "best.safetensors"):  # as in a run folder
        (tmp_path / name).touch()
    assert error_of(tmp_path).endswith(f"name one of them: {tmp_path}/best.safetensors, {tmp_path}/own.safetensors")
