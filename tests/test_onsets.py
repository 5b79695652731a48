"""Tag scores on sounds that start and stop: hand-worked, and on composed sounds."""

from __future__ import annotations

import pytest
import torch
from tagger_weights import published_weights

from icf_avs.encoders.efficientat import load_efficientat
from icf_avs.encoders.tagger_encoder import WordTagger, audio_words
from research.onsets import ROWS, compose, scores


def test_scores_by_hand() -> None:
    """One clip with a pause, two without; the last is always tagged wrongly."""
    on = torch.tensor([[True, True, False, False], [True] * 4, [True] * 4])
    right = torch.tensor([[False, True], [False, True], [False, True]])
    weights = torch.zeros(3, 4, 2)
    weights[0, :3] = torch.tensor([[0.2, 0.5], [0.5, 0.2], [0.0, 0.1]])  # right, another word, in a pause
    weights[1, :3, 1] = 0.3
    weights[2, :, 0] = 0.3
    found = scores(weights, on, right)
    assert found["f1"] == pytest.approx(2 * 2 / (3 + 2))
    assert found["right"] == pytest.approx((1 + 3 + 0) / (2 + 4 + 4))
    assert found["lost"] == pytest.approx(1 / 4)


def test_the_rule_finds_pauses_of_composed_sounds() -> None:
    """Half of the clips have pauses. The level reveals the pauses, and the whole clip decides the word."""
    tagger = WordTagger(load_efficientat(published_weights()), audio_words())
    sounds = compose(tagger, seed=1, count=2)
    assert sounds.on[1::2].all() and not sounds.on[::2].all(1).any() and sounds.right.any(1).all()
    found = {
        row: scores(ROWS[row](tagger, sounds).view(*sounds.on.shape, -1), sounds.on, sounds.right)
        for row in ("whole", "without level", "middle alone")
    }
    assert found["whole"]["f1"] > 0.9 > found["without level"]["f1"]
    assert found["whole"]["right"] > found["middle alone"]["right"] + 0.05
