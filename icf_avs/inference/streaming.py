"""Segment a video clip by clip.

Mask i covers [i/fps, (i+1)/fps) seconds; ClipSpec gives the time of its frame and its audio window. Clips of
`spec.frames` masks are processed one after the other, so memory does not grow with the length of the video.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from icf_avs.encoders.tagger_encoder import SCORE_FLOOR
from icf_avs.errors import UserError
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.mask_rle import encode, encode_empty
from icf_avs.media.audio_windows import AudioSource, AudioWindows, mask_count
from icf_avs.media.frame_tee import FrameTee
from icf_avs.media.images import resize_frames, thumbnail
from icf_avs.media.video_reader import MediaInfo, read_frames
from icf_avs.output.class_labels import class_labels
from icf_avs.results import ClassMask, FrameMask, class_masks
from icf_avs.types import Prediction

MAX_TAGS = 5  # tags reported per mask at most
_PREVIEW = 320  # pixels; long side of an image on the contact sheet
_MAX_FPS = 60.0


def stream_masks(
    predictor: MaskPredictor, info: MediaInfo, fps: float = 1.0, threshold: float = 0.5, semantic: bool = False,
    sound: AudioSource | None = None, preview_indices: Container[int] = (), tee: FrameTee | None = None,
) -> Generator[tuple[FrameMask, np.ndarray | None], None, None]:  # fmt: skip
    """Yield the masks in order, with classes if `semantic`; masks whose index is in `preview_indices` come with a small
    copy of their frame (RGB uint8, long side at most 320), others with None. `sound` replaces the audio of the video;
    `tee` provides the decoded frames, which it shares with the overlay video.

    Raises UserError for a video without audio or one that breaks in the middle, and for an invalid setting.
    """
    check_settings(fps, threshold)
    spec = replace(predictor.spec, fps=fps)
    count = mask_count(info.duration, fps)
    times = (spec.frame_time(i) for i in range(count))
    size = info.height, info.width

    pending: deque[tuple[list[FrameInput], Future[Prediction]]] = deque()

    def finished() -> Iterator[tuple[FrameMask, np.ndarray | None]]:
        clip, prediction = pending[0][0], pending.popleft()[1].result()
        for frame_input, frame in zip(clip, frame_masks(clip, prediction, size, threshold, semantic), strict=True):
            yield frame, frame_input.preview

    # The model segments a clip in a separate thread while the frames of the next clip are decoded here.
    thread = ThreadPoolExecutor(1, thread_name_prefix="model")
    with nullcontext() if tee is None else tee.ahead() as decoded_frames, thread:
        windows = AudioWindows(info, spec.sample_rate, sound)  # in the context: an error here must release the writer
        clip: list[FrameInput] = []
        for index, (time, image) in enumerate(read_frames(info, times, decoded_frames)):
            resized_image = resize_frames(torch.from_numpy(image)[None], spec.image_size)[0]
            preview = np.asarray(thumbnail(image, _PREVIEW, info.pixel_aspect)) if index in preview_indices else None
            waveform = windows.read(spec.window_start(index), spec.window)
            last = index == count - 1
            end = info.duration if last else (index + 1) / fps
            clip.append(FrameInput(index, index / fps, end, min(time, info.duration), resized_image, waveform, preview))
            if len(clip) == spec.frames or last:
                pending.append((clip, thread.submit(predict_clip, predictor, clip)))
                while len(pending) > (0 if last else 1):
                    yield from finished()
                if tee is not None and not last:
                    tee.wait(clip[0].index / fps)  # keep at most two clips ahead of the writer
                clip = []
            while pending and pending[0][1].done():
                yield from finished()


@dataclass(frozen=True)
class FrameInput:
    """Model input for one mask. The full-size frame is not kept."""

    index: int
    start: float  # seconds; the mask covers the interval [start, end)
    end: float
    time: float  # seconds; time of the frame
    resized_image: torch.Tensor  # uint8 [S, S, 3]
    waveform: np.ndarray  # float32 [window]
    preview: np.ndarray | None = None  # uint8 [h, w, 3]
    prepared: Any = None  # result of `MaskPredictor.prepare`


def check_settings(fps: float, threshold: float) -> None:
    """Raise UserError for an invalid fps or threshold."""
    if not (math.isfinite(fps) and 0 < fps <= _MAX_FPS):
        raise UserError(f"fps is {fps}; give a number of masks a second above 0, at most {_MAX_FPS:g}")
    if not 0 < threshold < 1:
        raise UserError(f"threshold is {threshold}; give a number above 0 and below 1")


def predict_clip(predictor: MaskPredictor, clip: list[FrameInput]) -> Prediction:
    """Predict one clip of at most `spec.frames` inputs."""
    frames = torch.stack([frame_input.resized_image for frame_input in clip])
    waveforms = torch.from_numpy(np.stack([frame_input.waveform for frame_input in clip]))
    return predictor.predict(frames, waveforms)


def frame_masks(
    clip: list[FrameInput],
    prediction: Prediction,
    size: tuple[int, int],
    threshold: float,
    semantic: bool,
    since: int = 0,
) -> Iterator[FrameMask]:
    """Yield the masks of a clip at full size, (height, width), starting at index `since` in the clip."""
    names = prediction.class_names if semantic else ()
    classes = prediction.classes if semantic else None
    for number in range(since, len(clip)):
        class_logits = None if classes is None else classes[number]
        frame = _frame_mask(clip[number], prediction.logits[number], size, threshold, class_logits, names)
        yield replace(frame, heard=select_tags(prediction.heard[number], prediction.words, frame.area > 0))


def _frame_mask(
    frame_input: FrameInput, logits: torch.Tensor, size: tuple[int, int], threshold: float,
    class_logits: torch.Tensor | None, names: tuple[str, ...],
) -> FrameMask:  # fmt: skip
    logit_threshold = math.log(threshold / (1 - threshold))
    make_mask = partial(
        FrameMask, frame_input.index, frame_input.start, frame_input.end, frame_input.time, heard=(), class_names=names
    )
    if class_logits is None and logits.amax() <= logit_threshold:
        return make_mask(area=0.0, score=0.0, run_lengths=encode_empty(*size))
    native = F.interpolate(logits[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    mask = native > logit_threshold
    mask_logits = native.numpy()[mask.numpy()]  # boolean indexing is three times as fast in NumPy
    classes: tuple[ClassMask, ...] = ()
    if class_logits is not None:
        classes = class_masks(class_labels(class_logits, size, mask).cpu().numpy(), native.sigmoid().cpu().numpy())
    return make_mask(
        area=len(mask_logits) / mask.numel(),
        score=torch.from_numpy(mask_logits).sigmoid().mean().item() if len(mask_logits) else 0.0,
        run_lengths=encode(mask.cpu().numpy()),
        classes=classes,
    )


def select_tags(presence: torch.Tensor, words: tuple[str, ...], segmented: bool) -> tuple[tuple[str, float], ...]:
    """Return the tags to report for a mask, likeliest first: those of at least SCORE_FLOOR, the model's threshold for
    presence. If anything is segmented, the likeliest tag is always included.
    """
    values, order = presence.float().topk(min(MAX_TAGS, len(words)))
    ranked = [(words[i], value) for value, i in zip(values.tolist(), order.tolist(), strict=True) if value > 0]
    return tuple(word for rank, word in enumerate(ranked) if word[1] >= SCORE_FLOOR or (segmented and rank == 0))
