"""Online segmentation of a stream of frames and audio (camera, call or arrays) in constant memory.

The audio is the clock: the time of a frame is the duration of the audio received before it. A mask needs audio after
its frame, so its latency is ClipSpec.delay (0.5 s for `stamps`, 2.5 s for `natural`) plus the time the model takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from icf_avs.errors import UserError
from icf_avs.inference.streaming import FrameInput, check_settings, frame_masks, predict_clip
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.media.arrays import Array, AVChunk, Resampler, frames_of, waveform_of
from icf_avs.media.audio_windows import SoundBuffer, mask_count
from icf_avs.media.images import resize_frames
from icf_avs.results import FrameMask
from icf_avs.types import Prediction


class MaskStream:
    """Iterator over the masks of the intervals, each as soon as its input is complete; see `Segmenter.stream`.

    whole_clips: predict all masks of a clip together, with the same result as for a file. Otherwise each mask is
    predicted from the clip so far, and only the last mask of each clip equals that of a file.
    """

    def __init__(
        self, predictor: MaskPredictor, source: Iterable[AVChunk], sample_rate: int, fps: float = 1.0,
        threshold: float = 0.5, semantic: bool = False, whole_clips: bool = False,
    ) -> None:  # fmt: skip
        check_settings(fps, threshold)
        self._predictor, self._source, self._rate = predictor, source, sample_rate
        self._spec = replace(predictor.spec, fps=fps)
        self._threshold, self._semantic, self._whole_clips = threshold, semantic, whole_clips
        self.size: tuple[int, int] | None = None  # height and width of the frames
        self.num_frames = 0
        self.duration = 0.0  # seconds received

    def __iter__(self) -> Iterator[FrameMask]:
        clip: list[FrameInput] = []
        growing = self._predictor.growing_clip()
        if not self._whole_clips:  # warm-up: the first call of a model is the slowest
            side, window = self._spec.image_size, self._spec.window
            growing.add(self._predictor.prepare(torch.zeros(side, side, 3, dtype=torch.uint8)), torch.zeros(window))
            growing = self._predictor.growing_clip()
        for frame_input in self._inputs():
            clip.append(frame_input)
            if not self._whole_clips:
                prediction = growing.add(frame_input.prepared, torch.from_numpy(frame_input.waveform))
                yield from self._masks(clip, prediction, since=len(clip) - 1)
            if len(clip) == self._spec.frames:
                if self._whole_clips:
                    yield from self._masks(clip, predict_clip(self._predictor, clip))
                clip, growing = [], self._predictor.growing_clip()
        if clip and self._whole_clips:
            yield from self._masks(clip, predict_clip(self._predictor, clip))

    def _masks(self, clip: list[FrameInput], prediction: Prediction, since: int = 0) -> Iterator[FrameMask]:
        assert self.size is not None  # there are frames
        return frame_masks(clip, prediction, self.size, self._threshold, self._semantic, since)

    def _inputs(self) -> Iterator[FrameInput]:
        """Yield each input as soon as the next frame and the audio of its window have arrived."""
        spec, sound = self._spec, _ReceivedAudio(self._rate, self._spec.sample_rate)
        waiting: deque[tuple[torch.Tensor, Any]] = deque()  # images of inputs that wait for their audio
        current_frame: Callable[[], np.ndarray] | None = None
        index = 0  # of the next input

        def frame_input(time: float, end: float) -> FrameInput:
            window = sound.window(spec.window_start(index), spec.window)
            image, prepared = waiting.popleft()
            return FrameInput(index, index / spec.fps, end, time, image, window, prepared=prepared)

        for frame, audio, time in self._source:
            self.duration = sound.seconds if time is None else time
            is_frame = frame is not None or time is not None
            while (
                is_frame and current_frame is not None and spec.frame_time(index + len(waiting)) < self.duration - 1e-6
            ):
                waiting.append(self._prepare_frame(current_frame))
            if frame is not None:
                current_frame, self.num_frames = _frame_getter(frame), self.num_frames + 1
            if audio is not None:
                sound.append(waveform_of(audio))
            while waiting and sound.end >= spec.window_start(index) + spec.window:
                yield frame_input(spec.frame_time(index), (index + 1) / spec.fps)
                index += 1
            if time is None:
                self.duration = sound.seconds
        if current_frame is None or not sound.seconds:
            raise UserError(
                f"no {'frame' if current_frame is None else 'sound'} came; both are needed to tell what sounds"
            )
        sound.append(None)
        count = mask_count(self.duration, spec.fps)
        waiting.extend([self._prepare_frame(current_frame)] * (count - index - len(waiting)))
        while waiting:
            end = self.duration if index == count - 1 else (index + 1) / spec.fps
            yield frame_input(min(spec.frame_time(index), self.duration), end)
            index += 1

    def _prepare_frame(self, current_frame: Callable[[], np.ndarray]) -> tuple[torch.Tensor, Any]:
        """Return the resized frame and, unless `whole_clips`, the part that the predictor computes without audio."""
        image = current_frame()
        size = (image.shape[0], image.shape[1])
        if size != (self.size or size):
            raise UserError(f"frames are {size} after {self.size}, height and width; give frames of one size")
        self.size = size
        resized = resize_frames(torch.from_numpy(image)[None], self._spec.image_size)[0]
        return resized, None if self._whole_clips else self._predictor.prepare(resized)


def _frame_getter(frame: Array | Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    """Return a function that returns the frame. Arrays are copied: a camera may reuse the buffer for the next frame."""
    if callable(frame) and not isinstance(frame, torch.Tensor):
        return frame
    image = frames_of(frame, 3).copy()
    return lambda: image


class _ReceivedAudio(SoundBuffer):
    """Buffer of the received audio, mixed to mono (mean of the channels) and resampled to the rate of the model."""

    def __init__(self, rate: int, target_rate: int) -> None:
        super().__init__()
        self._resample, self._rate, self._count = Resampler(1, rate, target_rate), rate, 0

    @property
    def seconds(self) -> float:
        """Seconds of audio received."""
        return self._count / self._rate

    def append(self, block: np.ndarray | None) -> None:
        """Append a block, float32 [channels, n]; None at the end."""
        if block is not None:
            self._count += block.shape[1]
            block = block.mean(0, keepdims=True)
        super().append(self._resample(block)[0])
