"""Slow metrics in NumPy, as in the public code: what those of the package are compared with."""

from __future__ import annotations

import math

import numpy as np
import torch

Clip = tuple[np.ndarray, np.ndarray]  # probabilities and truth, float32 [n, H, W]


def f_score(hits: float, marked: float, true: float) -> float:
    """F of beta squared 0.3 from counts of pixels; 0 without hits."""
    return 1.3 * hits / (0.3 * true + marked) if hits else 0.0


def oracle_curve(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """F of one frame at 255 thresholds."""
    thresholds = torch.linspace(0, 1 - 1e-10, 255).numpy()  # np.linspace rounds some differently
    curve = []
    for t in thresholds:
        hits = ((p >= t) * g).sum(dtype=np.float64)
        precision, recall = hits / ((p >= t).sum() + 1e-20), hits / (g.sum(dtype=np.float64) + 1e-20)
        below = 0.3 * precision + recall
        curve.append(1.3 * precision * recall / below if below else 0.0)
    return np.array(curve)


def oracle_reference(clips: list[Clip], batch_size: int, threshold: float) -> tuple[float, float]:
    ious, fs = [], []
    for start in range(0, len(clips), batch_size):
        iou, curves = [], []
        for p, g in clips[start : start + batch_size]:
            for frame, truth in zip(p, g, strict=True):
                marked = (frame > np.float32(threshold)).astype(np.float64)
                if truth.any():
                    iou.append((marked * truth).sum() / (np.maximum(marked, truth).sum() + 1e-7))
                    curves.append(oracle_curve(frame, truth))
                else:
                    iou.append(((1 - marked) * (1 - truth)).sum() / (truth.size + 1e-7))
        ious.append(np.mean(iou))
        fs.append(np.mean(curves, 0).max() if curves else 0.0)
    return float(np.mean(ious)), float(np.mean(fs))


def oracle_strict(clips: list[Clip], threshold: float) -> dict[str, float]:
    p, g = (np.concatenate(part) for part in zip(*clips, strict=True))
    marked, sounding = (p > np.float32(threshold)).astype(np.float64), g.any((1, 2))
    pairs = list(zip(p[sounding], g[sounding], strict=True))
    iou = [(m * t).sum() / np.maximum(m, t).sum() for m, t in zip(marked[sounding], g[sounding], strict=True)]
    empty = marked[~sounding].mean((1, 2))
    return {
        "miou": np.mean(iou) if iou else math.nan,
        "f": np.mean([oracle_curve(a, b) for a, b in pairs], 0).max() if pairs else math.nan,
        "fpr_empty": empty.mean() if len(empty) else math.nan,
        "blank_empty": (empty == 0).mean() if len(empty) else math.nan,
        "active": marked.mean(),
    }


def oracle_dataset(clips: list[Clip], threshold: float) -> dict[str, float]:
    """Scores from pixel counts over the data set: of the object, and the mean over background and object."""
    p, g = (np.concatenate(part).astype(np.float64) for part in zip(*clips, strict=True))
    marked = (p > np.float64(np.float32(threshold))).astype(np.float64)
    ious, fs = [], []
    for m, t in ((1 - marked, 1 - g), (marked, g)):
        hits, union = (m * t).sum(), np.maximum(m, t).sum()
        ious.append(hits / union if union else math.nan)
        fs.append(f_score(hits, m.sum(), t.sum()) if union else math.nan)
    return {"miou": ious[1], "f": fs[1], "miou_2classes": np.nan_to_num(ious).mean(), "f_2classes": np.nanmean(fs)}


def oracle_semantic(prediction: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """All scores of label maps [n, H, W], by class and frame."""
    iou, f, count, in_truth = np.zeros(classes), np.zeros(classes), np.zeros(classes), np.zeros(classes, bool)
    whole, whole_f = [], []
    for c in range(classes):
        for p, g in zip(prediction == c, truth == c, strict=True):
            inter, union = (p & g).sum(), (p | g).sum()
            iou[c] += inter / (union + 2.2e-16)
            count[c] += union > 0
            in_truth[c] |= g.any()
            f[c] += f_score(inter, p.sum(), g.sum())
        p, g = prediction == c, truth == c
        if (p | g).any():
            whole.append((p & g).sum() / (p | g).sum())
            whole_f.append(f_score((p & g).sum(), p.sum(), g.sum()))
    found = {"dataset_miou": np.mean(whole), "dataset_miou_all": sum(whole) / classes, "dataset_f": np.mean(whole_f)}
    for name, sums in (("miou", iou), ("f", f)):
        means = np.divide(sums, count, out=np.zeros(classes), where=count > 0)
        found[name] = means.sum() / classes
        found[f"{name}_reference_nobg"] = np.delete(means, classes - 1).mean()
        found[f"{name}_nobg"] = np.delete(means, 0).mean()
        found[f"{name}_strict"] = means[in_truth].mean()
    return found
