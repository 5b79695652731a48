"""Checkpoints: identical predictions after a round trip, weights of any precision, an error for every unusable file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from icf_avs.checkpoint.serialization import load_checkpoint, read_config, read_recipe, save_checkpoint
from icf_avs.checkpoint.source import shipped
from icf_avs.config import EvidenceConfig, ModelConfig, TrainConfig
from icf_avs.config_dict import from_dict
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.errors import UserError
from icf_avs.inference.predictor import Predictor
from icf_avs.networks.build import build_model
from icf_avs.networks.segmentation_model import SegmentationModel, current_keys
from icf_avs.training.recipes import RECIPES
from icf_avs.types import ClipSpec

NAMES = ("bell", "cat", "dog")
PLAIN = dict.fromkeys(("implicit_text", "counterfactual", "contrastive"))  # the baseline
RECIPE = {"seed": 0, "name": "tiny"}


def built(**parts: None) -> SegmentationModel:
    torch.manual_seed(1)
    settings = ModelConfig(NAMES, dim=32, pixel_dim=16, **parts)
    names = torch.randn(3, 384) if settings.implicit_text else torch.zeros(3, 1)
    return build_model(settings, ClipSpec(frames=2, image_size=64, phase=0.25), load_efficientnet_lite0(), names)


@pytest.mark.parametrize(("parts", "words"), [({}, NAMES), (PLAIN, ())], ids=["whole", "baseline"])
def test_round_trip(parts: dict, words: tuple[str, ...], tmp_path: Path) -> None:
    model, path = built(**parts), tmp_path / "some" / "model.safetensors"
    if not parts:
        model.network.counterfactual.mean.fill_(3)  # a running mean, of training alone
    save_checkpoint(model, path, RECIPE)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=generator)
    waves = 0.1 * torch.randn(2, model.spec.window, generator=generator)
    again = load_checkpoint(path)
    expected, found = Predictor(model).predict(frames, waves), Predictor(again).predict(frames, waves)
    assert found.logits.equal(expected.logits) and found.heard.equal(expected.heard)
    assert found.words == expected.words == words and found.heard.shape == (2, len(words))
    assert again.config == model.config and again.spec == model.spec and not again.training
    assert all(value.equal(again.state_dict()[key]) for key, value in model.state_dict().items())
    assert read_recipe(path) == RECIPE and [each.name for each in path.parent.iterdir()] == [path.name]


def rewrite(source: Path, path: Path, change: Callable[[dict, dict], object]) -> Path:
    """Write a copy of a checkpoint after change(metadata, state)."""
    with safe_open(source, framework="pt") as file:
        metadata, state = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
    change(metadata, state)
    save_file(state, path, metadata)
    return path


def configured(**values: object) -> Callable[[dict, dict], None]:
    return lambda metadata, _: metadata.update(config=json.dumps(json.loads(metadata["config"]) | values))


SPOILT = {
    "no metadata": (lambda metadata, _: metadata.clear(), "not a checkpoint of icf-avs"),
    "another version": (lambda metadata, _: metadata.update(format="icf-avs/99"), r"icf-avs/99.*icf-avs/1"),
    "configuration is no JSON": (lambda metadata, _: metadata.update(config="{"), "damaged"),
    "no specification": (lambda metadata, _: metadata.pop("spec"), "damaged"),
    "an unknown setting": (configured(wings=2), "damaged"),
    "an impossible setting": (configured(heads=5), "damaged"),
    "a part more": (configured(semantic=True), "do not fit.*missing"),
    "a part less": (configured(contrastive=None), "do not fit.*unknown"),
}


def test_unusable_checkpoints_give_a_one_line_error(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.safetensors", tmp_path / "model.safetensors"

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as raised:
            load_checkpoint(path)
        assert "\n" not in str(raised.value) and str(raised.value).startswith(str(path))

    save_checkpoint(built(), whole, RECIPE)
    refused("no such checkpoint")
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused("not a safetensors file")
    for change, message in SPOILT.values():
        rewrite(whole, path, change)
        refused(message)


def test_every_recipe_survives_json_and_an_absent_part_stays_absent() -> None:
    for recipe in (make() for make in RECIPES.values()):
        assert from_dict(TrainConfig, json.loads(json.dumps(asdict(recipe)))) == recipe
    written = {"name": "x", "model": {"network": "query", "implicit_text": None, "counterfactual": None}}
    with pytest.raises(ValueError, match="query has no parts of the guided"):
        from_dict(TrainConfig, written)
    written["model"]["contrastive"] = None
    assert from_dict(TrainConfig, written).model.counterfactual is None


def test_earlier_names_are_read_from_files_and_refused_in_code() -> None:
    assert from_dict(EvidenceConfig, {"akin": 0.5}) == EvidenceConfig(synonym_threshold=0.5)
    with pytest.raises(TypeError, match="TrainConfig: finish is now called highres_steps"):
        replace(TrainConfig("x"), finish=3)
    assert read_config(shipped("natural")).evidence == RECIPES["natural"]().model.evidence == EvidenceConfig()


@pytest.mark.full
def test_weights_of_another_precision_load_and_values_without_sense_are_refused(tmp_path: Path) -> None:
    path, expected = tmp_path / "other.safetensors", load_checkpoint(shipped("natural"), without_frozen_weights=True)

    def half(_: object, state: dict[str, Tensor]) -> None:  # flags and numbers of classes too
        state.update({name: value.half() for name, value in state.items()})

    found = load_checkpoint(rewrite(shipped("natural"), path, half), without_frozen_weights=True).state_dict()
    for name, value in expected.state_dict().items():
        assert found[name].dtype == value.dtype, name
        assert value.is_floating_point() or torch.equal(found[name], value), name
    for name, change in (
        ("prior.evidence.related", lambda value: value.long() + 100_000),  # numbers of classes, beyond int16
        ("counterfactual.met", lambda value: value.long() + 2),  # flags
        ("decoder.role", lambda value: (value * 100).to(torch.int8)),
        ("decoder.role", lambda value: value.double() * 1e300),
    ):
        (current,) = (key.rpartition(".")[2] for key in current_keys({name: torch.zeros(0)}))
        rewrite(shipped("natural"), path, lambda _, state, name=name, change=change: state.update(
            {name: change(state[name])}
        ))  # fmt: skip
        with pytest.raises(UserError, match=rf"other.safetensors: damaged checkpoint .*{current}"):
            load_checkpoint(path, without_frozen_weights=True)
