"""Segment videos given as arrays, or as an iterator of frames with their audio."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import torch

from icf_avs.errors import UserError
from icf_avs.inference.live_stream import MaskStream
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.media.arrays import (
    Array,
    Audio,
    AVChunk,
    Pair,
    audio_source,
    checked_rate,
    chunks_of,
    chunks_of_pairs,
    frames_of,
)
from icf_avs.media.audio_file import to_mono
from icf_avs.media.audio_windows import mask_count
from icf_avs.media.frame_filters import Crop
from icf_avs.media.video_reader import MediaInfo, Orientation
from icf_avs.results import FrameMask, Segmentation

Frames = Array | Iterable[Array] | Iterable[Pair]


def segment_arrays(
    predictor: MaskPredictor, frames: Frames, fps: float = 1.0, threshold: float = 0.5, semantic: bool = False,
    *, audio: Audio | None = None, frame_rate: float | None = None, sample_rate: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Segmentation:  # fmt: skip
    """Segment frames uint8 [T,H,W,3], or an iterator of [H,W,3], at `frame_rate` with `audio`; or pairs of a frame and
    the audio that follows it. audio: see `audio_source`; in pairs, float or signed integer samples, [n] or
    [channels, n], at `sample_rate`.

    The masks equal those of a file with these frames and this audio, except that the audio of pairs is always mixed by
    the mean of its channels. Raises UserError for arrays of another type or shape, and if a required rate is missing.
    """
    rate = predictor.spec.sample_rate
    if frame_rate is None and audio is None and not isinstance(frames, np.ndarray | torch.Tensor):
        rate = round(checked_rate(sample_rate, "sample_rate"))
        source: Iterable[AVChunk] = chunks_of_pairs(cast("Iterable[Pair]", frames))
    else:
        if isinstance(frames, np.ndarray | torch.Tensor):
            frames = frames_of(frames, 4)
        if audio is None:
            raise UserError("frames alone do not tell what sounds; give their audio=, [n] or [channels, n], as well")
        mono = np.concatenate([*to_mono(audio_source(audio, sample_rate)(rate, None), rate)])
        source = chunks_of(cast("Iterable[Array]", frames), checked_rate(frame_rate, "frame_rate"), mono, rate)
    stream = MaskStream(predictor, source, rate, fps, threshold, semantic, whole_clips=True)
    total = mask_count(len(frames) / frame_rate, fps) if isinstance(frames, np.ndarray) and frame_rate else 0
    masks: list[FrameMask] = []
    for mask in stream:
        masks.append(mask)
        if progress is not None:
            progress(len(masks), max(len(masks), total))
    masks[-1] = replace(masks[-1], end=stream.duration)
    return Segmentation(
        _media_info(stream, rate), replace(predictor.spec, fps=fps), tuple(masks), None, predictor.missing
    )


def _media_info(stream: MaskStream, rate: int) -> MediaInfo:
    assert stream.size is not None  # there are masks
    height, width = stream.size
    return MediaInfo(
        path=Path("arrays"), duration=stream.duration, width=width, height=height,
        frame_rate=stream.num_frames / stream.duration, has_audio=True, audio_track=1, audio_rate=rate,
        audio_channels=1, audio_unbroken=True, audio_codec="", start=0.0, pixel_aspect=Fraction(1),
        orientation=Orientation(), crop=Crop(),
    )  # fmt: skip
