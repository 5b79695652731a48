"""The offset of the mask logits: hand-worked, and on a model that is too cautious by a known amount."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from icf_avs.contracts import Batch
from icf_avs.model.yardstick import Yardstick
from icf_avs.training.calibrate import OFFSETS, absent_words, calibrate, frame_ious


def test_iou_of_each_offset_by_hand():
    logits = torch.tensor([[[0.3, -0.3], [-0.6, -9.0]]])
    masks = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    ious = frame_ious(logits, masks)[0, 0]
    assert ious[OFFSETS.tolist().index(0.0)] == pytest.approx(1 / 2)  # one of two marked
    assert ious[OFFSETS.tolist().index(0.5)] == pytest.approx(1)  # both, nothing else
    assert ious[OFFSETS.tolist().index(1.0)] == pytest.approx(2 / 3)  # and one too many


def halves() -> Batch:
    """Two pictures, the left half of each is what sounds there; what sounds in one is not in the other."""
    masks = torch.zeros(2, 1, 4, 4)
    masks[..., :2] = 1
    flags, sounding = torch.ones(2, 1, dtype=torch.bool), torch.eye(2, dtype=torch.bool)[:, None]
    return Batch([], torch.randn(2, 1, 8), masks, masks.long(), flags, flags, sounding, sounding[:, 0])


class Cautious(nn.Module):
    """Marks the truth with logit -0.7, the rest with -1.7; under a foreign sound everything lies 9 lower."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(()))
        self.yardstick = None
        self.batch = batch

    def see(self, pictures, pyramid):
        return ()

    def mark(self, looks, waves, valid):
        low = 0.0 if torch.equal(waves, self.batch.waves) else -9.0
        return SimpleNamespace(logits=self.batch.masks - 1.7 + low + self.offset)


class Generous(Cautious):
    """Marks the truth of its second picture hesitantly; in the first, beside the truth, the ground a little more."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.yardstick = Yardstick()

    def mark(self, looks, waves, valid):
        sure, ground = torch.tensor([[8.0, 1.2], [0.8, -6.0]])[: len(waves)].T[..., None, None, None]
        logits = torch.where(self.batch.masks > 0, sure, ground)
        logits[0, ..., 1] = 3.0  # less sure of half of the truth
        low = 0.0 if torch.equal(waves, self.batch.waves) else -20.0
        return SimpleNamespace(logits=self.yardstick(logits + low + self.offset))


def test_a_picture_is_its_own_yardstick():
    """No one offset marks the truth of both pictures and nothing else."""
    batch = halves()
    model = Generous(batch)
    assert frame_ious(model.mark((), batch.waves, batch.valid).logits[:, 0], batch.masks[:, 0]).mean(0).max() < 1
    model.offset.fill_(1.0)  # calibrating starts from nothing
    model.yardstick.share.fill_(0.5)
    found = calibrate(model, [batch])
    assert found.miou == pytest.approx(1) and found.offset == -0.75
    assert found.share == pytest.approx(0.3), "the largest that leaves all of the truth"
    assert float(model.yardstick.share) == found.share and float(model.offset) == found.offset
    assert (model.mark((), batch.waves, batch.valid).logits > 0).equal(batch.masks > 0)


class Wishful(Generous):
    """Marks a little of the ground too under any other sound than a picture's own, at offsets above 0."""

    def mark(self, looks, waves, valid):
        logits = torch.full_like(self.batch.masks, -4.0)
        logits[self.batch.masks > 0] = 1.0 if torch.equal(waves, self.batch.waves) else -4.0
        if torch.equal(waves, self.batch.waves):
            logits[..., 1] = -1.2  # what a higher offset would gain
        else:
            logits[..., 3] = -0.05
        return SimpleNamespace(logits=self.yardstick(logits + self.offset))


def test_a_word_for_what_is_not_there_marks_a_hundredth_at_most():
    """The best score is at an offset of 1.25; at all above 0, a quarter of the picture would be."""
    batch = halves()
    model = Wishful(batch)
    found = calibrate(model, [batch])
    assert found.offset == 0 and found.miou == pytest.approx(0.5)
    assert not (model.mark((), batch.waves.roll(1, 0), batch.valid).logits > 0).any()


def test_the_surest_place_by_hand():
    """Of 400 pixels the second; and where nothing is marked, nothing is taken away."""
    logits = torch.full((2, 20, 20), -3.0)
    logits[0, 0, :3] = torch.tensor([9.0, 5.0, 4.0])
    part = Yardstick()
    assert part(logits).equal(logits)
    part.share.fill_(0.2)
    assert part(logits)[0, 0, :4].tolist() == pytest.approx([8.0, 4.0, 3.0, -4.0])
    assert part(logits)[1].equal(logits[1])


def test_a_cautious_model_is_made_to_mark_the_truth_and_nothing_else():
    batch = halves()
    model = Cautious(batch)
    found = calibrate(model, [batch])
    assert 0.7 < found.offset < 1.7 and float(model.offset) == pytest.approx(found.offset)
    assert found.miou == pytest.approx(1) and found.miou_foreign == 0


def test_nothing_to_measure_leaves_a_number():
    flags = torch.ones(1, 1, dtype=torch.bool)
    empty = torch.zeros(1, 1, 4, 4)
    nothing = torch.zeros(1, 1, 2, dtype=torch.bool)
    batch = Batch([], torch.zeros(1, 1, 8), empty, empty.long(), flags, flags, nothing, nothing[:, 0])
    for model in (Cautious(batch), Generous(batch)):
        found = calibrate(model, [batch])
        assert found.miou == 0 and found.share == 0


def test_absent_words_are_of_what_is_not_shown():
    batch = halves()
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):  # one of two kinds is shown in each, so there is one word to say
        assert absent_words(batch, generator).equal(torch.eye(2).flip(0)[:, None])
