"""Mask head: several sounds at once have the logits and gradients of one sound after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.networks.guided_parts.decoder import MaskDecoder, PixelFeatures

N, D, P, QUERIES = 2, 16, 8, 3


def made(prior: bool, repeats: int) -> tuple[MaskDecoder, list[Tensor]]:
    torch.manual_seed(0)
    decoder = MaskDecoder(D, P, heads=2, layers=1, queries=QUERIES, prior=prior)
    text = torch.randn(repeats, N, QUERIES - 1, D)
    given = [torch.randn(N, D, 4, 4), torch.randn(N, P, 16, 16), torch.randn(repeats, N, D), text]
    given += [torch.randn(repeats, N, 4, 4)] if prior else []
    return decoder, [tensor.requires_grad_() for tensor in given]


def decoded(decoder: MaskDecoder, given: list[Tensor]) -> Tensor:
    tokens, fine, sound, text, *prior = given
    return decoder(PixelFeatures(tokens, fine, torch.zeros(0)), sound, text, *(prior or [None])).logits


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("repeats", [2, 5])
def test_several_sounds_have_the_logits_and_gradients_of_each_alone(repeats: int, prior: bool):
    """A single sound goes through the head's plain formula."""
    decoder, given = made(prior, repeats)
    parameters = list(decoder.parameters())
    found = decoded(decoder, given)
    weight = torch.randn_like(found)
    tokens, fine, *sounds = given
    alone = [decoded(decoder, [tokens, fine, *(each[i : i + 1] for each in sounds)]) for i in range(repeats)]
    wanted = torch.cat(alone)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3  # sounds differ
    mine, theirs = (torch.autograd.grad((each * weight).sum(), [*given, *parameters]) for each in (found, wanted))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_head_equals_its_formula(repeats: int):
    """sharpen([P', S, up(prior)]) for every sound separately."""
    decoder, (_, fine, *_) = made(True, repeats)
    own = torch.randn(repeats, N, QUERIES + 1, 16, 16)
    context = decoder.context(fine)
    found = decoder._sharpened(context, own)
    first, _, last = decoder.sharpen
    for number in range(repeats):
        apart = F.conv2d(torch.cat([context, own[number]], dim=1), first.weight, first.bias, padding=1)
        wanted = F.conv2d(apart.relu(), last.weight, last.bias)[:, 0]
        torch.testing.assert_close(found[number], wanted, atol=1e-5, rtol=1e-5)
