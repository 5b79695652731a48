"""Checkpoints: identical predictions after a round trip, weights of any precision, an error for every unusable file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from icf_avs import config
from icf_avs.checkpoint.serialization import load_checkpoint, read_config, read_recipe, save_checkpoint
from icf_avs.checkpoint.source import shipped
from icf_avs.config import EvidenceConfig, ModelConfig, TrainConfig
from icf_avs.config_dict import EARLIER, from_dict
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.errors import UserError
from icf_avs.icf import SC
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


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    save_checkpoint(built(), path, RECIPE)
    return path.read_bytes()


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


@pytest.mark.parametrize("case", ["missing", "truncated", *SPOILT])
def test_unusable_checkpoints_give_a_one_line_error(case: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    change, message = SPOILT.get(case, (None, "no such checkpoint|not a safetensors file"))
    if case != "missing":
        path.write_bytes(content if change else content[: len(content) // 2])
    if change:
        rewrite(path, path, change)
    with pytest.raises(UserError, match=message) as raised:
        load_checkpoint(path)
    assert "\n" not in str(raised.value) and str(raised.value).startswith(str(path))


def test_every_recipe_survives_json() -> None:
    for recipe in (make() for make in RECIPES.values()):
        assert from_dict(TrainConfig, json.loads(json.dumps(asdict(recipe)))) == recipe


def test_earlier_names_are_read_from_files_and_refused_in_code() -> None:
    classes = {cls.__name__: cls for cls in (*vars(config).values(), SC) if isinstance(cls, type)}
    for name, fields in EARLIER.items():
        known = {field.name for field in dataclasses.fields(classes[name])}
        assert set(fields.values()) <= known and not set(fields) & known
    assert from_dict(EvidenceConfig, {"akin": 0.5}) == EvidenceConfig(synonym_threshold=0.5)
    with pytest.raises(TypeError, match="TrainConfig: finish is now called highres_steps"):
        replace(TrainConfig("x"), finish=3)
    assert read_config(shipped("natural")).evidence == RECIPES["natural"]().model.evidence == EvidenceConfig()


def test_an_absent_part_stays_absent() -> None:
    written = {"name": "x", "model": {"network": "query", "implicit_text": None, "counterfactual": None}}
    with pytest.raises(ValueError, match="query has no parts of the guided"):
        from_dict(TrainConfig, written)
    written["model"]["contrastive"] = None
    assert from_dict(TrainConfig, written).model.counterfactual is None


CONVERSIONS = {  # a change of each tensor, and the name of one that makes no sense then
    "all float16": (lambda name, value: value.half(), ""),  # flags and numbers of classes too
    "all float64": (lambda name, value: value.double(), ""),
    "flags uint8": (lambda name, value: value.to(torch.uint8) if value.dtype == torch.bool else value, ""),
    "bfloat16 has no 999": (lambda name, value: value.bfloat16(), "prior.evidence.related"),  # numbers of classes
    "beyond int16": (lambda name, value: value.long() + 100_000, "prior.evidence.related"),
    "flags of two": (lambda name, value: value.long() + 2, "counterfactual.met"),
    "weights int8": (lambda name, value: (value * 100).to(torch.int8), "decoder.role"),
    "complex weights": (lambda name, value: value.to(torch.complex64), "decoder.role"),
    "weights beyond float32": (lambda name, value: value.double() * 1e300, "decoder.role"),
}


@pytest.mark.full
@pytest.mark.parametrize("case", CONVERSIONS)
def test_weights_of_any_precision_load_and_values_without_sense_are_refused(case: str, tmp_path: Path) -> None:
    change, senseless = CONVERSIONS[case]

    def convert(_: object, state: dict[str, Tensor]) -> None:
        state.update({name: change(name, value) for name, value in state.items() if senseless in ("", name)})

    path = rewrite(shipped("natural"), tmp_path / "other.safetensors", convert)
    if senseless:
        (current,) = (key.rpartition(".")[2] for key in current_keys({senseless: torch.zeros(0)}))
        with pytest.raises(UserError, match=rf"other.safetensors: damaged checkpoint .*{current}.*") as caught:
            load_checkpoint(path, without_frozen_weights=True)
        assert "\n" not in str(caught.value)
        return
    found = load_checkpoint(path, without_frozen_weights=True).state_dict()
    for name, value in load_checkpoint(shipped("natural"), without_frozen_weights=True).state_dict().items():
        assert found[name].dtype == value.dtype, name
        assert value.is_floating_point() or torch.equal(found[name], value), name
