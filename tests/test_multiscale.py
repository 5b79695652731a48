"""Merging of mask logits from two scales, hand-worked."""

from __future__ import annotations

import pytest
import torch

from icf_avs.inference.multiscale import LARGE_OBJECT_AREA, merge_scales


def logits_of(cells: int, logit: float) -> torch.Tensor:
    """Logits [1,1,20,20] of which the first `cells` are positive."""
    logits = torch.full((400,), -6.0)
    logits[:cells] = logit
    return logits.view(1, 1, 20, 20)


def test_large_objects_are_the_mean_of_both_scales() -> None:
    both = merge_scales(logits_of(200, 4.0), logits_of(200, 2.0))
    assert both[0, 0, 0, 0] == 3 and both[0, 0, 19, 19] == -6


def test_small_objects_come_from_the_large_scale() -> None:
    """The mask covers a tenth of LARGE_OBJECT_AREA, so the small scale, which finds almost nothing, has weight 1/20."""
    both = merge_scales(logits_of(round(LARGE_OBJECT_AREA * 400 / 10), 4.0), logits_of(200, -4.5))
    assert both[0, 0, 0, 0].item() == pytest.approx(4.0 - 8.5 / 20)


def test_objects_found_only_at_the_small_scale_count_half() -> None:
    both = merge_scales(logits_of(0, 0.0), logits_of(200, 8.0))
    assert both[0, 0, 0, 0] == 1 and both[0, 0, 19, 19] == -6


def test_adding_a_constant_to_the_inputs_adds_it_to_the_output() -> None:
    generator = torch.Generator().manual_seed(0)
    large, small = (4 * torch.randn(2, 3, side, side, generator=generator) for side in (16, 8))
    both, higher = merge_scales(large, small), merge_scales(large + 1.5, small + 1.5)
    assert both.shape == large.shape
    torch.testing.assert_close(higher, both + 1.5)
