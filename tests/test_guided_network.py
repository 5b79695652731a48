"""Guided network: every combination of parts trains; no clip and no padding affects another clip."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_guided import COMBINATIONS, NAMES, PARTS, chosen, loss_terms, random_batch, run, small_model

from icf_avs.config import CounterfactualConfig, ModelConfig
from icf_avs.mask_losses import bce_loss, dice_loss
from icf_avs.networks.build import build_model
from icf_avs.networks.guided import GuidedOutput, SoundTokens

TERMS = {
    "implicit_text": {"sound_reading", "pixel_reading"},
    "counterfactual": {"counterfactual", "visual_counterfactual"},
    "contrastive": {"contrast"},
}
HOMES = {
    "implicit_text": ("network.implicit_text.", "network.prior."),
    "counterfactual": ("network.counterfactual.",),
    "contrastive": ("network.joint_embedding.",),
}


def named(switches: dict[str, bool]) -> str:
    return "+".join(name for name, on in switches.items() if on) or "none"


@pytest.mark.parametrize("switches", COMBINATIONS, ids=named)
def test_every_combination_has_its_parts_and_a_gradient_for_every_parameter(switches: dict[str, bool]) -> None:
    model = small_model(semantic=True, **switches)
    for seed in range(3):
        batch = random_batch(3, frames=3, seed=seed)
        output = run(model, batch)
        terms = loss_terms(model, batch, output)
        terms["loss"].backward()
    for part, on in switches.items():
        assert TERMS[part] <= terms.keys() if on else not TERMS[part] & terms.keys()
        assert any(key.startswith(HOMES[part]) for key in model.state_dict()) is on
    assert ("prior" in terms) == (switches["implicit_text"] or switches["contrastive"])  # both guide
    text = [bool(output.text), output.reading is not None, output.pixel_reading is not None]
    assert text == [switches["implicit_text"]] * 3
    sounds = output.counterfactuals, output.counterfactual_logits, output.source_removal_logits
    assert all((value is not None) is switches["counterfactual"] for value in sounds)
    still = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    # Attention of a single query does not depend on its query and key weights.
    lone = {name for name in still if ".self_attention." in name and (".query." in name or ".key." in name)}
    assert still == lone and (not lone or not switches["implicit_text"])


def maps(output: GuidedOutput) -> dict[str, torch.Tensor]:
    """All outputs per frame."""
    names = ("logits", "classes", "prior", "reading", "semantic", "parts", "patches")
    found = {name: getattr(output, name) for name in names if getattr(output, name) is not None}
    return found | ({"text": output.text["frame"]} if output.text else {})


@pytest.mark.parametrize("switches", COMBINATIONS[::7], ids=named)
def test_other_clips_their_order_and_padding_change_nothing(switches: dict[str, bool]) -> None:
    model, batch, order = small_model(semantic=True, **switches).eval(), random_batch(4, 3), torch.tensor([2, 0, 3, 1])
    rest = random_batch(4, frames=2, seed=9)
    padded = replace(
        batch,
        pyramid=[torch.cat([a, 20 * b], dim=1) for a, b in zip(batch.pyramid, rest.pyramid, strict=True)],
        waveforms=torch.cat([batch.waveforms, 5 * rest.waveforms], dim=1),
        valid=torch.cat([batch.valid, ~rest.valid], dim=1),
    )
    batches = batch, chosen(batch, order), chosen(batch, order[:1]), padded
    plain, permuted, alone, long = (maps(run(model, each, training=False)) for each in batches)
    for name in plain:
        assert torch.allclose(permuted[name], plain[name][order], atol=1e-4), name
        assert torch.allclose(alone[name][0], plain[name][2], atol=1e-4), name
        assert torch.allclose(long[name][:, :3], plain[name], atol=1e-4), name


def test_counterfactuals_do_not_change_the_factual_outputs() -> None:
    """The same mask with and without counterfactuals, which are not computed at inference."""
    model, batch = small_model(semantic=True).eval(), random_batch()
    trained, plain = run(model, batch), run(model, batch, training=False)
    for name, value in maps(plain).items():
        assert torch.allclose(maps(trained)[name], value, atol=1e-4), name
    assert plain.counterfactuals is plain.counterfactual_logits is plain.visual_counterfactual_logits is None
    assert plain.pixel_reading is None


def test_extra_sounds_have_the_logits_of_each_alone() -> None:
    """So has the foreign sound, that of the previous clip."""
    model, batch = small_model().eval(), random_batch(3)
    others = torch.stack([batch.waveforms[[1, 2, 0]], batch.waveforms[[2, 0, 1]]], dim=1)  # B Q T N
    extra = model.network.encode_audio(others.flatten(0, 1)).map(lambda x: x.unflatten(0, (3, 2)))
    output = run(model, batch, extra_audio=extra)
    assert len(output.counterfactual_logits) == PARTS["counterfactual"].count
    alone = [run(model, replace(batch, waveforms=waves), training=False).logits for waves in others.unbind(1)]
    assert torch.allclose(output.extra_logits, torch.stack(alone), atol=1e-4)
    assert torch.allclose(output.visual_counterfactual_logits, alone[1], atol=1e-4)
    truth, every = torch.stack([batch.masks, batch.masks.flip(-1)], dim=1), batch.labelled & batch.valid
    found = loss_terms(model, replace(batch, other_masks=truth), output)["extra_audio"]
    wanted = [loss(output.extra_logits[q], truth[:, q], every) for loss in (bce_loss, dice_loss) for q in range(2)]
    assert torch.allclose(found, sum(wanted) / 2, atol=1e-5)


def test_counterfactual_logits_use_counterfactual_text() -> None:
    """do(audio): logits equal the decoder's for the counterfactual embedding and the frame of its clip."""
    model, batch = small_model().eval(), random_batch(3)
    output = run(model, batch)
    pixels = model.network.pixel_decoder([level.flatten(0, 1) for level in batch.pyramid])
    within = output.parts - output.semantic[:, :, None]
    for index, sound in enumerate(output.counterfactuals.sounds):
        sounds = SoundTokens(sound[None], within[None], [None])
        found = model.network.decode_sounds(pixels, sounds, batch.valid, batch.visual)
        assert torch.allclose(found.logits[0].unflatten(0, (3, 2)), output.counterfactual_logits[index], atol=1e-4)
        assert torch.allclose(found.text["frame"][0], output.counterfactual_text[index], atol=1e-4)


