"""Calibration of the offset of mask logits: worked by hand, and on models with a known bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from icf_avs.config import EvidenceConfig, ModelConfig
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.relative_threshold import subtract_max_fraction
from icf_avs.networks.base import Network
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.training.calibrate import absent_words, calibrate, frame_ious
from icf_avs.types import AudioFeatures, Batch, ClipSpec, NetworkFeatures, NetworkOutput, VisualFeatures


def halves() -> Batch:
    """Two frames of different classes; the left half of each is its sounding object."""
    masks = torch.zeros(2, 1, 4, 4)
    masks[..., :2] = 1
    flags, sounding = torch.ones(2, 1, dtype=torch.bool), torch.eye(2, dtype=torch.bool)[:, None]
    return Batch([torch.zeros(0)], torch.randn(2, 1, 8), masks, masks.long(), flags, flags, sounding, sounding[:, 0])


class Known(Network):
    """Mask logits given by a function of the truth and whether the sound is the clip's own (not of absent words)."""

    feature_spec = None

    def __init__(self, batch: Batch, logits: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__(nn.Identity(), nn.Identity(), train_visual=False)
        self.batch, self.logits = batch, logits

    def encode_audio(self, sound: Tensor, tags: bool = False) -> AudioFeatures:
        return AudioFeatures(sound)

    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        logits = self.logits(self.batch.masks, audio.token.equal(self.batch.waveforms))
        return NetworkOutput(logits, NetworkFeatures((), audio.token))


def cautious(masks: Tensor, own: bool) -> Tensor:
    """-0.7 on the truth and -1.7 elsewhere."""
    return masks - 1.7 - 9.0 * (not own)


def generous(masks: Tensor, own: bool) -> Tensor:
    """In the first frame, 8 or 3 on the truth, 1.2 elsewhere; in the second, 0.8 and -6."""
    sure, ground = torch.tensor([[8.0, 1.2], [0.8, -6.0]])[: len(masks)].T[..., None, None, None]
    logits = torch.where(masks > 0, sure, ground)
    logits[0, ..., 1] = 3.0
    return logits - 20.0 * (not own)


def wishful(masks: Tensor, own: bool) -> Tensor:
    """At offsets above 0, marks some background under any audio but the frame's own."""
    logits = torch.where(masks > 0, 1.0 if own else -4.0, -4.0)
    logits[..., 1 if own else 3] = -1.2 if own else -0.05  # what a higher offset would gain; the background
    return logits


def model_of(batch: Batch, logits: Callable, open_vocabulary: bool = False) -> SegmentationModel:
    """open_vocabulary: with a relative threshold to calibrate too."""
    config = ModelConfig(("dog", "cat"), evidence=EvidenceConfig() if open_vocabulary else None)
    return SegmentationModel(config, ClipSpec(), Known(batch, logits))


def found_by(model: SegmentationModel, batch: Batch, sounds: Tensor) -> Tensor:
    predictor = Predictor(model)
    return predictor.segment(predictor.encode(None, batch.visual), AudioFeatures(sounds), batch.valid).logits


def test_relative_threshold_adapts_to_each_frame():
    """No single offset marks exactly the truth of both frames."""
    batch = halves()
    model = model_of(batch, generous, open_vocabulary=True)
    assert frame_ious(found_by(model, batch, batch.waveforms)[:, 0], batch.masks[:, 0]).mean(0).max() < 1
    model.offset.fill_(1.0)  # calibration ignores earlier values
    model.relative_threshold.fill_(0.5)
    found = calibrate(model, [batch])
    assert found.miou == pytest.approx(1) and found.offset == -0.75
    assert found.share == pytest.approx(0.3), "the largest that leaves all of the truth"
    assert float(model.relative_threshold) == found.share and float(model.offset) == found.offset
    assert (found_by(model, batch, batch.waveforms) > 0).equal(batch.masks > 0)


def test_absent_words_mark_at_most_one_percent():
    """The best score is at offset 1.25, but above 0 absent words would mark a quarter of the frame."""
    batch = halves()
    assert absent_words(batch, torch.Generator()).equal(torch.eye(2).flip(0)[:, None])  # each shows the other class
    model = model_of(batch, wishful, open_vocabulary=True)
    found = calibrate(model, [batch])
    assert found.offset == 0 and found.miou == pytest.approx(0.5)
    assert not (found_by(model, batch, batch.waveforms.roll(1, 0)) > 0).any()


def test_subtract_max_fraction_by_hand():
    """The maximum is the second largest of 400 pixels; frames without marks are unchanged."""
    logits = torch.full((2, 20, 20), -3.0)
    logits[0, 0, :3] = torch.tensor([9.0, 5.0, 4.0])
    assert subtract_max_fraction(logits, torch.tensor(0.0)).equal(logits)
    lower = subtract_max_fraction(logits, torch.tensor(0.2))
    assert lower[0, 0, :4].tolist() == pytest.approx([8.0, 4.0, 3.0, -4.0])
    assert lower[1].equal(logits[1])


def test_a_cautious_model_is_calibrated_to_the_truth():
    batch = halves()
    model = model_of(batch, cautious)
    found = calibrate(model, [batch])
    assert 0.7 < found.offset < 1.7 and float(model.offset) == pytest.approx(found.offset)
    assert found.miou == pytest.approx(1) and found.miou_foreign == 0


def test_calibration_without_masks_gives_zero():
    batch = halves()
    batch = replace(batch, masks=torch.zeros_like(batch.masks), sounding=torch.zeros_like(batch.sounding))
    for logits, open_vocabulary in ((cautious, False), (generous, True)):
        found = calibrate(model_of(batch, logits, open_vocabulary), [batch])
        assert found.miou == 0 and found.share == 0
