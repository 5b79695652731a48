"""Targets per class against sums by hand; pixels of unknown class have no removal target."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_guided import NAMES, loss_terms, random_batch, run, small_model
from torch import Tensor
from torch.nn.functional import avg_pool2d

from icf_avs.soft_class_targets import area_share, class_shares, known_cells
from icf_avs.types import Batch

FINE = 4  # class-map pixels per side of a mask cell


def by_hand(pixels: np.ndarray, chosen: int) -> np.ndarray:
    """Share of class `chosen` in each cell of a pixel map [H,W]."""
    side = len(pixels) // FINE
    found = np.zeros((side, side))
    for y, x in np.ndindex(*pixels.shape):
        found[y // FINE, x // FINE] += (pixels[y, x] == chosen) / FINE**2
    return found


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


def removal(batch: Batch) -> tuple[float, Tensor]:
    """Loss and logit gradient of removing class 0 from every sound, at zero logits."""
    model = small_model()
    output = run(model, batch, known=batch.known)
    rest = output.counterfactuals.removal
    rest = rest._replace(removed=torch.zeros_like(rest.removed), valid=torch.ones_like(rest.valid))
    output.counterfactuals = output.counterfactuals._replace(removal=rest)
    output.source_removal_logits = torch.zeros_like(output.source_removal_logits).requires_grad_()
    loss = loss_terms(model, batch, output)["source_removal"]
    gradient = torch.autograd.grad(loss, output.source_removal_logits)[0] if loss.requires_grad else torch.zeros(())
    return float(loss.detach()), gradient


@pytest.fixture
def two_sources() -> Batch:
    """Class 0 above class 1, with edges inside mask cells."""
    batch = random_batch(1, frames=2)
    pixels = torch.zeros(1, 2, 64, 64, dtype=torch.long)
    pixels[..., :30, :33], pixels[..., 30:, :33] = 1, 2
    batch.class_map, batch.masks = pixels, avg_pool2d((pixels > 0).float(), FINE)
    batch.sounding[:] = torch.arange(len(NAMES)) < 2
    return batch


def test_removing_the_only_source_leaves_nothing(two_sources: Batch) -> None:
    """Partial cells leave no ring at the border: at zero logits the loss is log 2, without a Dice term."""
    two_sources.class_map[two_sources.class_map == 2] = 1
    two_sources.sounding[..., 1] = False
    loss, gradient = removal(two_sources)
    assert loss == pytest.approx(math.log(2)) and (gradient > 0).all()
    two_sources.class_map[:] = 0  # regardless of the map
    assert removal(two_sources)[0] == pytest.approx(math.log(2))


def test_removing_one_of_two_sources_leaves_the_other(two_sources: Batch) -> None:
    stays = by_hand(two_sources.class_map[0, 0].numpy(), 2)
    dice = 1 - 2 * 0.5 * stays.sum() / (0.5 * stays.size + stays.sum())
    assert removal(two_sources)[0] == pytest.approx(math.log(2) + dice, rel=1e-5)
    assert 0 < (stays % 1 > 0).sum() < 40  # border cells


def test_pixels_of_unknown_class_have_no_removal_loss(two_sources: Batch) -> None:
    """As in MS3, which names two classes but has binary masks: the class of a pixel is unknown."""
    two_sources.class_map[:] = 0
    loss, gradient = removal(two_sources)
    assert loss == 0 and not gradient.any()
    two_sources.class_map[0, 0, :8, :8] = 1  # 2 x 2 cells of one frame are known
    (known, unknown) = removal(two_sources)[1][0]
    assert not unknown.any() and (known[:2, :2] > 0).all()
    assert not known[2:, :8].any() and known[:, 9:].all()  # nothing sounds at the right


def test_a_frame_without_the_removed_class_keeps_its_mask(two_sources: Batch) -> None:
    two_sources.sounding[:, 1, 0] = two_sources.labelled[:, 0] = False
    two_sources.class_map[:, 1] = 0
    loss, gradient = removal(two_sources)
    assert loss > math.log(2) and (gradient[0, 1] < 0).equal(two_sources.masks[0, 1] > 0.5)


# Clips of unknown classes.


def unknown(names: tuple[str, ...]) -> Batch:
    """Clips with masks but without known classes."""
    batch = random_batch(3)
    batch.sounding = batch.sounding[..., : len(names)] & False
    batch.class_map[:], batch.onscreen = 0, None
    return batch


@pytest.mark.parametrize("names", [(), NAMES], ids=["no names", "names"])
def test_a_clip_of_unknown_classes_uses_no_other_clip(names: tuple[str, ...]) -> None:
    """Its counterfactuals are random; its only negatives are its own silent regions and counterfactuals."""
    batch, model, found = unknown(names), small_model(names=names).eval(), []
    for swapped in (False, True):
        if swapped:
            batch.waveforms[1:] = 0.3 * torch.randn(batch.waveforms[1:].shape)
        torch.manual_seed(0)
        output = run(model, batch, known=batch.known)
        away = output.counterfactuals.sounds[:, 0] - model.network.counterfactual.mean
        assert not output.counterfactuals.known.any() and not output.counterfactuals.classes.any()
        terms = loss_terms(model, batch, output)
        assert float(terms["visual_counterfactual"]) == 0 and float(terms.get("sound_reading", 0)) == 0
        found.append(torch.nn.functional.normalize(away, dim=-1))
    assert torch.allclose(*found, atol=1e-5)
    batch.masks.fill_(1)  # no silent region
    assert float(loss_terms(small_model(names=names, counterfactual=False), batch)["contrast"]) == 0


def test_an_unknown_clip_among_known_ones_is_left_out() -> None:
    batch = random_batch(3)
    batch.sounding[0], batch.class_map[0], batch.onscreen = False, 0, None
    model = small_model()
    output = run(model, batch, known=batch.known)
    assert not output.counterfactuals.classes[:, 0].any() and output.counterfactuals.known[:, 1:].all()
    for maps in (output.visual_counterfactual_logits, output.reading):
        maps.retain_grad()
    terms = loss_terms(model, batch, output)
    (terms["visual_counterfactual"] + terms["sound_reading"]).backward()
    reached = output.visual_counterfactual_logits.grad.flatten(1).any(1).tolist()
    assert reached == [False, False, True]  # clip 1 gets the sound of clip 0, of unknown class
    assert output.reading.grad.flatten(1).any(1).tolist() == [False, True, True]
