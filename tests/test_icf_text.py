"""MIT: channel-time attention, windows, pseudo-words and gates (eq. 1-5) against NumPy; text encoders."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from transformers import BatchEncoding, ClapTextConfig, CLIPTextConfig, XCLIPTextConfig

from icf_avs.encoders.text_encoders import (
    CLAP,
    CLIP,
    PUBLISHED,
    XCLIP,
    TextEncoder,
    TextEncoderSpec,
    load_minilm,
    text_widths,
)
from icf_avs.icf import MIT
from icf_avs.icf.channel_time import ChannelTimeAttention, MultiLevelAttention, maps_of_frames, sliding_windows
from icf_avs.icf.implicit_text import GatedMLP, ImplicitText, TextFusion
from icf_avs.icf.pseudo_words import PseudoWordBank

SMALL = MIT(dim=32, width=12, prompts=5)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_minilm()


@pytest.fixture(scope="module")
def module(encoder: TextEncoder) -> ImplicitText:
    torch.manual_seed(0)
    made = ImplicitText(SMALL, 16, 24, lambda level: encoder)
    for attention in made.levels.attention.values():  # it starts as the identity
        torch.nn.init.normal_(attention.value.weight, std=0.3)
    return made.eval()


def features(clips: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(clips, frames, *sides, generator=generator) for sides in ((16, 4, 4), (24,)))


def test_channel_time_attention_is_equation_2():
    torch.manual_seed(1)
    attention, maps, every = ChannelTimeAttention(3), torch.randn(2, 4, 3, 5), torch.ones(2, 4, dtype=torch.bool)
    assert attention(maps, every).equal(maps), "it starts as the identity"
    torch.nn.init.normal_(attention.value.weight)
    found = attention(maps, every).detach().numpy()
    weights = {name: layer.weight.detach().numpy() for name, layer in attention.named_children()}
    biases = {name: layer.bias.detach().numpy() for name, layer in attention.named_children()}
    for clip in range(2):
        rows = {
            name: np.concatenate([weights[name] @ maps[clip, t].numpy() + biases[name][:, None] for t in range(4)])
            for name in ("query", "key", "value")
        }  # each (T C) x P
        scores = rows["query"] @ rows["key"].T / np.sqrt(5)
        share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        expected = maps[clip].reshape(12, 5).numpy() + share @ rows["value"]
        np.testing.assert_allclose(found[clip].reshape(12, 5), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("frames", "count", "expected"),
    [(5, 1, [range(5)]), (5, 2, [range(3), range(2, 5)]), (5, 4, [range(2), range(2, 4), range(3, 5)]),
     (10, 2, [range(5), range(5, 10)]), (1, 2, [range(1)]), (3, 4, [range(1), range(1, 2), range(2, 3)])],
)  # fmt: skip
def test_windows_slide_back_where_they_would_be_short(frames, count, expected):
    """With any padding, and beside a clip without frames."""
    for padding in (0, 4):
        valid = torch.arange(frames + padding) < torch.tensor([[frames], [0]])
        found = sliding_windows(valid, count, -(-(frames + padding) // count))
        windows = [found.frames[0, s][found.frame_mask[0, s]].tolist() for s in range(count) if found.valid[0, s]]
        assert windows == [list(window) for window in expected] and not found.frame_mask[1].any()
        first = [next(s for s, window in enumerate(expected) if frame in window) for frame in range(frames)]
        assert found.window_of_frame[0, :frames].tolist() == first


def test_maps_of_frames_and_means_of_scopes():
    torch.manual_seed(0)
    levels, maps = MultiLevelAttention(16, SMALL), features(2, 5)[0]
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    for attention in levels.attention.values():
        torch.nn.init.normal_(attention.value.weight, std=0.3)
    projected, found = levels(maps, valid)
    whole = torch.ones(1, 3, dtype=torch.bool)
    segments = [levels.attention["segment"](projected[:1, of : of + 3], whole)[0] for of in (0, 2)]
    expected = torch.cat([segments[0], segments[1][1:]])
    torch.testing.assert_close(maps_of_frames(found["segment"])[0], expected)
    torch.testing.assert_close(found["segment"].mean[0], torch.stack([x.mean((0, 2)) for x in segments]))
    short = levels.attention["video"](projected[1:, :3], whole)[0]
    torch.testing.assert_close(maps_of_frames(found["video"])[1, :3], short)
    torch.testing.assert_close(found["video"].mean[1, 0], short.mean((0, 2)))


def test_padding_frames_and_other_clips_change_nothing(module):
    fusion = TextFusion(SMALL).eval()
    for gate in (gate for gates in fusion.gates.values() for gate in gates):
        torch.nn.init.normal_(gate.across, std=0.3)
    visual, audio = features(3, 5)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 5])
    given = visual, audio, valid
    both = [(module(*each), each[2]) for each in (given, [of[1:2, :3] for of in given])]
    whole, part = ((texts.visual, texts.audio, fusion(texts, of)) for texts, of in both)  # the last is z
    for text, by_itself in zip(whole, part, strict=True):
        torch.testing.assert_close(text[1:2, :3], by_itself, rtol=1e-4, atol=1e-5)
        assert not text[1, 3:].any(), "padding has no text"
    assert whole[-1].shape == (3, 5, 32) and whole[-1][0].std(0).max() > 1e-4, "frames have different texts"


def test_the_pyramid_is_weighted_over_all_levels_together(module):
    texts = torch.randn(1, 2, 6, 32, generator=torch.Generator().manual_seed(2))
    module.weigh["visual"].data.normal_(generator=torch.Generator().manual_seed(3))
    found = module.pyramid(texts, "visual")[0, 1].detach().numpy()
    each = texts[0, 1].numpy()
    score = np.exp(each @ module.weigh["visual"].detach().numpy() / np.sqrt(32))
    np.testing.assert_allclose(found, (score / score.sum()) @ each, rtol=1e-4, atol=1e-5)


def read(bank: PseudoWordBank, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts and pull of a bank for features [S,F] of one clip."""
    return bank(features[None], torch.ones(1, len(features), dtype=torch.bool))[:2]


