"""Score one model on the clips of a test set under every kind of sound, with mixed frames and with a blank frame.

All scores are against the ORIGINAL masks: under a negative sound lower is better.

FPR        share of segmented pixels, averaged over the frames in which nothing should be (AVSBench-Robust): frames with
           empty truth for the true sound, frames in which nothing sounds for a shifted one, all frames for the others
null       S = sqrt(segmented / pixels), averaged over the same frames (the null score of Ref-AVS, whose code pools the
           pixels of a batch of 4 clips: that is larger, unless all frames have the same share)
G          2 m+ (1 - m-) / (m+ + 1 - m-), m+ with the true sound and m- with the other, of mIoU and of F; high only for
           a model that segments sounding objects AND segments nothing when nothing sounds
drop       m+ - m-, both on the same clips or frames
F takes the best of 255 thresholds, and the first one segments every pixel. So even a blank prediction has a non-zero F,
which bounds the drop in F.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import numpy as np
import torch

from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate import Scorer, predict_each, silent_frames
from icf_avs.evaluation.metrics import g_score
from icf_avs.evaluation.metrics.binary import areas
from icf_avs.evaluation.robustness.negative_audio import (
    MIXED,
    NEGATIVES,
    SNRS,
    UNKNOWN,
    Audio,
    Donor,
    altered_audio,
    choose_donor,
    mix_frames,
    shifted_frame,
)

if TYPE_CHECKING:
    from icf_avs.datasets.video_clip import ClipRecord, LoadedClip
    from icf_avs.mask_predictor import MaskPredictor

BLANK = "blank"  # mid-grey frames with the true sound
CONDITIONS = ("true", *NEGATIVES, "shifted", *SNRS, *MIXED, BLANK)
_CLIP_SOUNDS: tuple[Audio, ...] = (
    "true", "silence", "noise", "noise-10db", "noise-40db", "shifted", "snr-20db", "snr-30db", "snr-40db"
)  # fmt: skip
_GREY = 128
ALL, CHANGED = "all", "changed"  # subsets: all clips; frames whose sounding classes change under the shift
SCORE_NAMES = (
    "miou", "f", "reference_miou", "reference_f", "fpr", "null", "drop_miou", "drop_f", "g_miou", "g_f"
)  # fmt: skip

Scores = dict[str, float]
Key = tuple[str, str]  # kind of sound, subset


@dataclass(frozen=True)
class RobustnessResult:
    """All scores of one test set and the notes to print with them. `ious` and `frames` are inputs of `judge`."""

    scores: dict[Key, Scores]
    ious: dict[str, np.ndarray]
    frames: np.ndarray
    notes: list[str]


def evaluate_robustness(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    seed: int = 0,
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> RobustnessResult:
    """Score a model on the labelled frames of `records` under each of `CONDITIONS`, with the same audio front end.

    clips     score only the first `clips` clips; off-screen donors are still drawn from all records
    progress  called after each clip
    """
    scored = records[:clips]
    donors, notes = _donors(records, len(scored), seed)
    scorers: defaultdict[Key, Scorer] = defaultdict(Scorer)
    ious = {condition: np.full(len(scored), np.nan) for condition in CONDITIONS}
    counts = np.zeros(len(scored), int)
    for index, record in enumerate(scored):
        clip, donor = record.load(), donors[index]
        labelled = torch.from_numpy(clip.labelled)
        truth = torch.from_numpy(clip.masks > 0)[labelled]
        counts[index] = truth.any(2).any(1).sum()
        changed, nothing_sounds = (torch.from_numpy(flags)[labelled] for flags in _shift_flags(_sounding(record, clip)))
        sounds: dict[str, np.ndarray] = {
            audio: altered_audio(clip, records, index, audio, seed) for audio in _CLIP_SOUNDS
        }
        if donor is not None:
            sounds["offscreen"] = records[donor.record].load().waveform
        predicted = dict(zip(sounds, predict_each(predictor, clip.frames, list(sounds.values())), strict=True))
        images = {BLANK: np.full_like(clip.frames, _GREY)}
        if len(scored) > 1:
            other = scored[(index + 1) % len(scored)].load().frames
            for condition, count in MIXED.items():
                images[condition] = mix_frames(clip.frames, other, count, np.random.default_rng([seed, index]))
        for condition, frames in images.items():
            (predicted[condition],) = predict_each(predictor, frames, [sounds["true"]])
        for condition in filter(predicted.__contains__, CONDITIONS):
            probabilities = predicted[condition][labelled]
            silent = (
                silent_frames(truth, condition in (*NEGATIVES, BLANK)) if condition != "shifted" else nothing_sounds
            )
            if condition in ("true", "shifted"):
                scorers[condition, CHANGED].update(probabilities[changed], truth[changed], silent[changed])
            scorers[condition, ALL].update(probabilities, truth, silent)
            ious[condition][index] = _iou_sum(probabilities, truth)
            if donor is not None and condition in ("true", "offscreen"):
                scorers[condition, donor.category].update(probabilities, truth, silent)
        progress()
    scores = add_drops_and_g({key: condition_scores(scorer) for key, scorer in scorers.items()})
    if len(scored) == 1:
        notes.append("With a single clip there are no frames of another one to mix in.")
    if not scores["shifted", CHANGED]["frames"]:
        notes.append("In no frame is a shift known to change what sounds, so the shifted sound tests little here.")
        for audio in ("true", "shifted"):
            del scores[audio, CHANGED]
    return RobustnessResult(scores, ious, counts, notes)


def _iou_sum(probabilities: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the IoU summed over the frames in which something sounds; inputs [n, H, W], truth bool."""
    inter, union, _ = areas(probabilities, truth.float(), 0.5)
    sounding = truth.any(2).any(1)
    return (inter[sounding] / union[sounding]).sum().item()


