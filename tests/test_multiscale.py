"""Merging of mask logits from two scales, hand-worked."""

from __future__ import annotations

import pytest
import torch

from icf_avs.inference.multiscale import LARGE_OBJECT_AREA, merge_scales

TENTH = round(LARGE_OBJECT_AREA * 400 / 10)  # cells of a tenth of LARGE_OBJECT_AREA


def logits_of(cells: int, logit: float) -> torch.Tensor:
    """Logits [1,1,20,20] of which the first `cells` differ from -6."""
    logits = torch.full((400,), -6.0)
    logits[:cells] = logit
    return logits.view(1, 1, 20, 20)


@pytest.mark.parametrize(
    ("full", "reduced", "first"),
    [((200, 4.0), (200, 2.0), 3.0), ((TENTH, 4.0), (200, -4.5), 4.0 - 8.5 / 20), ((0, 0.0), (200, 8.0), 1.0)],
    ids=["a large object: mean", "a small object: full scale", "an object of the small scale alone: half"],
)
def test_weights_of_the_scales(full: tuple[int, float], reduced: tuple[int, float], first: float) -> None:
    both = merge_scales(logits_of(*full), logits_of(*reduced))
    assert both[0, 0, 0, 0].item() == pytest.approx(first) and both[0, 0, 19, 19] == -6


def test_adding_a_constant_to_the_inputs_adds_it_to_the_output() -> None:
    generator = torch.Generator().manual_seed(0)
    large, small = (4 * torch.randn(2, 3, side, side, generator=generator) for side in (16, 8))
    both, higher = merge_scales(large, small), merge_scales(large + 1.5, small + 1.5)
    assert both.shape == large.shape
    torch.testing.assert_close(higher, both + 1.5)
