"""Checkpoints: one safetensors file with weights, configuration, clip specification, recipe and seed.

Frozen encoders are not stored; their weights are loaded from their release. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from icf_avs.atomic_io import atomic_file
from icf_avs.checkpoint.source import DEFAULT, PICKLES, SHIPPED, check_length, shipped
from icf_avs.config import ModelConfig
from icf_avs.config_dict import check_settings, from_dict
from icf_avs.encoders.registry import build_visual
from icf_avs.encoders.taggers import TAGGERS
from icf_avs.errors import MissingWeights, UserError, did_you_mean
from icf_avs.networks.build import build_model, build_model_audio
from icf_avs.networks.segmentation_model import SegmentationModel, current_keys
from icf_avs.provenance import sha256_of
from icf_avs.types import ClipSpec

FORMAT = "icf-avs/1"
# Exceptions that Python and torch raise for invalid settings and tensors of a damaged file.
_INVALID_FILE_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    SafetensorError,
)


def state_dict_without_frozen(model: SegmentationModel) -> dict[str, Tensor]:
    """Return the state dict without frozen encoders."""
    frozen = _frozen_prefixes(model.config)
    return {key: value for key, value in model.state_dict().items() if not key.startswith(frozen)}


def _frozen_prefixes(config: ModelConfig) -> tuple[str, ...]:
    audio = ("network.audio.vggish.", "network.audio.heard.")
    return audio if config.train_visual else (*audio, "network.visual.")


def save_checkpoint(model: SegmentationModel, path: Path, recipe: dict[str, Any]) -> None:
    """Write a checkpoint atomically. recipe (name, seed, steps, data, revision, ...) is stored unchanged, as JSON.

    Raises UserError if it cannot be written.
    """
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(model.config)),
        "spec": json.dumps(vars(model.spec)),
        "recipe": json.dumps(recipe),
    }
    state = {key: value.cpu().contiguous() for key, value in state_dict_without_frozen(model).items()}
    with atomic_file(path, "make room or choose another folder", (SafetensorError,), flush=True) as new:
        save_file(state, new, metadata)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the training recipe of a checkpoint. Raises UserError as `load_checkpoint` does."""
    metadata = _metadata(path)
    try:
        recipe = json.loads(metadata["recipe"])
        if isinstance(recipe, dict):
            return recipe
    except (KeyError, ValueError, RecursionError):
        pass
    raise UserError(f"{path}: damaged checkpoint (no readable recipe in it); get it again")


def read_config(path: Path) -> ModelConfig:
    """Read the model configuration of a checkpoint. Raises UserError as `load_checkpoint` does."""
    metadata = _metadata(path)
    try:
        config = from_dict(ModelConfig, json.loads(metadata["config"]))
        check_settings(config)
        return config
    except _INVALID_FILE_ERRORS as error:
        raise _damaged_error(path, error) from error


def _damaged_error(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: damaged checkpoint ({str(error).partition(chr(10))[0]}); get it again")


def load_checkpoint(path: Path, without_frozen_weights: bool = False, tagger: str | None = None) -> SegmentationModel:
    """Build the model that a checkpoint describes and load its weights.

    without_frozen_weights  do not load the weights of frozen encoders, e.g. for counting parameters
    tagger                  audio tagger of encoders/taggers.TAGGERS that replaces that of the checkpoint

    Raises UserError if the file is missing, damaged, of another version or not a checkpoint of icf-avs, and if `tagger`
    is unknown or the checkpoint has no tagger.
    """
    config, metadata = read_config(path), _metadata(path)
    if tagger is not None:
        if not {tagger, config.audio} <= set(TAGGERS):
            raise UserError(f"{path}: no tagger {tagger}; a checkpoint with a tagger takes {' or '.join(TAGGERS)}")
        config = replace(config, audio=tagger)
    try:
        spec = ClipSpec(**json.loads(metadata["spec"]))
        check_settings(spec)
        with safe_open(path, framework="pt") as file:
            state = current_keys({key: file.get_tensor(key) for key in file.keys()})
        names = state.get("network.implicit_text.vocabulary.names", state.get("network.audio.names"))
        names = torch.zeros(len(config.classes), 1) if names is None else names.float()
        visual = build_visual(
            config.visual, random=without_frozen_weights or config.train_visual, frozen=not config.train_visual
        )
        audio = build_model_audio(config, names, without_frozen_weights) if config.audio != "log-mel" else None
        with torch.device("meta"):  # a configuration may claim any size: check shapes first
            expected = build_model(config, spec, visual, names, audio).state_dict()
        state = convert_dtypes(state, expected)
        missing = [key for key in expected.keys() - state.keys() if not key.startswith(_frozen_prefixes(config))]
        unexpected = state.keys() - expected.keys()
        if not missing and not unexpected:
            model = build_model(config, spec, visual, names, audio)
            model.load_state_dict(state, strict=False)
    except MissingWeights as error:
        if path != shipped(DEFAULT):
            raise
        advice = "or take --checkpoint stamps, which needs none but knows composed scenes alone"
        raise MissingWeights(f"{error}; {advice}") from error
    except _INVALID_FILE_ERRORS as error:
        raise _damaged_error(path, error) from error
    if missing or unexpected:
        raise UserError(
            f"{path}: its weights do not fit this version of icf-avs "
            f"({len(missing)} missing, {len(unexpected)} unknown); train or download it anew"
        )
    model.digest = sha256_of(path)
    return model.eval()


def _metadata(path: Path) -> dict[str, str]:
    path = Path(path)
    if not path.is_file():
        hint = did_you_mean(str(path), SHIPPED)
        raise UserError(f"{path}: no such checkpoint{hint} give a .safetensors file, or {' or '.join(SHIPPED)}")
    if path.suffix in PICKLES:
        reason = "a pickle can run any code when it is opened, and is refused; give a .safetensors file"
        raise UserError(f"{path}: {reason}")
    try:
        check_length(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file ({error}); checkpoints end in .safetensors") from error
    file_format = metadata.get("format")
    if file_format != FORMAT:
        kind = f"a checkpoint of another version ({file_format})" if file_format else "not a checkpoint of icf-avs"
        raise UserError(f"{path}: {kind}, this version reads {FORMAT}; train it anew with `icf train`")
    return metadata


def convert_dtypes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of a file to the types of the model, whatever precision they were saved in.

    Raises ValueError unless all common tensors have equal shapes, are finite, and keep their meaning in the conversion:
    weights may have any precision, but integers must be preserved exactly. `expected` may be on the meta device.
    """
    converted = dict(state)
    for name in sorted(state.keys() & expected.keys()):
        value, target = state[name], expected[name]
        if value.shape != target.shape:
            raise ValueError(f"{name[:80]} is {[*value.shape]}, by its configuration {[*target.shape]}")
        if not _is_lossless(value, target.dtype):
            raise ValueError(f"{name[:80]} is of {value.dtype}, not {target.dtype}, and cannot be told from it")
        converted[name] = value.to(target.dtype)
        if not converted[name].isfinite().all():
            raise ValueError(f"{name[:80]} is not all finite")
    return converted


def _is_lossless(value: Tensor, expected: torch.dtype) -> bool:
    """True if conversion to a type keeps the meaning. Integers must be exact, and the source type able to hold them."""
    if expected.is_floating_point or value.is_complex():
        return value.is_floating_point()
    max_exact = 2 / torch.finfo(value.dtype).eps if value.is_floating_point() else math.inf
    exact_value = value.double()
    return exact_value.equal(value.to(expected).double()) and bool((exact_value.abs() <= max_exact).all())
