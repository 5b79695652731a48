"""Mask losses, reading losses and the terms of guided_loss by hand; classes that are unknown; unlabelled frames."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_guided import NAMES, loss_terms, random_batch, run, small_model
from torch import Tensor
from torch.nn.functional import avg_pool2d

from icf_avs.extensions.intervention_losses import removed_source_loss
from icf_avs.mask_losses import bce_loss, dice_loss, focal_loss, semantic_loss, suppression_loss
from icf_avs.networks.guided_parts import losses
from icf_avs.networks.guided_parts.losses import GuidedLossWeights
from icf_avs.soft_class_targets import area_share, class_shares, known_cells
from icf_avs.types import Batch

NO = torch.zeros(1, 1, dtype=torch.bool)
YES = ~NO
FINE = 4  # class-map pixels per side of a mask cell


def test_bce_and_dice_by_hand() -> None:
    logits, target = torch.tensor([[[[0.0, math.log(3)]]]]), torch.tensor([[[[1.0, 0.0]]]])  # probabilities 1/2 and 3/4
    assert float(bce_loss(logits, target, YES)) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert float(dice_loss(logits, target, YES)) == pytest.approx(1 - 2 * 0.5 / (1.25 + 1))
    assert float(dice_loss(logits, 0 * target, YES)) == 0, "an empty mask has no overlap"


@pytest.mark.parametrize("loss", [bce_loss, dice_loss, semantic_loss])
def test_labelled_frames_have_equal_weight_and_others_no_gradient(loss) -> None:
    shape = (2, 3, 5, 4, 4) if loss is semantic_loss else (2, 3, 4, 4)
    logits, target = torch.randn(shape, requires_grad=True), torch.randn(shape).softmax(2)
    frames = torch.tensor([[True, False, True], [False, False, True]])
    single = [loss(logits[b, t][None, None], target[b, t][None, None], YES) for b, t in ((0, 0), (0, 2), (1, 2))]
    found = loss(logits, target, frames)
    assert torch.allclose(found, torch.stack(single).mean())
    found.backward()
    assert logits.grad.flatten(2).any(-1).equal(frames)


def test_focal_loss_is_the_published_formula() -> None:
    logits, masks = torch.randn(2, 2, 3, 3), (torch.randn(2, 2, 3, 3) > 0).float()
    frames = torch.tensor([[True, False], [True, True]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    pt, alpha = np.where(masks.numpy() > 0, p, 1 - p), np.where(masks.numpy() > 0, 0.25, 0.75)
    expected = (-alpha * (1 - pt) ** 2 * np.log(pt)).mean((-2, -1))[frames.numpy()].mean()
    assert float(focal_loss(logits, masks, frames)) == pytest.approx(float(expected), rel=1e-4)


def test_suppression_loss_by_hand() -> None:
    logits, factual = torch.tensor([[[[0.0, 10.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    zero, ten = math.log(2), math.log1p(math.exp(10))
    assert float(suppression_loss(logits, factual, NO, YES)) == pytest.approx(zero)
    assert float(suppression_loss(logits, factual, YES, NO)) == pytest.approx((zero + ten) / 2)
    assert float(suppression_loss(logits, factual, YES, YES)) == pytest.approx(zero + (zero + ten) / 2)
    assert float(suppression_loss(logits, factual, NO, NO)) == 0
    # A frame with an empty mask does not dilute the loss of another.
    logits, factual = torch.zeros(1, 2, 2, 2), torch.tensor([1.0, 0.0])[:, None, None].expand(1, 2, 2, 2)
    assert float(suppression_loss(logits, factual, NO.expand(1, 2), YES.expand(1, 2))) == pytest.approx(zero)


def test_semantic_loss_by_hand() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0]).reshape(1, 1, 3, 1, 1)
    probability = logits.flatten().softmax(0)

    def loss(*shares: float) -> Tensor:
        return semantic_loss(logits, torch.tensor(shares).reshape(1, 1, 3, 1, 1), YES)

    overlap = 1 - 2 * probability[2] / (probability[2] + 1)
    assert torch.allclose(loss(0, 0, 1), overlap - probability[2].log())
    assert torch.allclose(loss(1, 0, 0), -probability[0].log())  # no class is present, so there is no overlap term
    part = -0.25 * probability[0].log() - 0.75 * probability[2].log()
    assert torch.allclose(loss(0.25, 0, 0.75), part + 1 - 1.5 * probability[2] / (probability[2] + 0.75))
    assert float(loss(0.25, 0, 0.5)) == 0, "a quarter of the cell is of an unknown class"


def test_sound_reading_loss_by_hand() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4)  # two names, "nothing sounds", a free word
    cost = -logits.log_softmax(-1).flatten()
    expected_of = {(True, False): cost[0], (True, True): (cost[0] + cost[1]) / 2, (False, False): cost[2]}
    for sounding, expected in expected_of.items():
        assert torch.allclose(losses.sound_reading_loss(logits, torch.tensor([[sounding]]), YES), expected)
    assert float(losses.sound_reading_loss(logits, torch.tensor([[[True, False]]]), NO)) == 0


def test_pixel_reading_loss_by_hand() -> None:
    """Each position is weighted by its sounding share; its target is the share of each class."""
    logits = torch.randn(1, 1, 3, 2, 2)
    kinds = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    kinds[..., :2, :4] = 2  # half of the first 4x4 cell
    kinds[..., 4:, :4] = 1
    kinds[..., 4, :4] = 2  # a quarter of the cell below, whose rest is class 1
    masks = avg_pool2d((kinds > 0).float(), 2)
    masks[..., 2:, 2:] = 1  # unknown class
    cost = -logits.log_softmax(2)[0, 0]
    expected = (0.5 * cost[1, 0, 0] + 0.75 * cost[0, 1, 0] + 0.25 * cost[1, 1, 0]) / 1.5
    assert torch.allclose(losses.pixel_reading_loss(logits, kinds, masks, YES), expected)
    assert float(losses.pixel_reading_loss(logits, kinds, masks, NO)) == 0
    assert float(losses.pixel_reading_loss(logits, 0 * kinds, masks, YES)) == 0


CASES = (
    "empty masks", "nothing labelled", "nobody sounds", "kinds unknown", "everything sounds", "only padding", "as is",
)  # fmt: skip
OF_LABELLED_FRAMES = (
    "bce", "dice", "semantic", "prior", "pixel_reading", "counterfactual", "visual_counterfactual", "contrast",
)  # fmt: skip


def degenerate(batch: Batch, case: str) -> Batch:
    batch.masks *= case not in ("empty masks", "nobody sounds")
    batch.class_map *= case not in ("empty masks", "nobody sounds", "kinds unknown")
    batch.sounding &= case not in ("nobody sounds", "kinds unknown")
    if case == "everything sounds":
        for each in (batch.masks, batch.sounding, batch.onscreen):
            each.fill_(1)
    batch.onscreen = None if case == "kinds unknown" else batch.onscreen
    batch.labelled &= case != "nothing labelled"
    batch.valid &= case != "only padding"
    return batch


@pytest.mark.parametrize(("case", "clips"), [*((case, 3) for case in CASES), ("everything sounds", 1), ("as is", 1)])
def test_losses_and_gradients_are_finite_and_the_loss_is_the_weighted_sum(case: str, clips: int) -> None:
    model, batch = small_model(semantic=True), degenerate(random_batch(clips), case)
    torch.manual_seed(1)
    terms = loss_terms(model, batch)
    assert all(torch.isfinite(value) for value in terms.values()), terms
    weights = asdict(GuidedLossWeights())
    assert terms.keys() == {*weights, "loss"} - {"extra_audio"}  # in tests/test_guided_network.py
    total = sum(weights[name] * float(value.detach()) for name, value in terms.items() if name != "loss")
    assert float(terms["loss"].detach()) == pytest.approx(total, rel=1e-5)
    terms["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if case == "nothing labelled":
        assert not any(terms[name].any() for name in OF_LABELLED_FRAMES)
    if case == "everything sounds":
        assert not terms["visual_counterfactual"].any()  # every frame shows everything that sounds


def test_an_unlabelled_frame_gets_no_mask_gradient() -> None:
    batch, model = random_batch(3, frames=3), small_model()
    batch.labelled[:, 1] = False
    output = run(model, batch)
    names = ("logits", "prior", "counterfactual_logits", "visual_counterfactual_logits", "pixel_reading")
    for name in names:
        getattr(output, name).retain_grad()
    loss_terms(model, batch, output)["loss"].backward()
    for name in names:
        time = 2 if name == "counterfactual_logits" else 1
        reached = getattr(output, name).grad.movedim(time, 0).flatten(1).any(1)
        assert reached.tolist() == [True, False, True], name


def test_audio_of_another_clip_is_suppressed_unless_its_class_is_on_screen() -> None:
    """Clip i shows classes i, i + 1 and hears clip i - 1, whose class is on no screen until it is added to one."""
    batch, model = random_batch(3), small_model()
    output, inside = run(model, batch), torch.ones(3, 2, dtype=torch.bool)
    for shown in (False, True):
        batch.onscreen[1, 0] = shown  # the class of clip 0 appears in clip 1
        everywhere = inside & ~(shown & (torch.arange(3) == 1))[:, None]
        expected = suppression_loss(output.visual_counterfactual_logits, batch.masks, everywhere, inside)
        assert torch.allclose(loss_terms(model, batch, output)["visual_counterfactual"], expected)


def by_hand(pixels: np.ndarray, chosen: int) -> np.ndarray:
    """Share of class `chosen` in each cell of a pixel map [H,W]."""
    side = len(pixels) // FINE
    return (pixels == chosen).reshape(side, FINE, side, FINE).mean((1, 3))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), unknown=st.booleans())
def test_shares_equal_counted_pixels(seed: int, unknown: bool) -> None:
    """9: sounding pixels of unknown class."""
    pixels = np.random.default_rng(seed).choice([0, 1, 2, 9 if unknown else 2], (12, 12), p=[0.4, 0.3, 0.2, 0.1])
    masks = avg_pool2d(torch.from_numpy(pixels > 0).float()[None, None], FINE)
    class_map = torch.from_numpy(np.where(pixels == 9, 0, pixels))[None, None]
    found = class_shares(class_map, masks, 3)[0, 0].numpy()
    for number in range(4):
        np.testing.assert_allclose(found[number], by_hand(pixels, number), atol=1e-6)
    np.testing.assert_array_equal(known_cells(class_map, masks)[0, 0].numpy(), by_hand(pixels, 9) == 0)


def test_shares_of_a_coarse_map_never_exceed_the_masks() -> None:
    masks = torch.tensor([[[[1.0, 0.75, 0.25, 0.0]]]])
    where = torch.tensor([[[[True, True, False, False]]]])
    assert area_share(where, masks).flatten().tolist() == [1, 0.75, 0, 0]
    assert known_cells(where, masks).flatten().tolist() == [True, True, False, True]


def test_removal_of_a_class_by_hand() -> None:
    """At zero logits. Frames: class 0 above class 1, with edges inside cells; class 0 alone, without a map; class 1
    alone, without a map; both without a map, as in MS3, where the class of a pixel is unknown; the same partly known.
    """
    batch, pixels = random_batch(1, frames=5), torch.zeros(1, 5, 64, 64, dtype=torch.long)
    pixels[..., :30, :33], pixels[..., 30:, :33] = 1, 2
    batch.masks, batch.class_map = avg_pool2d((pixels > 0).float(), FINE), pixels.clone()
    batch.class_map[:, 1:], batch.class_map[0, 4, :8, :8] = 0, 1  # 2 x 2 cells
    batch.sounding[:] = torch.arange(len(NAMES)) < 2
    batch.sounding[0, 1, 1] = batch.sounding[0, 2, 0] = False
    stays, whole = by_hand(pixels[0, 0].numpy(), 2), batch.masks[0, 0].numpy()
    one, log2 = torch.tensor([True]), math.log(2)
    dice = [1 - 2 * 0.5 * kept.sum() / (0.5 * kept.size + kept.sum()) for kept in (stays, whole)]
    for frame, expected in enumerate((log2 + dice[0], log2, log2 + dice[1], 0, None)):
        logits, chosen = torch.zeros_like(batch.masks, requires_grad=True), (torch.arange(5) == frame)[None]
        loss = removed_source_loss(logits, torch.tensor([0]), one, batch, chosen)
        assert expected is None or float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        gradient = torch.autograd.grad(loss, logits)[0][0]
        assert not gradient[torch.arange(5) != frame].any()
        if frame in (1, 3):  # the whole frame is blank, without a ring at the border; nothing is asked
            assert (gradient[frame] > 0).all() if frame == 1 else not gradient.any()
    assert (gradient[4, :2, :2] > 0).all() and not gradient[4, 2:, :8].any()
    assert gradient[4, :, 9:].all()  # nothing sounds at the right


@pytest.mark.parametrize("names", [(), NAMES], ids=["no names", "names"])
def test_a_clip_of_unknown_classes_uses_no_other_clip(names: tuple[str, ...]) -> None:
    """Its counterfactuals are random; its only negatives are its own silent regions and counterfactuals."""
    batch, model, found = random_batch(3), small_model(names=names).eval(), []
    batch.sounding = batch.sounding[..., : len(names)] & False
    batch.class_map[:], batch.onscreen = 0, None
    for swapped in (False, True):
        if swapped:
            batch.waveforms[1:] = 0.3 * torch.randn(batch.waveforms[1:].shape)
        torch.manual_seed(0)
        output = run(model, batch, known=batch.known)
        away = output.counterfactuals.sounds[:, 0] - model.network.counterfactual.mean
        assert not output.counterfactuals.known.any() and not output.counterfactuals.classes.any()
        terms = loss_terms(model, batch, output)
        assert not terms["visual_counterfactual"].any() and not terms.get("sound_reading", torch.zeros(())).any()
        found.append(torch.nn.functional.normalize(away, dim=-1))
    assert torch.allclose(*found, atol=1e-5)
    batch.masks.fill_(1)  # no silent region
    assert not loss_terms(small_model(names=names, counterfactual=False), batch)["contrast"].any()
