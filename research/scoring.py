"""Scores of one model on balanced test scenes under four sounds: every image is encoded once, whatever sounds.

The S4-like and MS3-like Stamps test sets, their frames pooled, under the `strict` protocol (docs/PROTOCOLS.md), and
apart by set and by how many things in the image could sound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.datasets.layouts import read_set
from icf_avs.evaluation.evaluate import AUDIOS
from icf_avs.evaluation.metrics import StrictMetric, g_score
from icf_avs.evaluation.robustness.negative_audio import altered_audio
from icf_avs.evaluation.test_sets import FOLDERS
from icf_avs.media.audio_windows import clip_windows
from icf_avs.media.images import resize_frames
from icf_avs.networks.guided import Sounds
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import ClipSpec, VisualFeatures

SETS = ("s4", "ms3")
Scores = dict[str, float]


@dataclass(frozen=True)
class TestClip:
    """pyramid: levels [1,T,c,h,w] float16; waveforms [4,T,N] float32, in the order of AUDIOS; truth [T,H,W] bool;
    labelled [T] bool; candidates: classes in the image that could sound.
    """

    test_set: str
    pyramid: list[Tensor]
    waveforms: Tensor
    truth: Tensor
    labelled: Tensor
    candidates: int


def test_clips(
    root: Path,
    visual: nn.Module,
    spec: ClipSpec,
    clips: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[TestClip]:
    """The first so many test clips of each set in memory, with noise and off-screen donors drawn as by `evaluate`."""
    found: list[TestClip] = []
    device = next(visual.parameters()).device
    sets = {name: read_set(root / FOLDERS[name], "test") for name in SETS}
    total = sum(len(records[:clips]) for records in sets.values())
    for name, records in sets.items():
        for index, record in enumerate(records[:clips]):
            clip = record.load()
            with torch.inference_mode():
                levels = visual(resize_frames(torch.from_numpy(clip.frames), spec.image_size).to(device))
            sounds = [
                clip_windows(altered_audio(clip, records, index, audio, seed), spec, len(clip.frames))
                for audio in AUDIOS
            ]
            found.append(
                TestClip(
                    name,
                    [level[None].half().cpu() for level in levels],
                    torch.from_numpy(np.stack(sounds)),
                    torch.from_numpy(clip.masks > 0),
                    torch.from_numpy(clip.labelled),
                    len(record.onscreen),
                )
            )
            progress(len(found), total)
    return found


@torch.inference_mode()
def probabilities(model: SegmentationModel, clip: TestClip) -> Tensor:
    """[4,T,H,W], one for each of AUDIOS; the image is looked at once."""
    device, network = model.device, model.network
    visual = VisualFeatures([level.float().to(device) for level in clip.pyramid])
    pixels, audio = network.pixel_decoder([level[0] for level in visual.pyramid]), clip.waveforms.to(device)
    token, parts, _ = network.encode_audio(audio)
    within = (parts - token[:, :, None])[:, None]
    sounds = Sounds(network.semantic_of(token)[:, None], within, [None] * len(audio))
    valid = torch.ones(1, audio.shape[1], dtype=torch.bool, device=device)
    logits = network.decode_sounds(pixels, sounds, valid, visual).logits + model.offset
    size = clip.truth.shape[1:]
    return F.interpolate(logits.float().cpu(), size, mode="bilinear", align_corners=False).sigmoid()


def score(model: SegmentationModel, clips: list[TestClip]) -> tuple[Scores, list[dict[str, str | float]]]:
    """Scores over all frames (columns of results/ablation.csv), and those of each set and number of candidates.

    G-mIoU takes m- from the off-screen sound, the hardest of the three.
    """
    model.eval()
    groups: dict[tuple[str, str], dict[str, StrictMetric]] = {}
    for clip in clips:
        found = probabilities(model, clip)[:, clip.labelled]
        truth = clip.truth[clip.labelled]
        for key in (("all", "any"), (clip.test_set, "any"), ("all", str(clip.candidates))):
            group = groups.setdefault(key, {audio: StrictMetric(sync_on_compute=False) for audio in AUDIOS})
            for audio, masks in zip(AUDIOS, found, strict=True):
                group[audio].update(masks, truth)
    tables = {key: {audio: metric.compute() for audio, metric in group.items()} for key, group in groups.items()}
    parts = [
        {
            "test_set": test_set,
            "candidates": candidates,
            "frames": sum(
                int(clip.labelled.sum())
                for clip in clips
                if test_set in ("all", clip.test_set) and candidates in ("any", str(clip.candidates))
            ),
            **_columns(tables[test_set, candidates]),
        }
        for test_set, candidates in sorted(tables)
    ]
    return _columns(tables["all", "any"]), parts


def _columns(of_audio: dict[str, Scores]) -> Scores:
    true = of_audio["true"]
    values = {"miou": true["miou"], "f": true["f"]}
    values |= {f"miou_{audio}": of_audio[audio]["miou"] for audio in AUDIOS[1:]}
    values |= {f"fpr_{audio}": of_audio[audio]["active"] for audio in AUDIOS[1:]}
    return values | {"g_miou": g_score(true["miou"], of_audio["offscreen"]["miou"])}
