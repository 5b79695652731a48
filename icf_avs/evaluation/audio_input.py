"""Run a model over a clip: convert the audio to the model's input (waveform or log-mel windows) and predict masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from icf_avs.encoders.registry import ACCEPTS_LOG_MEL
from icf_avs.errors import UserError
from icf_avs.media.audio_windows import clip_windows
from icf_avs.media.images import resize_frames

if TYPE_CHECKING:
    from icf_avs.mask_predictor import MaskPredictor
    from icf_avs.types import Prediction


def to_model_audio(predictor: MaskPredictor, sound: np.ndarray, count: int) -> np.ndarray:
    """Convert the audio of a clip to the input of `predict`. A waveform [n] at 16 kHz becomes windows [count, window]
    at the model's sample rate, 1 / fps apart. Log-mel windows [count, 96, 64], 0.96 s apart, are returned unchanged.
    Raises UserError for log-mel windows if the audio encoder of the model accepts only waveforms.
    """
    if sound.ndim == 1:
        return clip_windows(sound, predictor.spec, count)
    encoder = predictor.encoders.get("audio")
    if encoder not in ACCEPTS_LOG_MEL:
        raise UserError(
            "the clips have their sound as log-mel windows only, and the model takes waveforms "
            f"({encoder or 'its own'} audio encoder); unpack audio_wav or raw_videos of the set beside them"
        )
    return sound


def predict_clips(
    predictor: MaskPredictor, frames: np.ndarray, sounds: Sequence[np.ndarray]
) -> Iterator[list[Prediction]]:
    """Yield, per clip of `spec.frames`, a prediction for each sound. Frames uint8 [T, H, W, 3] are encoded once."""
    spec = predictor.spec
    resized = resize_frames(torch.from_numpy(frames), spec.image_size)
    windows = [torch.from_numpy(to_model_audio(predictor, sound, len(frames))) for sound in sounds]
    for start in range(0, len(frames), spec.frames):
        part = slice(start, start + spec.frames)
        yield predictor.predict_each(resized[part], [sound[part] for sound in windows])
