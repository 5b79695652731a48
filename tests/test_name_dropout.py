"""Answers without the name: they depend on the evidence alone, and both answers count."""

from __future__ import annotations

import pytest
import torch
from test_classifier_prior import NAMES, _model, bridge  # noqa: F401

from icf_avs.networks.guided import Sounds
from icf_avs.networks.open_vocabulary_parts.name_dropout import NameDropout


def test_what_is_hidden_says_nothing_of_the_sound():
    part = NameDropout(8, tokens=2, share=0.5)
    sound, text = torch.randn(3, 4, 8), torch.randn(3, 4, 2, 8)
    named = torch.tensor([True, False, True, False])
    shown, read = part.hide(sound, text, named)
    assert torch.equal(shown[:, named], sound[:, named]) and torch.equal(read[:, named], text[:, named])
    assert torch.equal(shown[:, ~named], part.sound.expand(3, 2, 8))
    assert torch.equal(read[:, ~named], part.text.expand(3, 2, 2, 8))


def test_the_frames_of_a_clip_keep_their_names_together():
    torch.manual_seed(0)
    kept = NameDropout(8, tokens=2, share=0.25).draw(4000, 5).unflatten(0, (4000, 5))
    assert (kept == kept[:, :1]).all()
    assert 0.72 < kept[:, 0].float().mean() < 0.78


@pytest.fixture
def model(bridge):  # noqa: F811
    return _model(bridge)


def asked(model, names, sound_of):
    """Logits of one picture when `names` [B] are read; sound_of: scales what the decoder is told of them."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 1, 64, 64, 3), generator=generator, dtype=torch.uint8)
    network = model.network
    visual = network.encode_frames(picture).map(lambda x: x.expand(len(names), *x.shape[1:]))
    # The reading of a token does not depend on its length, so only what the decoder is told of it changes.
    sound = sound_of * model.network.implicit_text.vocabulary.words()[list(names)][:, None]
    pixels = network.pixel_decoder([level.flatten(0, 1) for level in visual.pyramid])
    sounds = Sounds(sound[None], torch.zeros(1, len(names), 1, 6, sound.shape[-1]), [None])
    found = network.decode_sounds(pixels, sounds, torch.ones(len(names), 1).bool(), visual)
    return found.logits[0]


def test_without_names_only_the_evidence_decides(model):
    model.train()
    with torch.no_grad():
        model.network.name_dropout.share = 1.0
        one, longer = asked(model, range(4), 1.0), asked(model, range(4), 3.0)
        torch.testing.assert_close(one, longer, atol=1e-4, rtol=1e-4)
        assert (one[0] - one[1]).abs().max() > 1e-3  # another word, other evidence
        model.network.name_dropout.share = 0.0
        assert (asked(model, range(4), 1.0) - asked(model, range(4), 3.0)).abs().max() > 1e-2


def test_afterwards_the_surer_answer_counts(model):
    with torch.no_grad():
        model.train()
        model.network.name_dropout.share = 1.0
        without = asked(model, range(len(NAMES)), 1.0)
        model.network.name_dropout.share = 0.0
        named = asked(model, range(len(NAMES)), 1.0)
        model.eval()
        both = asked(model, range(len(NAMES)), 1.0)
        torch.testing.assert_close(both, torch.maximum(named, without), atol=1e-4, rtol=1e-4)
        assert (named > without + 1e-3).any() and (without > named + 1e-3).any()
