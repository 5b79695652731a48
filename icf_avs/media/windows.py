"""The audio windows of a clip's masks, cut from a wave that is whole in memory (audio_windows.py streams a video's)."""

from __future__ import annotations

import math

import numpy as np
import torch

from icf_avs.media.resampling import resample
from icf_avs.types import ClipSpec

RATE = 16_000  # samples a second of the waveforms of clips
_SHORTEST = 0.1  # a rest of less than this share of an interval belongs to the last whole one


def mask_count(duration: float, fps: float) -> int:
    """How many masks a video gets: one an interval, where a rest below a tenth of one is no interval of its own."""
    return max(1, math.ceil(duration * fps - _SHORTEST))


def clip_windows(waveform: np.ndarray, spec: ClipSpec, count: int) -> np.ndarray:
    """wave [n] float32 at 16 kHz -> the windows of masks 0..count-1, [count, spec.window] at the rate of `spec`."""
    if spec.sample_rate != RATE and len(waveform):
        waveform = resample(torch.from_numpy(waveform), RATE, spec.sample_rate).numpy()
    return windows(waveform, spec, count)


def windows(waveform: np.ndarray, spec: ClipSpec, count: int) -> np.ndarray:
    """wave [n] float32 at the rate of `spec` -> the windows of masks 0..count-1, [count, spec.window]; zeros beyond its
    ends.
    """
    cut = np.zeros((count, spec.window), dtype=np.float32)
    for index in range(count):
        start = spec.window_start(index)
        piece = waveform[max(start, 0) : max(start + spec.window, 0)]
        offset = max(-start, 0)
        cut[index, offset : offset + len(piece)] = piece
    return cut
