"""Readings with MIT inside the network: eq. 2 refines the decoded feature map, or queries attend to text."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from small_guided import random_batch
from small_networks import AUDIO, BUILDERS, DIM, WIDTHS, Clips, random_clips, small_network
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


def refined(name: str, train_visual: bool = False, moved: bool = True) -> Network:
    """`moved`: with random weights, instead of the identity at initialisation."""
    network = small_network(name, train_visual)
    network.refinement = FeatureRefinement(WIDTHS[-1], REFINED)
    for attention in network.refinement.levels.attention.values() if moved else ():
        nn.init.normal_(attention.value.weight)
    return network.eval()


def reading_text(encoder: TextEncoder) -> Network:
    network = small_network("query-light")
    network.text = TextAttention(TEXT, WIDTHS[-1], DIM, 4)
    network.text.implicit_text.attach(lambda level: encoder)
    for attention in network.text.implicit_text.levels.attention.values():
        nn.init.normal_(attention.value.weight)
    return network.eval()


def padded(clips: Clips, seed: int) -> Clips:
    """The same valid frames, other padding in the second clip."""
    other, valid = random_clips(2, 3, seed=seed), torch.tensor([[True] * 3, [True, False, False]])
    frames = torch.where(valid[..., None, None, None], clips.frames, other.frames)
    return Clips(frames, torch.where(valid[..., None, None], clips.sound, other.sound), valid)


@every_network
@pytest.mark.parametrize("train_visual", [False, True])
def test_refinement_is_initialised_as_identity(name: str, train_visual: bool) -> None:
    clips = random_clips()
    plain, found = (make(name, train_visual) for make in (small_network, lambda *of: refined(*of, moved=False)))
    one, other = plain(*clips), found(*clips)
    assert one.logits.equal(other.logits)
    assert all(map(torch.equal, one.features.visual, other.features.visual))
    assert found.feature_spec == plain.feature_spec


@every_network
def test_the_refined_map_is_decoded_and_trains_eq_2(name: str) -> None:
    clips, network = random_clips(), refined(name)
    assert not network(*clips).logits.allclose(small_network(name)(*clips).logits)
    network(*clips).logits.square().mean().backward()
    for attention in network.refinement.levels.attention.values():
        assert all(layer.weight.grad.any() for layer in (attention.query, attention.key, attention.value))


@pytest.mark.parametrize("name", [*BUILDERS, "text"])
def test_padding_changes_no_other_frame(name: str, encoder: TextEncoder) -> None:
    clips, network = random_clips(), reading_text(encoder) if name == "text" else refined(name)
    one, other = (network(*padded(clips, seed)) for seed in (1, 2))
    valid = padded(clips, 1).valid
    torch.testing.assert_close(one.logits[valid], other.logits[valid])
    if name != "text":
        for level, again in zip(one.features.levels.values(), other.features.levels.values(), strict=True):
            torch.testing.assert_close(level.mean, again.mean)


def test_refined_mit_shares_the_attention_of_the_network(encoder: TextEncoder) -> None:
    network = refined("query-light").train()
    torch.manual_seed(0)
    parts = {"mit": REFINED, "sc": SC(width=16, blocks=1, jumps=2, draws=4, keep=2), "cdcl": CDCL(dim=16)}
    icf = ICF(network.feature_spec, **parts, encoder_of=lambda level: encoder).train()
    assert not any("attention" in name for name, _ in icf.named_parameters())
    found = icf(network(*random_clips(3, 2)).features, random_batch(3, 2))
    found.total.backward()
    value = network.refinement.levels.attention["video"].value.weight
    assert value.grad.any() and value.grad.isfinite().all(), "the contrasts reach eq. 2 in the network"


def test_text_changes_masks_and_mask_losses_train_the_words(encoder: TextEncoder) -> None:
    clips, network = random_clips(), reading_text(encoder).train()
    network(*clips).logits.square().mean().backward()
    banks = network.text.implicit_text.banks
    assert all(bank.words.grad.any() for bank in banks.values())
    assert all(parameter.grad is None for parameter in encoder.model.parameters())
    before = network.eval()(*clips).logits
    for bank in banks.values():
        bank.texts.normal_()
    assert not network(*clips).logits.allclose(before)


def test_at_inference_texts_are_fixed_and_clips_have_any_length(encoder: TextEncoder) -> None:
    network = reading_text(encoder)
    clips = random_clips(1, 12)  # more than the gates of eq. 5 accept, which this network lacks
    expected = network(*clips).logits
    torch.manual_seed(1)
    other = small_network("query-light")
    other.text = TextAttention(TEXT, WIDTHS[-1], DIM, 4)
    other.load_state_dict(network.state_dict())
    assert not any(bank._encoder for bank in other.text.implicit_text.banks.values())
    torch.testing.assert_close(other.eval()(*clips).logits, expected)


def test_icf_uses_the_texts_of_the_network(encoder: TextEncoder) -> None:
    network = reading_text(encoder).train()
    icf = ICF(network.feature_spec, mit=TEXT, cdcl=CDCL(dim=16), encoder_of=lambda level: encoder).train()
    assert icf.implicit_text is None
    found = icf(network(*random_clips(3, 2)).features, random_batch(3, 2))
    found.total.backward()
    assert "pull" in found.terms and network.text.implicit_text.banks["video"].words.grad.any()


@pytest.mark.parametrize("settings", [REFINED, TEXT])
def test_a_network_without_the_reading_is_refused(settings: MIT, encoder: TextEncoder) -> None:
    network = small_network("query-light")
    icf = ICF(network.feature_spec, mit=settings, encoder_of=lambda level: encoder)
    told = rf"MIT\(reading='{settings.reading}'\) needs a network .*ModelConfig\(mit=...\)"
    with pytest.raises(ValueError, match=told):
        icf(network(*random_clips(3, 2)).features, random_batch(3, 2))


def test_incompatible_settings_are_refused() -> None:
    without = dict.fromkeys(("implicit_text", "counterfactual", "contrastive"))
    for wrong in ({"network": "guided", "mit": REFINED}, {"network": "query", "mit": MIT()}):
        with pytest.raises(ValueError, match="mit is a part of a network that ICF trains"):
            ModelConfig((), **without, **wrong)
    with pytest.raises(ValueError, match="network tpavi has no queries for text"):
        ModelConfig((), network="tpavi", mit=TEXT, **without)
    with pytest.raises(ValueError, match="MIT has no level sentence; there are video, segment, frame"):
        MIT(levels=("sentence",))
    with pytest.raises(ValueError, match="at least 1"):
        MIT(windows=0)


def test_a_step_with_interventions_counts_once_for_text_encoding(encoder: TextEncoder) -> None:
    """Texts are encoded every n-th step, however often the step decodes."""
    network, clips, batch, counts = reading_text(encoder).train(), random_clips(3, 2), random_batch(), []
    for settings in (None, InterventionSettings(other_sound=0.3, count=1)):
        bank = network.text.implicit_text.banks["audio"]
        bank.steps, texts = 0, []
        for _ in range(TEXT.encode_every + 1):
            with torch.no_grad():
                bank.words.add_(1)  # texts are from an earlier step's words, unless encoded in this one
                output = network(*clips)
                if settings:
                    Interventions(settings, AUDIO, 5).train()(network, output, batch)
            texts.append(bank.texts.clone())
        changed = [not one.equal(other) for one, other in pairwise(texts)]
        counts.append((bank.steps, changed))
        assert bank.training
    assert counts[0] == counts[1] == (TEXT.encode_every + 1, [False] * (TEXT.encode_every - 1) + [True])
