"""Score a model on test sets with the true sound and with three negative sounds.

The model sees each clip four times with the same frames: with its `true` sound, with `silence`, with white `noise` as
loud as the clip, and with an `offscreen` sound. The last is the sound of another clip none of whose sounding classes is
visible in this clip. Under a negative sound nothing should be segmented. mIoU and F are still computed against the
original mask, so lower is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icf_avs.datasets.image_io import SIZE
from icf_avs.evaluation.audio_input import predict_clips
from icf_avs.evaluation.metrics import AVSBenchMetric, DatasetMetric, StrictMetric
from icf_avs.evaluation.robustness.negative_audio import Audio, altered_audio
from icf_avs.score_tables import DEFAULT_SETTINGS, Scores, ScoringSettings

if TYPE_CHECKING:
    from icf_avs.datasets.video_clip import ClipRecord
    from icf_avs.mask_predictor import MaskPredictor


class Scorer:
    """Accumulate predictions clip by clip. `clips` and `frames` count what has been scored."""

    def __init__(self, settings: ScoringSettings = DEFAULT_SETTINGS) -> None:
        # One process scores the whole set even in a multi-process run, so nothing needs to be gathered.
        self._reference = AVSBenchMetric(settings.batch_size, settings.threshold, sync_on_compute=False)
        self._strict = StrictMetric(settings.threshold, sync_on_compute=False)
        self._dataset = DatasetMetric(settings.threshold, sync_on_compute=False)
        self._threshold = settings.threshold
        self.clips = self.frames = self._silent_frames = 0
        self._fpr_sum = self._null_sum = 0.0

    def update(self, probabilities: Tensor, truth: Tensor, silent: Tensor) -> None:
        """Add frames of one clip: probabilities [n, H, W] in [0, 1]; truth bool [n, H, W], the original mask; silent
        bool [n], frames in which nothing should be segmented.
        """
        if not len(probabilities):
            return
        for metric in (self._reference, self._strict, self._dataset):
            metric.update(probabilities, truth)
        share = (probabilities[silent] > self._threshold).double().mean((1, 2))
        self.clips += 1
        self.frames += len(probabilities)
        self._silent_frames += len(share)
        self._fpr_sum += share.sum().item()
        self._null_sum += share.sqrt().sum().item()

    def compute(self) -> Scores:
        """Return the metric values and `fpr` for each protocol: reference, strict, dataset, dataset-2classes. `fpr` is
        the share of segmented pixels, averaged over the silent frames; NaN if there are none. Without frames all scores
        are NaN.
        """
        if not self.frames:
            return {name: dict.fromkeys(("miou", "f", "fpr"), nan) for name in ("reference", "strict")}
        scores = {"reference": self._reference.compute(), "strict": self._strict.compute()}
        whole = self._dataset.compute()
        scores["dataset"] = {name: whole[name] for name in ("miou", "f")}
        scores["dataset-2classes"] = {name: whole[f"{name}_2classes"] for name in ("miou", "f")}
        fpr = self._fpr_sum / self._silent_frames if self._silent_frames else nan
        return {protocol: {**values, "fpr": fpr} for protocol, values in scores.items()}

    def null(self) -> float:
        """Return S = sqrt(segmented / pixels), averaged over the silent frames; NaN if there are none."""
        return self._null_sum / self._silent_frames if self._silent_frames else nan


def silent_frames(truth: Tensor, negative: bool) -> Tensor:
    """Return bool [n], True where nothing should be segmented: all frames if negative, else those with empty truth."""
    return torch.ones(len(truth), dtype=torch.bool) if negative else ~truth.any(2).any(1)


AUDIOS: tuple[Audio, ...] = ("true", "silence", "noise", "offscreen")


def evaluate(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    audio: Audio = "true",
    seed: int = 0,
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
    settings: ScoringSettings = DEFAULT_SETTINGS,
) -> Scores:
    """Score a model at 224x224 on the labelled frames of `records` under one kind of `audio`, by protocol
    (`Scorer.compute`). `fpr` covers the frames with empty truth for the true sound, all frames for a negative sound.

    clips     score only the first `clips` clips; off-screen donors are still drawn from all records
    progress  called after each clip
    settings  size to which frames are squashed before resizing to the model's; threshold; batch size of the reference F

    Raises UserError if no off-screen donor is known.
    """
    return evaluate_each(predictor, records, (audio,), seed, clips, progress, settings)[audio]


def evaluate_each(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    audios: Sequence[Audio] = AUDIOS,
    seed: int = 0,
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
    settings: ScoringSettings = DEFAULT_SETTINGS,
) -> dict[str, Scores]:
    """Like `evaluate`, for several kinds of audio. The frames of a clip are read and encoded once."""
    if unknown := set(audios) - set(AUDIOS):
        raise ValueError(f"audio is {unknown.pop()!r}; it must be one of {AUDIOS}")
    scorers = {audio: Scorer(settings) for audio in audios}
    for index, record in enumerate(records[:clips]):
        clip = record.load(settings.size)
        sounds = [altered_audio(clip, records, index, audio, seed) for audio in audios]
        truth = torch.from_numpy(clip.masks[clip.labelled] > 0)
        predicted = predict_each(predictor, clip.frames, sounds, clip.masks.shape[1:])
        for (audio, scorer), probabilities in zip(scorers.items(), predicted, strict=True):
            scorer.update(probabilities[torch.from_numpy(clip.labelled)], truth, silent_frames(truth, audio != "true"))
        progress()
    return {audio: scorer.compute() for audio, scorer in scorers.items()}


def predict_each(
    predictor: MaskPredictor, frames: np.ndarray, sounds: Sequence[np.ndarray], size: tuple[int, int] = (SIZE, SIZE)
) -> list[Tensor]:
    """Return probabilities [T, *size] for frames uint8 [T, H, W, 3] under each of several sounds. Frames are encoded
    once. A sound is a waveform [n] or log-mel windows [T, 96, 64]. Raises UserError for log-mel windows if the model
    accepts only waveforms.
    """
    logits_by_sound: list[list[Tensor]] = [[] for _ in sounds]
    for clip in predict_clips(predictor, frames, sounds):
        for prediction, parts in zip(clip, logits_by_sound, strict=True):
            logits = prediction.logits.float()[:, None]
            parts.append(F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0])
    return [torch.cat(parts).sigmoid() for parts in logits_by_sound]
