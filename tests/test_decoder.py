"""The mask head over several sounds at once: the same numbers and gradients as one sound after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.networks.guided_parts.decoder import MaskDecoder
from icf_avs.networks.guided_parts.pixel_decoder import Pixels

N, D, P, QUERIES = 2, 16, 8, 3


def sharpened(decoder: MaskDecoder, context: Tensor, own: Tensor) -> Tensor:
    """The head as its formula says it: sharpen([P', S, up(prior)]) for every sound by itself."""
    return torch.stack([decoder.sharpen(torch.cat([context, maps], dim=1))[:, 0] for maps in own])


def made(prior: bool, repeats: int) -> tuple[MaskDecoder, list[Tensor]]:
    torch.manual_seed(0)
    decoder = MaskDecoder(D, P, heads=2, layers=1, queries=QUERIES, prior=prior)
    text = torch.randn(repeats, N, QUERIES - 1, D)
    given = [torch.randn(N, D, 4, 4), torch.randn(N, P, 16, 16), torch.randn(repeats, N, D), text]
    given += [torch.randn(repeats, N, 4, 4)] if prior else []
    return decoder, [tensor.requires_grad_() for tensor in given]


def decoded(decoder: MaskDecoder, given: list[Tensor]) -> Tensor:
    tokens, fine, sound, text, *prior = given
    return decoder(Pixels(tokens, fine, torch.zeros(0)), sound, text, *(prior or [None])).logits


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_logits_and_gradients_are_those_of_the_formula(repeats: int, prior: bool, monkeypatch: pytest.MonkeyPatch):
    decoder, given = made(prior, repeats)
    parameters = list(decoder.parameters())
    found = decoded(decoder, given)
    weight = torch.randn_like(found)
    gradients = torch.autograd.grad((found * weight).sum(), [*given, *parameters])
    monkeypatch.setattr(decoder, "_sharpened", lambda context, own: sharpened(decoder, context, own))
    wanted = decoded(decoder, given)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(
        gradients, torch.autograd.grad((wanted * weight).sum(), [*given, *parameters]), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_a_sound_is_decoded_alike_whoever_is_decoded_with_it():
    decoder, given = made(True, 4)
    together = decoded(decoder, given)
    for number in range(4):
        tokens, fine, *sounds = given
        alone = decoded(decoder, [tokens, fine, *(each[number : number + 1] for each in sounds)])
        torch.testing.assert_close(alone[0], together[number], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3  # and it does matter which sound


def test_the_formula_of_this_test_has_the_maps_in_it():
    decoder, (_, fine, *_) = made(True, 2)
    own = torch.randn(2, N, QUERIES + 1, 16, 16)
    context = decoder.context(fine)
    apart = F.conv2d(torch.cat([context, own[1]], dim=1), decoder.sharpen[0].weight, decoder.sharpen[0].bias, padding=1)
    wanted = F.conv2d(apart.relu(), decoder.sharpen[2].weight, decoder.sharpen[2].bias)[:, 0]
    torch.testing.assert_close(decoder._sharpened(context, own)[1], wanted, atol=1e-5, rtol=1e-5)
