"""The offset of the mask logits: hand-worked, and on a model that is too cautious by a known amount."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from icf_avs.contracts import Batch
from icf_avs.training.calibrate import OFFSETS, calibrate, frame_ious


def test_iou_of_each_offset_by_hand():
    logits = torch.tensor([[[0.3, -0.3], [-0.6, -9.0]]])
    masks = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    ious = frame_ious(logits, masks)[0]
    assert ious[OFFSETS.tolist().index(0.0)] == pytest.approx(1 / 2)  # one of two marked
    assert ious[OFFSETS.tolist().index(0.5)] == pytest.approx(1)  # both, nothing else
    assert ious[OFFSETS.tolist().index(1.0)] == pytest.approx(2 / 3)  # and one too many


class Cautious(nn.Module):
    """Marks the truth with logit -0.7, the rest with -1.7; under a foreign sound everything lies 9 lower."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(()))
        self.batch = batch

    def forward(self, pyramid, waves, valid):
        low = 0.0 if torch.equal(waves, self.batch.waves) else -9.0
        return SimpleNamespace(logits=self.batch.masks - 1.7 + low + self.offset)


def test_a_cautious_model_is_made_to_mark_the_truth_and_nothing_else():
    masks = torch.zeros(2, 1, 4, 4)
    masks[..., :2] = 1
    flags = torch.ones(2, 1, dtype=torch.bool)
    sounding = torch.eye(2, dtype=torch.bool)[:, None]
    batch = Batch([], torch.randn(2, 1, 8), masks, masks.long(), flags, flags, sounding, sounding[:, 0])
    model = Cautious(batch)
    found = calibrate(model, [batch])
    assert 0.7 < found.offset < 1.7 and float(model.offset) == pytest.approx(found.offset)
    assert found.miou == pytest.approx(1) and found.miou_foreign == 0


def test_nothing_to_measure_leaves_a_number():
    flags = torch.ones(1, 1, dtype=torch.bool)
    empty = torch.zeros(1, 1, 4, 4)
    nothing = torch.zeros(1, 1, 2, dtype=torch.bool)
    batch = Batch([], torch.zeros(1, 1, 8), empty, empty.long(), flags, flags, nothing, nothing[:, 0])
    assert calibrate(Cautious(batch), [batch]).miou == 0
