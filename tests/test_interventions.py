"""Interventions: targets of masks under other sounds, on small cases by hand, and supported networks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_guided import random_batch, small_host, small_model
from small_networks import AUDIO, BUILDERS, random_clips, small_network
from torch import Tensor, nn

from icf_avs.config import ModelConfig, TrainConfig
from icf_avs.errors import UserError
from icf_avs.extensions.intervention_losses import removed_source_loss
from icf_avs.extensions.interventions import Interventions, decode_sounds
from icf_avs.icf.losses import weighted_sum
from icf_avs.mask_losses import resize_logits
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.settings import InterventionSettings
from icf_avs.training.train_module import PlugInTrainModule, build_train_module
from icf_avs.types import AudioFeatures, Batch, ClipSpec, Encoded, NetworkFeatures, NetworkOutput, VisualFeatures

LOG2 = math.log(2)
KINDS = ("other_sound", "orthogonal_sound", "other_frames", "removed_source")
ALL = InterventionSettings(other_sound=0.3, count=1)


def only(kind: str) -> InterventionSettings:
    return InterventionSettings(**{each: float(each == kind) for each in KINDS}, count=1)


class Zeros(nn.Module):
    """Decodes logits of 0 and records its inputs and the logits, whose gradient shows the targets."""

    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        self.sounds, self.valid = audio.token, valid
        self.logits = torch.zeros(*valid.shape, 16, 16, requires_grad=True)
        return NetworkOutput(self.logits, NetworkFeatures((), audio.token))


def terms_at_zero(batch: Batch, settings: InterventionSettings, audio: Tensor | None = None, **means: Tensor):
    """Terms at zero logits, gradient of their sum by the logits [R,B,T,h,w], and the network."""
    torch.manual_seed(0)
    audio = torch.randn(*batch.valid.shape, 8) if audio is None else audio
    part, network = Interventions(settings, audio.shape[-1], batch.sounding.shape[-1]).train(), Zeros()
    for name, value in means.items():
        getattr(part.sounds, name).copy_(value)
    encoded = Encoded(VisualFeatures(batch.pyramid), AudioFeatures(audio))
    terms = part(network, NetworkOutput(batch.masks, NetworkFeatures((), audio), encoded=encoded), batch)
    (gradient,) = torch.autograd.grad(sum(terms.values()), network.logits)
    terms = {name: float(value.detach()) for name, value in terms.items()}
    return terms, gradient.unflatten(0, (-1, len(batch.valid))), network


def unseen() -> Batch:
    """Three clips whose on-screen classes are unknown."""
    return replace(random_batch(3), onscreen=None)


def test_under_another_sound_the_mask_vanishes() -> None:
    """The sound of an absent class blanks the frame. Where on-screen classes are unknown, only the mask must vanish."""
    batch = unseen()
    for kind in ("other_sound", "orthogonal_sound"):
        terms, gradient, _ = terms_at_zero(batch, only(kind))
        assert terms == {kind: pytest.approx(LOG2)}
        assert (gradient[0] > 0).equal(batch.masks > 0)
    batch = random_batch(3)  # clip i shows classes i and i + 1, so another clip's class may be on screen or not
    _, gradient, network = terms_at_zero(batch, only("other_sound"), audio := torch.randn(3, 2, 8))
    sounds = network.sounds
    for clip in range(3):
        donor = next(i for i in range(3) if sounds[clip].equal(audio[i]))
        everywhere = bool((gradient[0, clip] > 0).all())
        assert donor != clip and everywhere == (not batch.onscreen[clip, donor])
        assert (gradient[0, clip] > 0).equal(batch.masks[clip] > 0) or everywhere


def test_other_frames_uses_the_sound_of_the_previous_clip() -> None:
    batch = unseen()
    terms, gradient, network = terms_at_zero(batch, only("other_frames"), audio := torch.randn(3, 2, 8))
    assert terms == {"other_frames": pytest.approx(LOG2)} and (gradient[0] > 0).equal(batch.masks > 0)
    assert network.sounds.equal(audio.roll(1, 0))
    batch.sounding[1] = batch.sounding[0]  # clip 1 may be segmented under the sound of clip 0
    batch.class_map[1] = batch.class_map[1].clamp(max=1)
    _, gradient, _ = terms_at_zero(batch, only("other_frames"))
    assert gradient[0].flatten(1).any(1).tolist() == [True, False, True]


def test_a_removed_source_loses_its_mask() -> None:
    """Class 0 and class 1 sound as e_0 + e_1 around a mean of zero; one of them is removed."""
    batch = random_batch(2, kinds=2)
    batch.sounding[:] = True
    audio, started = (torch.eye(8)[0] + torch.eye(8)[1]).expand(2, 2, 8), torch.tensor(True)
    means = {"class_means": torch.eye(8)[:2], "seen_classes": torch.tensor([True, True]), "started": started}
    terms, _, network = terms_at_zero(batch, only("removed_source"), audio, **means)
    removed = network.sounds[:, 0, 0].long()  # e_0 is left of class 1
    assert network.sounds.equal(torch.eye(8)[1 - removed][:, None].expand(-1, 2, -1))
    every = torch.ones(2, dtype=torch.bool)
    expected = removed_source_loss(torch.zeros_like(batch.masks), removed, every, batch, batch.labelled)
    assert expected > LOG2 and terms == {"removed_source": pytest.approx(float(expected))}


def test_frames_of_unknown_classes_have_no_target() -> None:
    """A clip, and one frame of another; nor are their sounds used for other clips."""
    batch = unseen()
    batch.sounding[0], batch.class_map[0] = False, 0
    batch.sounding[1, 1], batch.class_map[1, 1] = False, 0
    known = batch.known
    assert known.tolist() == [[False, False], [True, False], [True, True]]
    _, gradient, network = terms_at_zero(batch, replace(ALL, count=2), audio := torch.randn(3, 2, 8))
    assert not gradient[:, ~known].any()
    sounds = network.sounds.unflatten(0, (-1, 3))[:4]
    assert not any((sounds == unknown).all(-1).any() for unknown in audio[~known])
    assert gradient[:4, known].flatten(2).any(2).tolist() == [[True, True, False]] * 4, "a known donor's unknown frame"


def test_unlabelled_frames_and_padding_have_no_target() -> None:
    batch = random_batch(3, frames=3)
    batch.labelled[:, 1] = False
    batch.valid[0, 2] = batch.labelled[0, 2] = False
    _, gradient, network = terms_at_zero(batch, ALL)
    frames = batch.labelled & batch.valid
    assert gradient[:, ~frames].any() == 0 and gradient.transpose(0, 2)[0].any()
    assert network.valid.equal(batch.valid.repeat(4, 1))


every_network = pytest.mark.parametrize("name", BUILDERS)


@pytest.mark.parametrize(("name", "classes"), [*((name, None) for name in BUILDERS), ("query-light", 6)])
def test_interventions_train_every_network(name: str, classes: int | None) -> None:
    """The gradient reaches all layers of the mask, encoders included."""
    batch, given = random_batch(), random_clips(3, 2)
    network = small_network(name, train_visual=True, classes=classes).train()
    part = Interventions(ALL, AUDIO, 5).train()
    for _ in range(2):  # the second has class means
        output = network(*given)
        loss = weighted_sum(part(network, output, batch), part.settings)
        part.sounds.update_running_means()
    loss.backward()
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    network.zero_grad()
    network(*given).logits.square().mean().backward()
    expected = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    expected -= {"audio.attend.bias"}  # cancels in a softmax: its gradient is rounding
    assert torch.isfinite(loss) and loss > 0 and with_gradient >= expected
    assert any(name.startswith("visual.") for name in expected) and any(name.startswith("audio.") for name in expected)


@every_network
def test_interventions_leave_the_network_unchanged(name: str) -> None:
    """No parameters; batch statistics stay those of the factual sounds."""
    part, states = Interventions(ALL, AUDIO, 5).train(), []
    assert not list(part.parameters())
    for intervenes in (False, True):
        network = small_network(name).train()
        torch.manual_seed(0)  # of dropout
        output = network(*random_clips(3, 2))
        if intervenes:
            part(network, output, random_batch())
        modes = torch.tensor([module.training for module in network.modules()])
        states.append(network.state_dict() | {"logits": output.logits, "modes": modes})
    torch.testing.assert_close(*states, rtol=0, atol=0)


@every_network
def test_several_sounds_are_decoded_as_each_alone(name: str) -> None:
    """From features of the frames that are computed once."""
    batch, (frames, sound, valid) = random_batch(), random_clips(3, 2)
    network, sounds = small_network(name).double(), torch.randn(2, 3, 2, AUDIO).double()
    visual = network(network.encode_frames(frames), sound.double(), valid).encoded.visual
    alone = [network.decode(visual, AudioFeatures(each), valid).logits for each in sounds]
    found = decode_sounds(network, visual, sounds, batch)
    torch.testing.assert_close(found, torch.stack([resize_logits(each, batch.masks) for each in alone]))


def test_the_train_module_adds_the_weighted_terms() -> None:
    settings, found = InterventionSettings(orthogonal_sound=0.5, other_frames=0.25, removed_source=2.0), []
    for interventions in (None, settings):
        torch.manual_seed(0)
        train_module = PlugInTrainModule(small_host("query"), None, interventions).train()
        for _ in range(2):  # the second has class means
            torch.manual_seed(1)
            terms = train_module(random_batch(), "train")
            train_module.update_running_means()
        found.append({name: float(value.detach()) for name, value in terms.items()})
    plain, whole = found
    added = sum(getattr(settings, name) * whole[name] for name in KINDS[1:])
    assert added > 0 and whole["loss"] == pytest.approx(plain["loss"] + added, rel=1e-5)
    assert whole.keys() - plain.keys() == set(KINDS[1:])


def test_invalid_settings_networks_and_runs_are_refused() -> None:
    for values in ({"count": 0}, {"other_frames": -1.0}, dict.fromkeys(KINDS, 0.0)):
        with pytest.raises(ValueError, match=r"count is 0|negative, or none"):
            InterventionSettings(**values)
    batch = random_batch()
    with pytest.raises(ValueError, match=r"must return NetworkOutput\.encoded"):
        Interventions(ALL, 8, 5)(Zeros(), NetworkOutput(batch.masks, NetworkFeatures((), batch.waveforms)), batch)
    config, host = TrainConfig("mine", interventions=ALL), small_host("query")
    with pytest.raises(UserError, match="guided network has parts of its own"):
        build_train_module(config, small_model())
    plain = ModelConfig((), "query", **dict.fromkeys(("implicit_text", "counterfactual", "contrastive")))
    with pytest.raises(UserError, match="recipe mine intervenes by classes, of which these data have no names"):
        build_train_module(config, SegmentationModel(plain, ClipSpec(), host.network))
    assert build_train_module(config, host).interventions is not None
