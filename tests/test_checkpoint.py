"""Checkpoints: identical predictions after a round trip, and a one-line error for every unusable file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from icf_avs.checkpoint import serialization
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe, save_checkpoint
from icf_avs.config import ModelConfig
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.errors import UserError
from icf_avs.inference.predictor import Predictor
from icf_avs.networks.build import build_model
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import ClipSpec

NAMES = ("bell", "cat", "dog")


PLAIN = dict.fromkeys(("implicit_text", "counterfactual", "contrastive"))  # the baseline


def built(seed: int, **parts: None) -> SegmentationModel:
    torch.manual_seed(seed)
    config = ModelConfig(NAMES, dim=32, pixel_dim=16, **parts)
    names = torch.randn(3, 384) if config.implicit_text else torch.zeros(3, 1)
    return build_model(config, ClipSpec(frames=2, image_size=64, phase=0.25), load_efficientnet_lite0(), names)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return built(0)


@pytest.fixture
def saved(model: SegmentationModel, tmp_path: Path) -> Path:
    path = tmp_path / "some" / "model.safetensors"
    save_checkpoint(model, path, {"seed": 0, "name": "tiny"})
    return path


@pytest.mark.parametrize(("parts", "words"), [({}, NAMES), (PLAIN, ())], ids=["whole", "baseline"])
def test_round_trip(parts: dict, words: tuple[str, ...], tmp_path: Path) -> None:
    model, path = built(1, **parts), tmp_path / "some" / "model.safetensors"
    save_checkpoint(model, path, {"seed": 0, "name": "tiny"})
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=generator)
    waves = 0.1 * torch.randn(2, model.spec.window, generator=generator)
    again = load_checkpoint(path)
    expected, found = Predictor(model).predict(frames, waves), Predictor(again).predict(frames, waves)
    assert found.logits.equal(expected.logits) and found.heard.equal(expected.heard)
    assert found.words == expected.words == words and found.heard.shape == (2, len(words))
    assert again.config == model.config and again.spec == model.spec and not again.training
    assert read_recipe(path) == {"seed": 0, "name": "tiny"}
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_running_mean_is_stored(tmp_path: Path) -> None:
    other = built(2)
    other.network.counterfactual.mean.fill_(3)
    other.network.counterfactual.started.fill_(True)
    save_checkpoint(other, tmp_path / "x.safetensors", {})
    again = load_checkpoint(tmp_path / "x.safetensors").network.counterfactual
    assert again.started and torch.allclose(again.mean, torch.tensor(3.0))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(change: Callable[[dict, dict], None]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            metadata, state = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
        change(metadata, state)
        save_file(state, path, metadata)

    return rewrite


def configured(**values: object) -> Callable[[Path], None]:
    def change(metadata: dict, state: dict) -> None:
        metadata["config"] = json.dumps(json.loads(metadata["config"]) | values)

    return rewritten(change)


SPOILT = {
    "missing": (lambda path: path.unlink(), "no such checkpoint"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "no such checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "not a safetensors file"),
    "text": (lambda path: path.write_text("weights\n" * 99), "not a safetensors file"),
    "truncated": (truncated, "not a safetensors file"),
    "no metadata": (rewritten(lambda metadata, state: metadata.clear()), "not a checkpoint of icf-avs"),
    "another version": (rewritten(lambda metadata, _: metadata.update(format="icf-avs/99")), r"icf-avs/99.*icf-avs/1"),
    "no configuration": (rewritten(lambda metadata, state: metadata.pop("config")), "damaged"),
    "configuration is no JSON": (rewritten(lambda metadata, state: metadata.update(config="{")), "damaged"),
    "no specification": (rewritten(lambda metadata, state: metadata.pop("spec")), "damaged"),
    "another width": (configured(dim=64), "damaged"),
    "other classes": (configured(classes=["bell"]), "damaged"),
    "an unknown setting": (configured(wings=2), "damaged"),
    "an impossible setting": (configured(heads=5), "damaged"),
    "a part more": (configured(semantic=True), "do not fit.*missing"),
    "a part less": (configured(contrastive=None), "do not fit.*unknown"),
    "a tensor less": (rewritten(lambda metadata, state: state.pop("network.decoder.role")), "do not fit.*1 missing"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_unusable_checkpoints_give_a_one_line_error(case: str, saved: Path) -> None:
    spoil, message = SPOILT[case]
    spoil(saved)
    with pytest.raises(UserError, match=message) as raised:
        load_checkpoint(saved)
    assert "\n" not in str(raised.value) and str(raised.value).startswith(str(saved))


def test_an_unreadable_recipe_gives_a_one_line_error(saved: Path) -> None:
    rewritten(lambda metadata, state: metadata.pop("recipe"))(saved)
    with pytest.raises(UserError, match="recipe") as raised:
        read_recipe(saved)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fails", ["save_file", "replace"])
def test_a_failed_save_keeps_the_old_checkpoint(fails: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(state: dict, path: Path, metadata: dict) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def refused(*paths: Path) -> None:
        raise PermissionError(13, "Permission denied")

    if fails == "save_file":
        monkeypatch.setattr(serialization, "save_file", full)
    else:
        monkeypatch.setattr(os, "replace", refused)
    with pytest.raises((OSError, UserError)):
        save_checkpoint(built(5), saved, {})
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1