def test_a_bank_keeps_the_best_texts_revises_by_the_next_and_softmax_takes_the_mean_of_all(encoder):
    """Of five texts two are selected, two are a revision, and one is left over."""
    torch.manual_seed(0)
    bank = PseudoWordBank("audio", encoder, SMALL, 24).eval()
    bank.normalize.running_mean.normal_()
    bank.normalize.running_var.uniform_(0.5, 2)
    given, every = torch.randn(1, 7, 24), torch.ones(1, 7, dtype=torch.bool)
    found = bank(given, every, revise=True)
    texts = encoder("An audio of [ ]", bank.words).detach()
    features = (given[0] - bank.normalize.running_mean) / (bank.normalize.running_var + 1e-5).sqrt()
    similarity = torch.nn.functional.cosine_similarity(bank.match(features)[:, None], texts[None], dim=-1)
    best, projected = similarity.sort(-1, descending=True), bank.project(texts)
    torch.testing.assert_close(found.texts[0], projected[best.indices[:, :2]], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.pull[0], 1 - best.values[:, :2].mean(1))
    torch.testing.assert_close(found.revised[0, :, 0], projected[best.indices[:, 2:4]], rtol=1e-3, atol=1e-4)
    assert found.revised.shape[2] == 1 and not found.revised.requires_grad
    bank.settings = replace(SMALL, selection="softmax")
    weights = (similarity / SMALL.selection_temperature).softmax(-1)
    torch.testing.assert_close(bank(given, every).texts[0, :, 0], bank.project(weights @ texts), rtol=1e-3, atol=1e-4)


