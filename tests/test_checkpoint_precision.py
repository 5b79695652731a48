"""Converted checkpoints: weights of any precision load, and values that make no sense are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import icf_avs
from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.errors import UserError
from icf_avs.inference.predictor import Predictor
from icf_avs.networks.segmentation_model import SegmentationModel, current_keys

pytestmark = pytest.mark.full

STAMPS, NATURAL = (find_checkpoint(name)[0] for name in ("stamps", "natural"))
RELATED = "prior.evidence.related"  # int16: numbers of classes
MET = "counterfactual.met"  # bool


@lru_cache
def shipped(source: Path) -> SegmentationModel:
    return load_checkpoint(source, without_frozen_weights=True)


def changed(source: Path, path: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    with safe_open(source, "pt") as file:
        state = {name: change(name, file.get_tensor(name)) for name in file.keys()}
        save_file(state, path, metadata=file.metadata())
    return path


def floats(dtype: torch.dtype) -> Callable[[str, Tensor], Tensor]:
    return lambda name, value: value.to(dtype) if value.is_floating_point() else value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_another_precision_predict_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    path = changed(STAMPS, tmp_path / "other.safetensors", floats(dtype))
    segmenter = icf_avs.load(str(path), device="cpu")
    whole, other = shipped(STAMPS), segmenter.model
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    waves = 0.1 * torch.randn(2, other.spec.window, generator=torch.Generator().manual_seed(0))
    expected, found = Predictor(load_checkpoint(STAMPS)).predict(frames, waves), Predictor(other).predict(frames, waves)
    assert found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits.sigmoid(), expected.logits.sigmoid(), atol=0.05, rtol=0)
    for name, value in whole.state_dict().items():
        assert other.state_dict()[name].dtype == value.dtype, name


@pytest.mark.parametrize(
    "change",
    [
        floats(torch.float16),
        floats(torch.bfloat16),
        lambda name, value: value.half() if name.startswith("decoder.") else value,
        lambda name, value: value.half(),  # flags and numbers of classes too
        lambda name, value: value.double(),
        lambda name, value: value if value.is_floating_point() else value.long(),
        lambda name, value: value.to(torch.uint8) if value.dtype == torch.bool else value,
    ],
    ids=["float16", "bfloat16", "some", "all float16", "all float64", "integers int64", "flags uint8"],
)
def test_every_tensor_has_the_type_of_the_model(change: Callable[[str, Tensor], Tensor], tmp_path: Path) -> None:
    found = load_checkpoint(
        changed(NATURAL, tmp_path / "other.safetensors", change), without_frozen_weights=True
    ).state_dict()
    for name, value in shipped(NATURAL).state_dict().items():
        assert found[name].dtype == value.dtype, name
        if not value.is_floating_point():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (RELATED, lambda value: value.bfloat16()),  # bfloat16 has no 999
        (RELATED, lambda value: value + 0.5),
        (RELATED, lambda value: value.long() + 100_000),
        (MET, lambda value: value.half() * 0.5 + 0.25),
        (MET, lambda value: value.long() + 2),
        ("decoder.role", lambda value: (value * 100).to(torch.int8)),
        ("decoder.role", lambda value: value > 0),
        ("decoder.role", lambda value: value.to(torch.complex64)),
        ("decoder.role", lambda value: value.double() * 1e300),
        ("decoder.role", lambda value: (value * torch.inf).half()),
    ],
)
def test_impossible_values_give_a_one_line_error(name: str, change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    (current,) = (key.rpartition(".")[2] for key in current_keys({name: torch.zeros(0)}))
    path = changed(NATURAL, tmp_path / "bad.safetensors", lambda key, value: change(value) if key == name else value)
    with pytest.raises(UserError, match=f"bad.safetensors: damaged checkpoint .*{current}") as caught:
        load_checkpoint(path, without_frozen_weights=True)
    assert "\n" not in str(caught.value)
