"""Mask head: several sounds at once have the logits and gradients of one sound after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icf_avs.networks.guided_parts.decoder import MaskDecoder, PixelFeatures

N, D, P, QUERIES = 2, 16, 8, 3


def decoded(decoder: MaskDecoder, tokens: Tensor, fine: Tensor, sound: Tensor, text: Tensor, *prior: Tensor) -> Tensor:
    return decoder(PixelFeatures(tokens, fine, torch.zeros(0)), sound, text, *(prior or [None])).logits


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("repeats", [2, 5])
def test_several_sounds_have_the_logits_and_gradients_of_each_alone(repeats: int, prior: bool):
    """A single sound goes through the head's plain formula, sharpen([P', S, up(prior)])."""
    torch.manual_seed(0)
    decoder = MaskDecoder(D, P, heads=2, layers=1, queries=QUERIES, prior=prior)
    sounds = [torch.randn(repeats, N, D), torch.randn(repeats, N, QUERIES - 1, D), torch.randn(repeats, N, 4, 4)]
    given = [torch.randn(N, D, 4, 4), torch.randn(N, P, 16, 16), *sounds[: 3 if prior else 2]]
    tokens, fine, *sounds = (tensor.requires_grad_() for tensor in given)
    found = decoded(decoder, tokens, fine, *sounds)
    wanted = torch.cat([decoded(decoder, tokens, fine, *(x[i : i + 1] for x in sounds)) for i in range(repeats)])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3  # sounds differ
    inputs, weight = [*given, *decoder.parameters()], torch.randn_like(found)
    gradients = (torch.autograd.grad((each * weight).sum(), inputs) for each in (found, wanted))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