def test_words_learn_and_the_text_encoder_does_not(encoder):
    torch.manual_seed(0)
    before = copy.deepcopy(encoder.model.state_dict())
    bank, given = PseudoWordBank("frame", encoder, SMALL, 16).train(), torch.randn(6, 16, requires_grad=True)
    chosen, pull = read(bank, given)
    pull.sum().backward(retain_graph=True)
    assert given.grad is None and bank.match.weight.grad is None, "the pull trains the words and not the features"
    assert bank.words.grad.any()
    chosen.square().sum().backward()
    assert bank.words.grad.abs().amax((1, 2)).gt(0).all(), "every text's words, chosen or not, get a gradient"
    assert all(parameter.grad is None for parameter in encoder.model.parameters())
    assert all(value.equal(before[key]) for key, value in encoder.model.state_dict().items())
    assert not any("model" in key or "encoder" in key for key in bank.state_dict())
    assert not encoder.model.training


def test_gates_start_without_mixing_frames_and_mix_them_later():
    gate, every = GatedMLP(8, 5), torch.ones(1, 4, dtype=torch.bool)
    x = torch.randn(1, 4, 8)
    torch.testing.assert_close(gate(x, every)[:, :2], gate(x[:, :2], every[:, :2]))
    torch.nn.init.normal_(gate.across)
    assert not gate(x, every)[:, :2].allclose(gate(x[:, :2], every[:, :2]))
    with pytest.raises(ValueError, match=r"clips of 6 frames; MIT\(most_frames=5\)"):
        gate(torch.randn(1, 6, 8), torch.ones(1, 6, dtype=torch.bool))


class Words:
    """Tokenizer of one-word tokens with the outputs of transformers'."""

    def __init__(self, source: TextEncoderSpec) -> None:
        self.ends = (0, 2) if source is CLAP else (0, 49)  # CLAP's is RoBERTa's

    def __call__(self, text, add_special_tokens=True, return_tensors=None):
        texts = [text] if isinstance(text, str) else text
        rows = [[5 if word == "*" else 7 for word in each.split()] for each in texts]
        ids = torch.tensor([[self.ends[0], *row, self.ends[1]] if add_special_tokens else row for row in rows])
        return BatchEncoding({"input_ids": ids if return_tensors else rows[0], "attention_mask": torch.ones_like(ids)})


CONFIGS = {CLIP: CLIPTextConfig, XCLIP: XCLIPTextConfig, CLAP: ClapTextConfig}


def untrained(source: TextEncoderSpec, dim: int, **size: int) -> TextEncoder:
    """With random weights."""
    model = getattr(transformers, source.model)(CONFIGS[source](**size))
    return TextEncoder(model, Words(source), source.pooled, dim)


@pytest.mark.parametrize("source", CONFIGS, ids=lambda source: source.name)
def test_published_text_encoders_take_pseudo_words_and_stay_frozen(source):
    torch.manual_seed(0)
    encoder = untrained(
        source, 16 if source is XCLIP else 8, vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16, eos_token_id=49, projection_dim=8,
    )  # fmt: skip
    words = torch.randn(3, 2, 16, requires_grad=True)
    texts = encoder("A frame of [ ]", words)
    assert texts.shape == (3, encoder.dim)
    (texts[0] * torch.randn(encoder.dim)).sum().backward()  # a plain sum of a layer norm's output has no gradient
    assert words.grad[0].abs().amax(-1).gt(1e-6).all() and not words.grad[1:].any()
    assert not encoder.model.training and all(parameter.grad is None for parameter in encoder.model.parameters())
    own = encoder.model.get_input_embeddings().weight[torch.tensor([9, 11])].detach()
    first, last = encoder.tokenizer.ends
    plain = torch.tensor([[first, 7, 7, 7, 9, 11, last]])
    same = source.pooled(encoder.model(input_ids=plain), torch.ones_like(plain))
    torch.testing.assert_close(encoder("A frame of [ ]", own[None]), same)
    with torch.device("meta"):
        assert untrained(source, source.widths[1], projection_dim=512).widths == source.widths
    assert all(text_widths("published", level) == of.widths for level, of in PUBLISHED.items())
