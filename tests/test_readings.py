"""Readings with MIT inside the network: eq. 2 refines the decoded feature map, or queries attend to text."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from small_guided import random_batch
from small_networks import AUDIO, BUILDERS, DIM, WIDTHS, random_clips, small_network
from torch import nn

from icf_avs.config import ModelConfig
from icf_avs.encoders.text_encoders import TextEncoder, load_minilm
from icf_avs.extensions.interventions import Interventions
from icf_avs.icf import CDCL, ICF, MIT, SC
from icf_avs.icf.channel_time import FeatureRefinement
from icf_avs.networks import Network
from icf_avs.networks.query_network import TextAttention
from icf_avs.settings import InterventionSettings

REFINED, TEXT = (MIT(reading, dim=32, width=8, prompts=4) for reading in ("refined", "text"))
every_network = pytest.mark.parametrize("name", BUILDERS)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_minilm()


def randomized(network: Network, part: nn.Module) -> Network:
    for attention in part.levels.attention.values():
        nn.init.normal_(attention.value.weight)
    return network


def refined(name: str, train_visual: bool = False, moved: bool = True) -> Network:
    """`moved`: with random weights, instead of the identity at initialisation."""
    network = small_network(name, train_visual)
    network.refinement = FeatureRefinement(WIDTHS[-1], REFINED)
    return (randomized(network, network.refinement) if moved else network).eval()


def reading_text(encoder: TextEncoder) -> Network:
    network = small_network("query-light")
    network.text = TextAttention(TEXT, WIDTHS[-1], DIM, 4)
    network.text.implicit_text.attach(lambda level: encoder)
    return randomized(network, network.text.implicit_text).eval()


@every_network
@pytest.mark.parametrize("train_visual", [False, True])
def test_refinement_starts_as_the_identity_and_trains_eq_2(name: str, train_visual: bool) -> None:
    clips, plain = random_clips(), small_network(name, train_visual)
    found, network = (refined(name, train_visual, moved) for moved in (False, True))
    one, other = plain(*clips), found(*clips)
    assert one.logits.equal(other.logits) and found.feature_spec == plain.feature_spec
    assert all(map(torch.equal, one.features.visual, other.features.visual))
    logits = network(*clips).logits
    assert not logits.allclose(one.logits), "the refined map is decoded"
    logits.square().mean().backward()
    for attention in network.refinement.levels.attention.values():
        assert all(layer.weight.grad.any() for layer in (attention.query, attention.key, attention.value))


@pytest.mark.parametrize("name", [*BUILDERS, "text"])
def test_padding_changes_no_other_frame(name: str, encoder: TextEncoder) -> None:
    clips, network = random_clips(), reading_text(encoder) if name == "text" else refined(name)
    valid, other = torch.tensor([[True] * 3, [True, False, False]]), random_clips(seed=1)
    frames = torch.where(valid[..., None, None, None], clips.frames, other.frames)
    sound = torch.where(valid[..., None, None], clips.sound, other.sound)
    one, other = network(clips.frames, clips.sound, valid), network(frames, sound, valid)
    torch.testing.assert_close(one.logits[valid], other.logits[valid])
    if name != "text":
        for level, again in zip(one.features.levels.values(), other.features.levels.values(), strict=True):
            torch.testing.assert_close(level.mean, again.mean)


@pytest.mark.parametrize("settings", [REFINED, TEXT])
def test_icf_uses_the_part_of_the_network(settings: MIT, encoder: TextEncoder) -> None:
    """The contrasts reach eq. 2 or the words in the network; a network without the part is refused."""
    network = (refined("query-light") if settings is REFINED else reading_text(encoder)).train()
    torch.manual_seed(0)
    sc, cdcl = SC(width=16, blocks=1, jumps=2, draws=4, keep=2), CDCL(dim=16)
    parts = {"mit": settings, "sc": sc if settings is REFINED else None, "cdcl": cdcl}
    icf = ICF(network.feature_spec, **parts, encoder_of=lambda level: encoder).train()
    assert icf.implicit_text is None or not any("attention" in name for name, _ in icf.named_parameters())
    found = icf(network(*random_clips(3, 2)).features, random_batch(3, 2))
    found.total.backward()
    if settings is REFINED:
        trained = network.refinement.levels.attention["video"].value.weight
    else:
        assert icf.implicit_text is None and "pull" in found.terms
        trained = network.text.implicit_text.banks["video"].words
    assert trained.grad.any() and trained.grad.isfinite().all()
    told = rf"MIT\(reading='{settings.reading}'\) needs a network .*ModelConfig\(mit=...\)"
    with pytest.raises(ValueError, match=told):
        icf(small_network("query-light")(*random_clips(3, 2)).features, random_batch(3, 2))


def test_text_changes_masks_and_mask_losses_train_the_words(encoder: TextEncoder) -> None:
    clips, network = random_clips(), reading_text(encoder).train()
    network(*clips).logits.square().mean().backward()
    banks, before = network.text.implicit_text.banks.values(), network.eval()(*clips).logits
    assert all(bank.words.grad.any() for bank in banks)
    for bank in banks:
        bank.texts.normal_()
    assert not network(*clips).logits.allclose(before)
    without = dict.fromkeys(("implicit_text", "counterfactual", "contrastive"))
    with pytest.raises(ValueError, match="mit is a part of a network that ICF trains"):
        ModelConfig((), network="guided", mit=REFINED, **without)
    with pytest.raises(ValueError, match="network tpavi has no queries for text"):
        ModelConfig((), network="tpavi", mit=TEXT, **without)


def test_a_step_with_interventions_counts_once_for_text_encoding(encoder: TextEncoder) -> None:
    """Texts are encoded every n-th step, however often the step decodes."""
    network, clips, texts = reading_text(encoder).train(), random_clips(3, 2), []
    changes = Interventions(InterventionSettings(other_sound=0.3, count=1), AUDIO, 5).train()
    bank = network.text.implicit_text.banks["audio"]
    for _ in range(TEXT.encode_every + 1):
        with torch.no_grad():
            bank.words.add_(1)  # texts are from an earlier step's words, unless encoded in this one
            changes(network, network(*clips), random_batch())
        texts.append(bank.texts.clone())
    assert [not one.equal(other) for one, other in pairwise(texts)] == [False] * (TEXT.encode_every - 1) + [True]
    assert bank.steps == TEXT.encode_every + 1
