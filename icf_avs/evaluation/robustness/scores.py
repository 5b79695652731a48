"""Scores of a model under one kind of sound, against the ORIGINAL masks: under a negative sound lower is better.

FPR        share of the pixels segmented, mean over the frames in which nothing should be (AVSBench-Robust): those with
           empty truth for the true sound, those in which nothing sounds for a shifted one, all frames for the others
null       S = sqrt(segmented / pixels), mean over the same frames (the null score of Ref-AVS, whose code takes the
           share of all pixels of a batch of 4 clips at once: that gives more, unless all frames have the same share)
G          2 m+ (1 - m-) / (m+ + 1 - m-), m+ with the true sound and m- with the other, of mIoU and of F; it is high
           only for a model that segments what sounds AND stays silent when nothing does
drop       m+ - m-, both on the same clips or frames
F takes the best of 255 thresholds, the first of which segments every pixel; so even a blank prediction has some F, and
a drop in F is bounded by it.
"""

from __future__ import annotations

from collections.abc import Mapping

from icf_avs.evaluation.metrics import g_score
from icf_avs.evaluation.robustness.negative_audio import NEGATIVES
from icf_avs.evaluation.scorer import Scorer

ALL, CHANGED = "all", "changed"  # subsets: every clip, and frames whose sounding set a shift of the sound changes
NAN = float("nan")

Scores = dict[str, float]
Key = tuple[str, str]  # kind of sound, subset


def condition_scores(scorer: Scorer) -> Scores:
    """clips, frames, miou, f (strict), reference_miou, reference_f, fpr, null; NaN where no frame decides."""
    found = scorer.compute()
    strict, reference = found["strict"], found["reference"]
    return {
        "clips": scorer.clips,
        "frames": scorer.frames,
        "miou": strict["miou"],
        "f": strict["f"],
        "reference_miou": reference["miou"],
        "reference_f": reference["f"],
        "fpr": strict["fpr"],
        "null": scorer.null(),
    }


def compared(scores: Mapping[Key, Scores]) -> dict[Key, Scores]:
    """`scores` with drop_miou, drop_f, g_miou and g_f against the true sound on the same subset; else NaN.

    G only under negative sounds: a shifted sound calls for a mask, and a blank frame is no sound.
    """
    whole = {}
    for (audio, subset), values in scores.items():
        true = scores["true", subset]
        whole[audio, subset] = dict(values)
        for of in ("miou", "f"):
            whole[audio, subset][f"drop_{of}"] = NAN if audio == "true" else true[of] - values[of]
            whole[audio, subset][f"g_{of}"] = g_score(true[of], values[of]) if audio in NEGATIVES else NAN
    return whole
