"""A few validation clips to look at while a run goes on: frame, ground truth, and predicted mask."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from icf_avs.inference.predictor import Predictor
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.output.overlay import Overlay
from icf_avs.training.data_protocol import Sample

CLIPS, COLUMNS, SIDE, GAP = 4, 5, 112, 4  # of a sheet; SIDE and GAP in pixels


def sample_sheet(model: SegmentationModel, samples: list[Sample]) -> np.ndarray:
    """uint8 [H, W, 3]: of every clip up to five moments, with the ground truth and the predicted mask below.

    Switches the model to evaluation.
    """
    line = SIDE + GAP
    sheet = np.full((len(samples) * (3 * line + 2 * GAP), COLUMNS * line, 3), 24, np.uint8)
    for row, sample in enumerate(samples):
        logits = _mask_logits(model, sample)
        shown = np.linspace(0, len(sample.frames) - 1, min(COLUMNS, len(sample.frames))).round().astype(int)
        for column, frame in enumerate(shown):
            image = Image.fromarray(sample.frames[frame].numpy()).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            truth = _at(sample.masks[frame] - 0.5)
            for number, mask in enumerate((np.zeros_like(truth), truth, _at(logits[frame]))):
                tile = np.array(image)
                Overlay(mask).draw_rgb(tile)
                top, left = row * (3 * line + 2 * GAP) + number * line, column * line
                sheet[top : top + SIDE, left : left + SIDE] = tile
    return sheet


@torch.inference_mode()
def _mask_logits(model: SegmentationModel, sample: Sample) -> Tensor:
    """Mask logits [T,h,w] on the CPU."""
    predictor = Predictor(model)
    audio = model.eval().network.encode_audio(sample.sound[None].to(model.device), sample.has_tags)
    valid = torch.ones(audio.token.shape[:2], dtype=torch.bool, device=model.device)
    return predictor.segment(predictor.encode(sample.frames[None]), audio, valid).logits[0].cpu()


def _at(values: Tensor) -> np.ndarray:
    """[h, w] -> bool [SIDE, SIDE], where above 0."""
    return (F.interpolate(values.float()[None, None], (SIDE, SIDE), mode="bilinear")[0, 0] > 0).numpy()
