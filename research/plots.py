"""The images of the study: reliance on sound against accuracy, counterfactuals, clips under four sounds."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor

from icf_avs.evaluation.evaluate import AUDIOS
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.output.overlay import Overlay
from icf_avs.types import Batch
from research.ablation_rows import ROWS
from research.ablation_variants import RandomVectors, ShuffledSounds
from research.scoring import TestClip, probabilities
from research.table import Line

INK, SIZE = "#333333", (7.0, 4.6)  # inches


def reliance(lines: list[Line], path: Path) -> None:
    """Every run as a point: the share of its mIoU left under off-screen sound, and its mIoU with the true one."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    names = [name for name in ROWS if ROWS[name].main and any(line["row"] == name for line in lines)]
    for colour, name in zip(plt.colormaps["tab10"].colors, names, strict=False):
        runs = [line for line in lines if line["row"] == name]
        kept = [float(run["miou_offscreen"]) / max(1e-6, float(run["miou"])) for run in runs]
        good = [float(run["miou"]) for run in runs]
        axes.scatter(kept, good, color=colour, s=36, label=name)
        axes.annotate(name, (mean(kept), mean(good)), (6, 4), textcoords="offset points", color=colour, fontsize=9)
    axes.set_xlabel("share of mIoU left under an off-screen sound (0: uses the audio, 1: ignores it)")
    axes.set_ylabel("mIoU with the true sound")
    axes.set_xlim(left=0)
    _save(figure, axes, path)


def counterfactuals(model: SegmentationModel, batch: Batch, path: Path) -> None:
    """Factual sounds of a batch, and counterfactuals of one of them by SC and by two stand-ins, on the two principal
    axes of the factual ones.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        network = model.network
        factual = network.semantic_of(network.encode_audio(batch.sound).token)
        network.counterfactual.eval()
        vocabulary = network.implicit_text.vocabulary if network.implicit_text is not None else None
        dim, of_mean = model.config.dim, network.counterfactual.mean
        sources = {"SC: orthogonal around the mean": network.counterfactual}
        for title, stand_in in (("shuffled sounds", ShuffledSounds), ("random vectors", RandomVectors)):
            part = stand_in(dim, len(model.classes), network.counterfactual.count).eval().to(of_mean.device)
            part.mean.copy_(of_mean)
            sources[title] = part
        clouds = {
            title: torch.cat(
                [part(factual, batch.sounding, batch.valid, vocabulary).sounds[:, 0].flatten(0, 1) for _ in range(12)]
            )
            for title, part in sources.items()
        }
    points = factual[batch.valid] - of_mean
    _, _, axes_of = torch.linalg.svd(points - points.mean(0), full_matrices=False)

    def flat(tokens: Tensor) -> np.ndarray:
        return ((tokens - of_mean) @ axes_of[:2].T).cpu().numpy()

    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    axes.scatter(*flat(factual[batch.valid]).T, s=10, color="#bbbbbb", label="factual sounds of other clips")
    for colour, (title, cloud) in zip(plt.colormaps["tab10"].colors, clouds.items(), strict=False):
        axes.scatter(*flat(cloud).T, s=14, color=colour, label=title)
    axes.scatter(*flat(factual[0]).T, s=60, marker="*", color=INK, label="the factual sound")
    axes.scatter(0, 0, s=60, marker="+", color=INK, label="mean")
    axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("first principal axis of factual sounds")
    axes.set_ylabel("second")
    _save(figure, axes, path)


def four_sounds(
    models: dict[str, SegmentationModel], clip: TestClip, picture: np.ndarray, frame: int, path: Path
) -> None:
    """One frame under each of four sounds, a line a model. image: uint8 [H,W,3] of that frame."""
    figure, axes = plt.subplots(len(models), len(AUDIOS), figsize=(8, 2.1 * len(models)), layout="constrained")
    for line, (name, model) in zip(np.atleast_2d(axes), models.items(), strict=True):
        for place, audio, found in zip(line, AUDIOS, probabilities(model, clip)[:, frame], strict=True):
            drawn = np.array(Image.fromarray(picture).convert("L").convert("RGB"))
            Overlay((found > 0.5).numpy()).draw_rgb(drawn)
            place.imshow(drawn)
            place.set_title(f"{name}: {audio}", fontsize=9)
            place.axis("off")
    _save(figure, None, path)


def _save(figure: plt.Figure, axes: plt.Axes | None, path: Path) -> None:
    if axes is not None:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=130, format="png", metadata={"Software": None})  # the same bytes from the same numbers
    plt.close(figure)
    partial.replace(path)