def test_match_of_sound_and_position_equals_the_formula() -> None:
    """s (r - W2^2) of the sound's Gaussian and a point with the floor as deviation."""
    space = small_model().network.joint_embedding
    parts, tokens = torch.randn(2, 3, 6, 32), torch.randn(3, 32, 4, 5)
    found = space.match(parts, tokens)
    heard = space.of_audio(parts, torch.ones(2, 3, 6))
    for sound, picture, row, column in ((0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 2, 1)):
        point = torch.nn.functional.normalize(space.vision(tokens[picture, :, row, column]), dim=0)
        distance = (heard.mean[sound, picture] - point).square().sum()
        distance = distance + (heard.deviation[sound, picture] - space.floor).square().sum()
        expected = space.sharpness * (space.radius - distance)
        assert torch.allclose(found[sound, picture, row, column], expected, atol=1e-5)


def test_invalid_configurations_are_refused() -> None:
    for wrong in ({"dim": 30}, {"dim": 4, "counterfactual": CounterfactualConfig(4)}):
        with pytest.raises(ValueError, match="dim"):
            ModelConfig(NAMES, **wrong)
    model = small_model()
    with pytest.raises(ValueError, match="4 name embeddings for 5"):
        build_model(model.config, model.spec, model.visual, torch.randn(4, 24))