def _donors(records: Sequence[ClipRecord], count: int, seed: int) -> tuple[list[Donor | None], list[str]]:
    """Return an off-screen clip or None for each of the first `count` clips, and notes about them."""
    donors: list[Donor | None] = []
    for index in range(count):
        try:
            donors.append(choose_donor(records, index, seed))
        except UserError:
            donors.append(None)
    notes = []
    if without := donors.count(None):
        notes.append(
            f"{without} of {count} clips have no off-screen sound: the set does not say what is in their frames, or "
            "all that sounds in it is there."
        )
    if unknown := sum(donor is not None and donor.category == UNKNOWN for donor in donors):
        notes.append(
            f"The off-screen sound of {unknown} of {count} clips merely shares no class with the frame: no clip is "
            "known to be of another super-category."
        )
    if any(donors) and not all(record.complete for record in records[:count]):
        notes.append(
            "The set names what sounds, so an off-screen sound may be of an object that is silent in the frame."
        )
    return donors, notes


def _sounding(record: ClipRecord, clip: LoadedClip) -> list[frozenset | None]:
    """Return the sounding classes of each frame, from the set's annotation or else its masks; None where unknown.

    Masks hold classes in the AVSS layout. In other layouts they tell only whether anything sounds.
    """
    if record.sounding_by_second is not None and len(record.sounding_by_second) == len(clip.frames):
        return list(record.sounding_by_second)
    return [
        frozenset(np.unique(mask).tolist()) - {0} if known else None
        for mask, known in zip(clip.masks, clip.labelled, strict=True)
    ]


def _shift_flags(sets: list[frozenset | None]) -> tuple[np.ndarray, np.ndarray]:
    """Per frame under shifted sound, bool: whether sounding classes are known to change; whether nothing sounds."""
    moved = [sets[shifted_frame(t, len(sets))] for t in range(len(sets))]
    changed = [None not in (old, new) and old != new for old, new in zip(sets, moved, strict=True)]
    return np.array(changed), np.array([new is not None and not new for new in moved])


def condition_scores(scorer: Scorer) -> Scores:
    """Return clips, frames, miou, f (strict), reference_miou, reference_f, fpr, null; NaN where no frame counts."""
    by_protocol = scorer.compute()
    scores = {
        f"{prefix}{score}": by_protocol[name][score]
        for prefix, name in (("", "strict"), ("reference_", "reference"))
        for score in ("miou", "f")
    }
    counts = {"clips": scorer.clips, "frames": scorer.frames}
    return {**counts, **scores, "fpr": by_protocol["strict"]["fpr"], "null": scorer.null()}


def add_drops_and_g(scores: Mapping[Key, Scores]) -> dict[Key, Scores]:
    """Add drop_miou, drop_f, g_miou and g_f to `scores`, relative to the true sound on the same subset (or NaN).

    G is defined only for negative sounds: a shifted sound has a correct mask, and a blank frame is not a sound.
    """
    extended = {key: dict(values) for key, values in scores.items()}
    for (audio, subset), values in extended.items():
        true = scores["true", subset]
        for score in ("miou", "f"):
            values[f"drop_{score}"] = nan if audio == "true" else true[score] - values[score]
            values[f"g_{score}"] = g_score(true[score], values[score]) if audio in NEGATIVES else nan
    return extended
