"""Run one model over the clips of a test set under every kind of sound, and under a blank frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate import predict, predict_each
from icf_avs.evaluation.metrics.binary import areas
from icf_avs.evaluation.robustness.negative_audio import (
    NEGATIVES,
    UNKNOWN,
    Audio,
    Donor,
    altered_audio,
    choose_donor,
    shifted_frame,
)
from icf_avs.evaluation.robustness.scores import ALL, CHANGED, Key, Scores, compared, condition_scores
from icf_avs.evaluation.scorer import Scorer, empty_frames, every_frame
from icf_avs.inference.predictor import MaskPredictor

if TYPE_CHECKING:
    from icf_avs.datasets.video_clip import ClipRecord, LoadedClip

BLANK = "blank"  # the frame, not the sound: mid-grey
CONDITIONS = ("true", *NEGATIVES, "shifted", BLANK)
_OF_CLIP: tuple[Audio, ...] = ("true", "silence", "noise", "noise-10db", "noise-40db", "shifted")
_GREY = 128


@dataclass(frozen=True)
class Example:
    """One frame of a clip and its masks."""

    clip: str
    image: np.ndarray  # uint8 [H, W, 3]
    truth: np.ndarray  # bool [H, W]
    predicted: dict[str, np.ndarray]  # kind of sound -> bool [H, W]
    donor: str  # what sounds off-screen, "" if nothing


@dataclass(frozen=True)
class RobustnessResult:
    """All scores of one test set, some examples, and what must be said beside them.

    `ious` and `frames` are what `verdict.judge` takes.
    """

    clips: int
    scores: dict[Key, Scores]
    ious: dict[str, np.ndarray]
    frames: np.ndarray
    examples: list[Example]
    notes: list[str]


def evaluate_robustness(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    seed: int = 0,
    clips: int | None = None,
    examples: int = 4,
    progress: Callable[[], None] = lambda: None,
) -> RobustnessResult:
    """Score a model on the labelled frames of `records` under each of `CONDITIONS`, all through one front end.

    clips     only the first so many; donors of off-screen sound still come from all records
    progress  called once per clip and condition
    """
    shown = records[:clips]
    donors, notes = _donors(records, len(shown), seed)
    chosen = set(np.linspace(0, len(shown) - 1, min(examples, len(shown))).round().astype(int).tolist())
    scorers: defaultdict[Key, Scorer] = defaultdict(Scorer)
    ious = {condition: np.full(len(shown), np.nan) for condition in CONDITIONS}
    counts = np.zeros(len(shown), int)
    chosen_examples = []
    for index, record in enumerate(shown):
        clip, donor = record.load(), donors[index]
        labelled = torch.from_numpy(clip.labelled)
        truth = torch.from_numpy(clip.masks > 0)[labelled]
        counts[index] = truth.any(2).any(1).sum()
        sets = _sounding(record, clip)
        changed, mute = (torch.from_numpy(flags)[labelled] for flags in _shift(sets))
        sounds: dict[str, np.ndarray] = {audio: altered_audio(clip, records, index, audio, seed) for audio in _OF_CLIP}
        if donor is not None:
            sounds["offscreen"] = records[donor.record].load().waveform
        found = dict(zip(sounds, predict_each(predictor, clip.frames, list(sounds.values())), strict=True))
        found[BLANK] = predict(predictor, np.full_like(clip.frames, _GREY), sounds["true"])
        predicted = {}
        for condition in CONDITIONS:
            if condition not in found:
                progress()
                continue
            probabilities = found[condition][labelled]
            silent = {"true": empty_frames(truth), "shifted": mute}.get(condition, every_frame(truth))
            if condition in ("true", "shifted"):
                scorers[condition, CHANGED].update(probabilities[changed], truth[changed], silent[changed])
            scorers[condition, ALL].update(probabilities, truth, silent)
            ious[condition][index] = _iou_sum(probabilities, truth)
            if donor is not None and condition in ("true", "offscreen"):
                scorers[condition, donor.category].update(probabilities, truth, silent)
            predicted[condition] = (probabilities > 0.5).numpy()
            progress()
        if index in chosen:
            at = _example_frame(truth.numpy(), changed.numpy())
            image = clip.frames[np.flatnonzero(clip.labelled)[at]]
            name = " and ".join(sorted(records[donor.record].sounding or ())) if donor else ""
            masks = {condition: frames[at] for condition, frames in predicted.items()}
            chosen_examples.append(Example(record.name, image, truth[at].numpy(), masks, name))
    scores = compared({key: condition_scores(scorer) for key, scorer in scorers.items()})
    if not scores["shifted", CHANGED]["frames"]:
        notes.append("In no frame is a shift known to change what sounds, so the shifted sound tests little here.")
        for audio in ("true", "shifted"):
            del scores[audio, CHANGED]
    return RobustnessResult(len(shown), scores, ious, counts, chosen_examples, notes)


def _iou_sum(probabilities: torch.Tensor, truth: torch.Tensor) -> float:
    """IoU of the frames in which something sounds, added up; [n, H, W], truth bool."""
    inter, union, _ = areas(probabilities, truth.float(), 0.5)
    sounding = truth.any(2).any(1)
    return (inter[sounding] / union[sounding]).sum().item()


def _donors(records: Sequence[ClipRecord], count: int, seed: int) -> tuple[list[Donor | None], list[str]]:
    """An off-screen clip for each of the first `count` or None, and what is to be said of them."""
    found: list[Donor | None] = []
    for index in range(count):
        try:
            found.append(choose_donor(records, index, seed))
        except UserError:
            found.append(None)
    notes = []
    if without := found.count(None):
        notes.append(
            f"{without} of {count} clips have no off-screen sound: the set does not say what is in their frames, or "
            "all that sounds in it is there."
        )
    if unknown := sum(donor is not None and donor.category == UNKNOWN for donor in found):
        notes.append(
            f"The off-screen sound of {unknown} of {count} clips merely shares no class with the frame: no clip is "
            "known to be of another super-category."
        )
    if any(found) and not all(record.complete for record in records[:count]):
        notes.append(
            "The set names what sounds, so an off-screen sound may be of an object that is silent in the frame."
        )
    return found, notes


def _sounding(record: ClipRecord, clip: LoadedClip) -> list[frozenset | None]:
    """What sounds in each frame, as the set says or else as its masks do; None where it is unknown.

    Masks have classes in the AVSS layout, in the others they say only whether anything sounds.
    """
    if record.seconds is not None and len(record.seconds) == len(clip.frames):
        return list(record.seconds)
    return [
        frozenset(np.unique(mask).tolist()) - {0} if known else None
        for mask, known in zip(clip.masks, clip.labelled, strict=True)
    ]


def _shift(sets: list[frozenset | None]) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame under shifted sound: whether what sounds is known to differ, and whether nothing sounds; bool."""
    moved = [sets[shifted_frame(t, len(sets))] for t in range(len(sets))]
    changed = [None not in (old, new) and old != new for old, new in zip(sets, moved, strict=True)]
    return np.array(changed), np.array([new is not None and not new for new in moved])


def _example_frame(truth: np.ndarray, changed: np.ndarray) -> int:
    """The frame to show: one with something to segment, if there is one whose sound changes when shifted."""
    areas = truth.sum((1, 2))
    middle = -abs(np.arange(len(areas)) - len(areas) // 2)
    return max(range(len(areas)), key=lambda t: (areas[t] > 0, changed[t], middle[t]))
