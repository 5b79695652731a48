"""Score a model on test sets with the true sound and with three negative sounds, into a CSV table.

The model sees each clip four times with the same frames: with its `true` sound, with `silence`, with white `noise` as
loud as the clip, and with an `offscreen` sound, that of another clip none of whose sounding classes is in the frame.
Under a negative sound nothing should be segmented; mIoU and F are still taken against the original mask (lower is
better).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icf_avs.console import progress_console
from icf_avs.datasets.image_io import CLASS_ID_LAYOUTS, SIZE
from icf_avs.datasets.layouts import class_names
from icf_avs.datasets.video_clip import ClipRecord
from icf_avs.errors import UserError
from icf_avs.evaluation.audio_input import predictions
from icf_avs.evaluation.evaluate_semantic import class_order, class_protocols, evaluate_semantic
from icf_avs.evaluation.robustness.negative_audio import Audio, altered_audio, without_donor
from icf_avs.evaluation.score_tables import (
    DEFAULT_SETTINGS,
    Row,
    Scores,
    Settings,
    check_tables,
    save_notes,
    save_rows,
    score_rows,
    show,
)
from icf_avs.evaluation.scorer import Scorer, empty_frames, every_frame
from icf_avs.evaluation.test_sets import Task, set_folder
from icf_avs.inference.predictor import MaskPredictor

AUDIOS: tuple[Audio, ...] = ("true", "silence", "noise", "offscreen")


def evaluate(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    audio: Audio = "true",
    seed: int = 0,
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
    settings: Settings = DEFAULT_SETTINGS,
) -> Scores:
    """Score a model at 224x224 on the labelled frames of `records`, all with the same kind of `audio`.

    clips     score only the first so many; donors of off-screen sounds still come from all records
    progress  called after each clip
    settings  size, threshold of the mask and batches of the reference F

    Returns the scores of each protocol, {"reference": {...}, "strict": {...}, "dataset": {...}, "dataset-2classes":
    {...}}, from `ReferenceMetric`, `StrictMetric` and `DatasetMetric`, each with `miou`, `f` and `fpr`: the share
    of pixels segmented where nothing should be, which is over the frames with empty ground truth for the true sound
    (NaN if there are none) and over all frames for a negative one. Frames are squashed to the size that is scored,
    and then to the one the model takes. Raises UserError if no off-screen donor is known.
    """
    return evaluate_each(predictor, records, (audio,), seed, clips, progress, settings)[audio]


def evaluate_each(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    audios: Sequence[Audio] = AUDIOS,
    seed: int = 0,
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
    settings: Settings = DEFAULT_SETTINGS,
) -> dict[str, Scores]:
    """`evaluate` with several kinds of audio, each of which gets its scores. The frames of a clip are read and encoded
    once.
    """
    if unknown := set(audios) - set(AUDIOS):
        raise ValueError(f"audio is {unknown.pop()!r}; it must be one of {AUDIOS}")
    scorers = {audio: Scorer(settings) for audio in audios}
    for index, record in enumerate(records[:clips]):
        clip = record.load(settings.size)
        sounds = [altered_audio(clip, records, index, audio, seed) for audio in audios]
        truth = torch.from_numpy(clip.masks[clip.labelled] > 0)
        found = predict_each(predictor, clip.frames, sounds, clip.masks.shape[1:])
        for (audio, scorer), probabilities in zip(scorers.items(), found, strict=True):
            silent = empty_frames(truth) if audio == "true" else every_frame(truth)
            scorer.update(probabilities[torch.from_numpy(clip.labelled)], truth, silent)
        progress()
    return {audio: scorer.compute() for audio, scorer in scorers.items()}


def predict(
    predictor: MaskPredictor, frames: np.ndarray, sound: np.ndarray, size: tuple[int, int] = (SIZE, SIZE)
) -> Tensor:
    """Probabilities [T, *size] of frames uint8 [T, H, W, 3] and their sound, in clips of `spec.frames`.

    sound: a waveform [n] or log-mel windows [T, 96, 64]. Raises UserError for log-mel where the model takes
    waveforms alone.
    """
    return predict_each(predictor, frames, [sound], size)[0]


def predict_each(
    predictor: MaskPredictor, frames: np.ndarray, sounds: Sequence[np.ndarray], size: tuple[int, int] = (SIZE, SIZE)
) -> list[Tensor]:
    """`predict` of the same frames under each of several sounds, encoded once."""
    parts: list[list[Tensor]] = [[] for _ in sounds]
    for clip in predictions(predictor, frames, sounds):
        for prediction, found in zip(clip, parts, strict=True):
            logits = prediction.logits.float()[:, None]
            found.append(F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0])
    return [torch.cat(found).sigmoid() for found in parts]


def evaluate_command(
    task: Task, out: Path | None, clips: int | None, seed: int, settings: Settings = DEFAULT_SETTINGS
) -> None:
    """Score a checkpoint on each test set, write the table and its sidecar, print a summary.

    out       the table (None: results/stamps.csv, or avsbench.csv for sets of another origin)
    settings  other ones than usual have rows of their own (`Settings.labels`)

    Raises UserError for a table that cannot be written: before anything is scored, or once the scores are printed.
    """
    from rich.progress import Progress

    predictor, seen = task.segmenter.predictor, task.records
    if out is None:
        out = Path("results") / ("stamps.csv" if task.is_stamps else "avsbench.csv")
        check_tables(out)
    semantic = {name for name in seen if seen[name][0].layout in CLASS_ID_LAYOUTS and predictor.semantic}
    names = {name: ("background", *class_names(set_folder(task.root, name))) for name in semantic}
    for known in names.values() if settings.size is not None else ():
        class_order(predictor.classes, known)
    written: list[Row] = []
    with Progress(console=progress_console()) as bar:
        for name, records in seen.items():
            total = len(records[:clips])
            audios = list(AUDIOS)
            if (reason := without_donor(records, clips)) is not None:
                bar.console.print(f"{name}: no off-screen row, {reason}")
                audios.remove("offscreen")
            if not all(record.has_waveform for record in records):
                bar.console.print(f"{name}: no noise row, log-mel windows do not say how loud its clips are")
                audios.remove("noise")
            advance = partial(bar.advance, bar.add_task(name, total=total))
            scores = evaluate_each(predictor, records, audios, seed, clips, advance, settings)
            if name in semantic and settings.size is not None:
                advance = partial(bar.advance, bar.add_task(f"{name}, classes", total=total))
                found = evaluate_semantic(predictor, records, names[name], clips, advance, settings)
                scores["true"] = {**scores["true"], **class_protocols(found)}
            elif name in semantic:
                bar.console.print(f"{name}: no rows of classes, which are scored at one size; leave --native out")
            rows = score_rows(scores, task.scored, task.label(name), total, seed, settings)
            written += rows
            try:  # set by set: what is finished outlives an interruption
                save_rows(out, rows)
                save_notes(out.with_suffix(".json"), task.scored, task.label(name), settings, scores, task.device)
            except UserError:
                bar.stop()
                show(written)
                raise
    show(written)
    for part in predictor.missing:
        print(f"scored {part}")
    print(f"wrote {out} and {out.with_suffix('.json')}")
