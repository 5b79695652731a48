"""Scores of one model under the paper's disturbances. Frames are encoded once for all rows and sounds.

Uses the S4-like and MS3-like Stamps sets with pooled frames, under the `strict` protocol (docs/PROTOCOLS.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from icf_avs.datasets.layouts import read_set
from icf_avs.evaluation.metrics import StrictMetric, g_score
from icf_avs.evaluation.robustness.negative_audio import MIXED, SNRS, Audio, altered_audio, mix_frames
from icf_avs.evaluation.test_sets import FOLDERS
from icf_avs.inference.predictor import Predictor
from icf_avs.media.audio_windows import clip_windows
from icf_avs.media.images import resize_frames
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import ClipSpec, VisualFeatures

SETS = ("s4", "ms3")
SOUNDS: tuple[Audio, ...] = ("true", "silence", "noise", "offscreen", "snr-20db", "snr-30db", "snr-40db")
CONDITIONS = (*SOUNDS, *MIXED)
COLUMNS = (
    "miou", "f", "g_miou", "miou_silence", "miou_noise", "miou_offscreen", "fpr_offscreen",
    *(f"miou_{name}" for name in (*SNRS, *MIXED)),
)  # fmt: skip


@dataclass(frozen=True)
class TestClip:
    """pyramids: number of mixed frames (0: none) -> levels [T,c,h,w] float16; sounds [7,T,N] float32, in the order of
    SOUNDS; truth [T,H,W] bool for the labelled frames [T] bool.
    """

    pyramids: dict[int, list[Tensor]]
    sounds: Tensor
    truth: Tensor
    labelled: np.ndarray


@torch.inference_mode()
def test_clips(root: Path, visual: nn.Module, spec: ClipSpec, clips: int, seed: int = 0) -> list[TestClip]:
    """Return the first `clips` test clips of each set. Frames of a clip are mixed with those of the next clip."""
    found: list[TestClip] = []
    device = next(visual.parameters()).device
    for records in (read_set(root / FOLDERS[name], "test") for name in SETS):
        loaded = [record.load() for record in records[:clips]]
        for index, clip in enumerate(loaded):
            other = loaded[(index + 1) % len(loaded)].frames
            frames = {0: clip.frames} | {
                count: mix_frames(clip.frames, other, count, np.random.default_rng([seed, index]))
                for count in MIXED.values()
            }
            pyramids = {}
            for count, images in frames.items():
                levels = visual(resize_frames(torch.from_numpy(images), spec.image_size).to(device))
                pyramids[count] = [level.half().cpu() for level in levels]
            sounds = [altered_audio(clip, records, index, audio, seed) for audio in SOUNDS]
            windows = torch.from_numpy(np.stack([clip_windows(sound, spec, len(clip.frames)) for sound in sounds]))
            truth = torch.from_numpy(clip.masks[clip.labelled] > 0)
            found.append(TestClip(pyramids, windows, truth, clip.labelled))
    return found


@torch.inference_mode()
def score(model: SegmentationModel, clips: list[TestClip]) -> dict[str, float]:
    """Return COLUMNS. G-mIoU takes m- from the off-screen sound."""
    predictor = Predictor(model.eval())
    metrics = {condition: StrictMetric(sync_on_compute=False) for condition in CONDITIONS}
    for clip in clips:
        audio = model.network.encode_audio(clip.sounds.to(model.device))
        for number, condition in enumerate(CONDITIONS):
            heard = number if condition in SOUNDS else 0
            levels = [level[None].float().to(model.device) for level in clip.pyramids[MIXED.get(condition, 0)]]
            valid = torch.ones(1, len(levels[0][0]), dtype=torch.bool, device=model.device)
            of_sound = audio.map(lambda x, at=heard: x[at : at + 1])
            logits = predictor.segment(predictor.encode(None, VisualFeatures(levels)), of_sound, valid).logits[0]
            logits = nn.functional.interpolate(
                logits.float().cpu()[None], clip.truth.shape[1:], mode="bilinear", align_corners=False
            )[0]
            metrics[condition].update(logits[torch.from_numpy(clip.labelled)].sigmoid(), clip.truth)
    found = {condition: metric.compute() for condition, metric in metrics.items()}
    true, offscreen = found["true"], found["offscreen"]
    values = {"miou": true["miou"], "f": true["f"], "g_miou": g_score(true["miou"], offscreen["miou"])}
    values |= {f"miou_{name}": scores["miou"] for name, scores in found.items()}
    return {name: {**values, "fpr_offscreen": offscreen["active"]}[name] for name in COLUMNS}
