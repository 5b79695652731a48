"""The audio encoders "efficientat", "efficientat-mn10" and "ast": a sound enters as the words of a tagger.

What sounds is read at three granularities, when it sounds from the last one and from the level of the sound:

    score(tag) = (p_clip(tag) p_window(tag) p_middle(tag))^(1/3)                          a product of experts
    active     = level  max_tag score(tag) >= SCORE_FLOOR
    level      = min(1, RMS of the middle second / RMS of the loudest window of the clip)

p_window are the tagger's probabilities with its last map pooled over a window of several seconds, p_middle over its
middle (on one second alone the tagger names little), p_clip the largest p_window of the masks that are made together,
the clip. So a sound keeps its word while it goes on, and a bark is told from the pause after it. Silence is never
active.

audioset_words.csv gives the word of each of AudioSet's 527 sound classes, and its use. Barks and howls are both "dog":
a visible object (use 1). General words, such as animal or instrument, are predicted as far as nothing more particular
is (2). Classes that name no object (music, an echo, noise, a small room) are not used (0).

    a = norm( P sum_w (h_w / sum h) e_w  g + n (1 - g) )                   g = min(1, max_w h_w / threshold)

h are the scores of the predicted words, e their text embeddings, n a vector for "no word"; P and n are learned. As
sounds enter by their words alone, a word that no sound of the training had enters as well, and training may give words
in place of sounds. (The tagger's own embedding beside them identified the recordings of training and failed on natural
sounds.) Not from the paper, which says only that the text stays implicit.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.ast_tagger import load_ast
from icf_avs.encoders.efficientat import RELEASED, EfficientAT, load_efficientat
from icf_avs.encoders.weights import read_rows

WINDOW = 5.0  # seconds of sound around each moment
MIDDLE = 1.2  # seconds of them that say when it sounds, the outer ones less than the inner
SCORE_FLOOR = 0.05  # where the best tag has a lower score, nothing sounds
RELATIVE_SCORE_FLOOR = 0.02  # a word with a lower score is not predicted beside the best one
_GENERAL = 2  # use of a tag
READ_OUT = (WINDOW, MIDDLE, SCORE_FLOOR, RELATIVE_SCORE_FLOOR)  # whatever is kept of what is heard depends on these


class WordTagger(nn.Module):
    """Waveforms [B, T, n], for each of B clips T windows of about WINDOW seconds at the network's rate -> the weight of
    each word in the middle of each window [B, T, len(words)], in [0, 1], 0 where it is not heard.

    network: a tagger of AudioSet's classes, with `sample_rate`, `columns` (waveforms [N, n] -> features [N, D, L], one
    each `step` seconds) and `classifier` (their mean over some steps [N, D] -> logits [N, 527]). words: the vocabulary,
    at least audio_words(). Raises ValueError where it lacks any.
    """

    def __init__(self, network: Any, words: tuple[str, ...]) -> None:
        super().__init__()
        if missing := set(audio_words()) - set(words):
            raise ValueError(f"the vocabulary lacks {', '.join(sorted(missing))}")
        self.network, self.words = network, words
        pairs = [(tag, words.index(word), use == _GENERAL) for tag, (word, use) in enumerate(_word_of_tag()) if use]
        # [used tags, (tag, place of its word, whether it is a general one)]
        self.register_buffer("tags", torch.tensor(pairs, dtype=torch.long), persistent=False)

    @property
    def dim(self) -> int:
        """Columns of the output."""
        return len(self.words)

    def forward(self, clips: Tensor) -> Tensor:
        return self.weights(*self.evidence(clips))

    def evidence(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward` -> what `weights` takes."""
        waves = reflect_pad_silence(clips.flatten(0, 1))
        columns, seconds = self.network.columns(waves), waves.shape[-1] / self.network.sample_rate
        bell = middle_weights(columns.shape[-1], self.network.step, seconds).to(columns)
        return self.read(waves.view_as(clips), columns, bell)

    def read(self, clips: Tensor, columns: Tensor, bell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `evidence`, of the network's columns [B*T,D,L] for these clips; bell: `middle_weights` [L]."""
        pooled = columns.mean(2), columns @ bell
        window, middle = (self.network.classifier(part).sigmoid().unflatten(0, clips.shape[:2]) for part in pooled)
        return window, middle, _level(clips, self.network.sample_rate)

    def weights(self, window: Tensor, middle: Tensor, level: Tensor) -> Tensor:
        """Probabilities of the tags in the windows and in their middles [B, T, 527], level [B, T] -> weights of words.

        The surest particular word has its score s. Another one with score t has the weight t or, where the tagger is
        unsure, more: s times the root of the odds of t beside those of s. A word has the weight of the best of its
        tags, a general word what the surest particular word of the clip leaves of it.
        """
        tags, words, general = self.tags.unbind(1)
        window, middle, general = window[..., tags], middle[..., tags], general.bool()
        clip = window.amax(1, keepdim=True).expand_as(window)
        scores = (clip * window * middle) ** (1 / 3)
        active = level[..., None] * scores.amax(-1, True) >= SCORE_FLOOR
        surest, found = (part.masked_fill(general, 0).amax(-1, True) for part in (scores, clip))
        odds = scores * (1 - surest) / (surest * (1 - scores)).clamp(min=1e-9)
        particular = torch.maximum(scores, surest * odds.sqrt())
        scores = torch.where(general, clip - found, particular)
        scores = scores.masked_fill((scores < RELATIVE_SCORE_FLOOR) | ~active, 0)
        none = scores.new_zeros(*scores.shape[:2], len(self.words))
        return none.scatter_reduce(2, words.expand_as(scores), scores, "amax")


def _level(clips: Tensor, sample_rate: int) -> Tensor:
    """[B, T, n] -> [B, T] in [0, 1]: how loud the middle second of a window is beside its clip's loudest window."""
    power, middle = clips.square(), clips.shape[-1] // 2
    second = power[..., max(middle - sample_rate // 2, 0) : middle + sample_rate // 2].mean(-1)
    return (second / power.mean(-1).amax(1, True).clamp(min=1e-12)).sqrt().clamp(max=1)


def reflect_pad_silence(waves: Tensor) -> Tensor:
    """Zeros at the ends of waveforms [N, n] -> the sound beside them, mirrored; a waveform silent at its middle is left
    alone.

    Windows at the ends of a video are padded with zeros, and the network takes the edge for an organ or a chainsaw.
    """
    return waves if (waves[:, [0, -1]] != 0).all() else mirrored_ends(waves)  # most windows of natural video are full


def mirrored_ends(waves: Tensor) -> Tensor:
    """As `reflect_pad_silence`, without a look at whether there is anything to do."""
    length = waves.shape[-1]
    sounds = waves != 0
    first = sounds.int().argmax(1, keepdim=True)
    last = length - 1 - sounds.flip(1).int().argmax(1, keepdim=True)
    around = (first < length // 2) & (last >= length // 2)
    first, last = torch.where(around, first, 0), torch.where(around, last, length - 1)
    span = (last - first).clamp(min=1)
    since = (torch.arange(length, device=waves.device) - first) % (2 * span)
    return waves.gather(1, first + torch.minimum(since, 2 * span - since))


def audio_words() -> tuple[str, ...]:
    """The words that may be heard, each once, in AudioSet's order."""
    return tuple(dict.fromkeys(word for word, use in _word_of_tag() if use))


@lru_cache(maxsize=1)
def _word_of_tag() -> tuple[tuple[str, int], ...]:
    """The word of each tag, and its use."""
    return tuple((row["word"], int(row["use"])) for row in read_rows("audioset_words.csv"))


@lru_cache(maxsize=8)
def middle_weights(columns: int, step: float, seconds: float) -> Tensor:
    """Weights [columns], sum 1: a bell of MIDDLE seconds around the middle of a window. Column j is about j * step."""
    away = (torch.arange(columns) * step - seconds / 2) / MIDDLE
    bell = torch.where(away.abs() < 0.5, torch.cos(torch.pi * away).square(), torch.zeros(()))
    return bell / bell.sum()


THRESHOLD = 0.15  # a sound whose surest word has less is nothing, in part
PARTS = 6  # words that are handed on one by one
RATE = 32_000  # Hz, of the waveforms


class TaggerEncoder(nn.Module):
    """waveforms [N,160000] at 32 kHz -> (token [N,D], tokens [N,6,D], tags [N,C], how surely each word sounds).

    names: text embeddings of the C words [C,E]. A token leans to one of the likeliest words each, or where fewer are
    heard to none.
    """

    def __init__(self, dim: int, heard: WordTagger, names: Tensor) -> None:
        super().__init__()
        self.heard = heard.requires_grad_(False)
        self.register_buffer("names", names.clone())  # a checkpoint keeps no tensor twice under two names
        self.project = nn.Linear(names.shape[1], dim)
        self.nothing = nn.Parameter(torch.randn(dim) * 0.1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode_tags(self.tag(waves[:, None])[:, 0])

    def encode_tags(self, tags: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, of a sound that has these tags [N,C]."""
        strongest, word = tags.topk(min(PARTS, tags.shape[-1]), dim=-1)  # N L
        words = self.project(F.normalize(self.names - self.names.mean(0), dim=-1))[word]  # N L D
        shares = strongest / strongest.sum(-1, keepdim=True).clamp(min=1e-6)
        mixed = torch.einsum("nl,nld->nd", shares, words)
        confidence = (strongest[:, :1] / THRESHOLD).clamp(max=1)  # N 1
        rest = self.nothing * (1 - confidence)
        apart = mixed[:, None] + shares[..., None] * (words - mixed[:, None])
        return self.norm(mixed * confidence + rest), self.norm(apart * confidence[..., None] + rest[:, None]), tags

    @torch.no_grad()
    def tag(self, clips: Tensor) -> Tensor:
        """Waveforms of clips [B,T,160000] at 32 kHz -> weights of the words [B,T,C]."""
        return self.heard(clips)


TAGGERS = ("efficientat", "efficientat-mn10", "ast")


def load_tagger(name: str, weights: str | Path | None = None, random: bool = False) -> nn.Module:
    """A tagger of TAGGERS for waveforms at RATE, as WordTagger takes it; weights: see load_efficientat and load_ast;
    random: without them. Raises UserError when they are not to be had.
    """
    if name == "ast":
        return load_ast(weights, RATE, random)
    size = "mn10" if name == "efficientat-mn10" else "mn04"
    return EfficientAT(RATE, True, RELEASED[size][0]) if random else load_efficientat(weights, RATE, name=size)


def load_tagger_encoder(
    dim: int, words: tuple[str, ...], names: Tensor, weights: str | Path | None = None, random: bool = False,
    frozen: bool = True, tagger: str = TAGGERS[0],
) -> TaggerEncoder:  # fmt: skip
    """The encoder for a vocabulary of words with text embeddings [C,E]; tagger, weights, random: see load_tagger.

    Raises UserError when the tagger's weights are not to be had, ValueError when the vocabulary lacks an audio word.
    """
    if not frozen:
        raise ValueError("the tagger does not train")
    return TaggerEncoder(dim, WordTagger(load_tagger(tagger, weights, random), words), names)
