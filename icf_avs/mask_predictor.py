"""Interface of mask predictors, for segmentation, evaluation and training.

`Predictor` (inference/predictor.py) implements it for our models; any other model can take its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from icf_avs.errors import UserError
from icf_avs.media.arrays import Array
from icf_avs.types import ClipSpec, Missing, Prediction


class MaskPredictor:
    """Base class of mask predictors, as segmentation and evaluation use them; `Predictor` is that of our models.

    encoders: names of the encoders, "visual" and "audio"; semantic: whether there is a class head; missing: parts whose
    weights are unavailable; digest: SHA-256 of the checkpoint; only_words: the classes that `with_words` chose, None
    for all.
    """

    spec: ClipSpec
    classes: tuple[str, ...] = ()
    encoders: Mapping[str, str] = MappingProxyType({})
    semantic: bool = False
    missing: tuple[Missing, ...] = ()
    digest: str | None = None
    only_words: tuple[str, ...] | None = None

    def predict(self, frames: Array, sound: Array) -> Prediction:
        """Predict a clip of T frames, uint8 [T,S,S,3], T at most spec.frames; sound: waveforms [T,window] or log-mel
        [T,96,64] -> Prediction, on the CPU.
        """
        raise NotImplementedError

    def predict_each(self, frames: Tensor, sounds: Sequence[Tensor]) -> list[Prediction]:
        """Predict the same frames under each of several sounds."""
        return [self.predict(frames, sound) for sound in sounds]

    def prepare(self, frame: Tensor) -> Any:
        """Precompute the audio-independent part of a frame (uint8 [S,S,3]) for `growing_clip`."""
        return frame

    def growing_clip(self) -> GrowingClip:
        """Return a clip to which frames are added one by one."""
        return GrowingClip(self)

    def with_words(self, words: str) -> MaskPredictor:
        """Return a predictor of the same model restricted to these comma-separated tags and their synonyms. Raises
        UserError for a model without tags, and for a word that resembles no tag.
        """
        raise UserError("--words needs a checkpoint with a sound tagger; take --checkpoint natural")


class GrowingClip:
    """The frames of a clip so far, at most spec.frames."""

    def __init__(self, predictor: MaskPredictor) -> None:
        self._predictor = predictor
        self._frames: list[Any] = []
        self._sounds: list[Tensor] = []

    def add(self, frame: Any, sound: Tensor) -> Prediction:
        """Add a frame (from `MaskPredictor.prepare`) and its sound [window] -> prediction of all frames so far."""
        self._frames.append(frame)
        self._sounds.append(sound)
        return self._predictor.predict(torch.stack(self._frames), torch.stack(self._sounds))


def check_class_head(predictor: MaskPredictor, name: str) -> None:
    """Raise UserError unless the model of that name has a class head."""
    if not predictor.semantic:
        raise UserError(
            f"{name or 'the model'} was trained without a class head; leave --semantic (semantic=True) out, or give a "
            "checkpoint that was trained with one (ModelConfig semantic=True)"
        )
