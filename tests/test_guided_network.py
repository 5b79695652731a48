"""Guided network: every combination of parts trains; no clip and no padding affects another clip."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_guided import COMBINATIONS, NAMES, PARTS, SIZE, chosen, loss_terms, random_batch, run, small_model

from icf_avs.config import ModelConfig
from icf_avs.mask_losses import bce_loss, dice_loss
from icf_avs.networks.build import build_model
from icf_avs.networks.guided import GuidedOutput, SoundTokens
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import Batch

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


UNDER_OTHERS = ("counterfactual", "source_removal", "visual_counterfactual")


def named(switches: dict[str, bool]) -> str:
    return "+".join(name for name, on in switches.items() if on) or "none"


def step(model: SegmentationModel, optimizer: torch.optim.Optimizer, batch: Batch, seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    terms = loss_terms(model, batch)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    optimizer.step()
    return {name: float(value.detach()) for name, value in terms.items()}


@pytest.mark.parametrize("switches", COMBINATIONS, ids=named)
def test_every_combination_learns(switches: dict[str, bool]) -> None:
    model, batch = small_model(**switches), random_batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    values = [step(model, optimizer, batch) for _ in range(8)]
    assert values[-1]["loss"] < 0.9 * values[0]["loss"]
    for part, on in switches.items():
        assert TERMS[part] <= values[0].keys() if on else not TERMS[part] & values[0].keys()
    assert ("prior" in values[0]) == (switches["implicit_text"] or switches["contrastive"])  # both guide


@pytest.mark.parametrize("switches", COMBINATIONS, ids=named)
def test_every_parameter_gets_a_gradient(switches: dict[str, bool]) -> None:
    model = small_model(semantic=True, **switches)
    moved = {name: 0.0 for name, _ in model.named_parameters()}
    for seed in range(3):
        model.zero_grad(set_to_none=True)
        batch = random_batch(3, frames=3, seed=seed)
        loss_terms(model, batch)["loss"].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            moved[name] += float(parameter.grad.abs().sum())
    still = {name for name, size in moved.items() if size == 0}
    # Attention of a single query does not depend on its query and key weights.
    lone = {name for name in still if ".self_attention." in name and (".query." in name or ".key." in name)}
    assert still == lone and (not lone or not switches["implicit_text"])


@pytest.mark.parametrize("part", PARTS)
def test_an_ablated_part_leaves_nothing_behind(part: str) -> None:
    whole, without = small_model(), small_model(**{part: False})
    assert any(key.startswith(HOMES[part]) for key in whole.state_dict())
    assert not any(key.startswith(HOMES[part]) for key in without.state_dict())
    assert sum(p.numel() for p in without.parameters()) < sum(p.numel() for p in whole.parameters())
    output = run(without, random_batch())
    absent = {
        "implicit_text": (output.reading, output.pixel_reading, output.counterfactual_text),
        "counterfactual": (output.counterfactuals, *(getattr(output, f"{name}_logits") for name in UNDER_OTHERS)),
        "contrastive": (without.network.joint_embedding,),
    }[part]
    assert all(value is None for value in absent)
    assert bool(output.text) == (part != "implicit_text")


def test_the_baseline_has_exactly_the_shared_parameters() -> None:
    plain = {name: value.shape for name, value in small_model(**dict.fromkeys(PARTS, False)).state_dict().items()}
    homes = tuple(home for part in HOMES.values() for home in part)
    shared = {name for name in small_model().state_dict() if not name.startswith(homes)}
    assert shared == plain.keys()


def test_shapes() -> None:
    model, batch = small_model(semantic=True), random_batch(3, frames=5)
    output, side = run(model, batch), SIZE // 4
    assert output.logits.shape == output.visual_counterfactual_logits.shape == (3, 5, side, side)
    assert output.classes.shape == (3, 5, len(NAMES) + 1, side, side)
    assert output.prior.shape == (3, 5, side // 4, side // 4)
    assert output.reading.shape == (3, 5, 8) and output.pixel_reading.shape == (3, 5, 8, side // 4, side // 4)
    assert output.semantic.shape == (3, 5, 32) and output.parts.shape == (3, 5, 6, 32)
    assert output.patches.shape == (3, 5, (side // 4) ** 2, 32)
    assert output.counterfactual_logits.shape == (2, 3, 5, side, side)
    assert output.counterfactuals.sounds.shape == (2, 3, 5, 32)
    assert output.counterfactual_text.shape == (2, 3, 5, 2, 32)
    assert {level: text.shape[1] for level, text in output.text.items()} == {"video": 2, "segment": 3, "frame": 5}


def test_the_semantic_head_learns() -> None:
    model, batch = small_model(semantic=True), random_batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    values = [step(model, optimizer, batch)["semantic"] for _ in range(26)]
    assert values[-1] < 0.7 * values[0]


def maps(output: GuidedOutput) -> dict[str, torch.Tensor]:
    """All outputs per frame."""
    names = ("logits", "classes", "prior", "reading", "semantic", "parts", "patches")
    found = {name: getattr(output, name) for name in names if getattr(output, name) is not None}
    return found | ({"text": output.text["frame"]} if output.text else {})


@pytest.mark.parametrize("switches", COMBINATIONS[::7], ids=named)
def test_permuting_clips_permutes_outputs(switches: dict[str, bool]) -> None:
    model, batch = small_model(semantic=True, **switches).eval(), random_batch(4, frames=3)
    order = torch.tensor([2, 0, 3, 1])
    plain, permuted = (maps(run(model, each, training=False)) for each in (batch, chosen(batch, order)))
    for name in plain:
        assert torch.allclose(permuted[name], plain[name][order], atol=1e-4), name
    alone = maps(run(model, chosen(batch, order[:1]), training=False))
    for name in plain:
        assert torch.allclose(alone[name][0], plain[name][2], atol=1e-4), name


@pytest.mark.parametrize("frames", [1, 3])
def test_padding_changes_nothing(frames: int) -> None:
    model, batch = small_model(semantic=True).eval(), random_batch(2, frames=frames)
    rest = random_batch(2, frames=2, seed=9)
    padded = replace(
        batch,
        pyramid=[torch.cat([a, 20 * b], dim=1) for a, b in zip(batch.pyramid, rest.pyramid, strict=True)],
        waveforms=torch.cat([batch.waveforms, 5 * rest.waveforms], dim=1),
        valid=torch.cat([batch.valid, torch.zeros(2, 2, dtype=torch.bool)], dim=1),
    )
    plain, found = (maps(run(model, each, training=False)) for each in (batch, padded))
    for name in plain:
        assert torch.allclose(found[name][:, :frames], plain[name], atol=1e-4), name


def test_counterfactuals_do_not_change_the_factual_outputs() -> None:
    """The same mask with and without counterfactuals, which are not computed at inference."""
    model, batch = small_model(semantic=True).eval(), random_batch()
    trained, plain = run(model, batch), run(model, batch, training=False)
    for name, value in maps(plain).items():
        assert torch.allclose(maps(trained)[name], value, atol=1e-4), name
    assert plain.counterfactuals is plain.counterfactual_logits is plain.visual_counterfactual_logits is None
    assert plain.pixel_reading is None


def test_the_foreign_sound_is_that_of_the_previous_clip() -> None:
    """do(vision): its logits equal those of the frame with that sound alone."""
    model, batch = small_model().eval(), random_batch(3)
    output = run(model, batch)
    swapped = replace(batch, waveforms=batch.waveforms[[2, 0, 1]])
    assert torch.allclose(output.visual_counterfactual_logits, run(model, swapped, training=False).logits, atol=1e-4)


def test_extra_sounds_have_the_logits_of_each_alone() -> None:
    model, batch = small_model().eval(), random_batch(3)
    others = torch.stack([batch.waveforms[[1, 2, 0]], batch.waveforms[[2, 0, 1]]], dim=1)  # B Q T N
    extra = model.network.encode_audio(others.flatten(0, 1)).map(lambda x: x.unflatten(0, (3, 2)))
    output = run(model, batch, extra_audio=extra)
    assert len(output.counterfactual_logits) == PARTS["counterfactual"].count
    assert output.extra_logits.shape[:2] == (2, 3)
    for number in range(2):
        alone = run(model, replace(batch, waveforms=others[:, number]), training=False).logits
        assert torch.allclose(output.extra_logits[number], alone, atol=1e-4)
    assert torch.allclose(output.extra_logits[1], output.visual_counterfactual_logits, atol=1e-4)
    truth = torch.stack([batch.masks, batch.masks.flip(-1)], dim=1)
    terms = loss_terms(model, replace(batch, other_masks=truth), output)
    every = batch.labelled & batch.valid
    wanted = [
        bce_loss(output.extra_logits[q], truth[:, q], every) + dice_loss(output.extra_logits[q], truth[:, q], every)
        for q in range(2)
    ]
    assert torch.allclose(terms["extra_audio"], sum(wanted) / 2, atol=1e-5)


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


@pytest.mark.parametrize("wrong", [{"dim": 30}, {"dim": 4, "counterfactual": PARTS["counterfactual"].__class__(4)}])
def test_invalid_configurations_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="dim"):
        ModelConfig(NAMES, **wrong)


def test_every_class_needs_a_name_embedding() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="4 name embeddings for 5"):
        build_model(model.config, model.spec, model.visual, torch.randn(4, 24))
