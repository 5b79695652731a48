"""The audio encoders "efficientat", "efficientat-mn10" and "ast": audio is represented by the words of a tagger.

Tags are scored at three granularities; the last one and the loudness of the audio tell when a tag is active:

    score(tag) = (p_clip(tag) p_window(tag) p_middle(tag))^(1/3)                          a product of experts
    active     = level  max_tag score(tag) >= SCORE_FLOOR
    level      = min(1, RMS of the middle second / RMS of the loudest window of the clip)

p_window are the tagger's probabilities with its last map pooled over a window of several seconds, p_middle over the
middle of the window (a single second of audio gives few tags), p_clip the maximum of p_window over the masks of a clip.
So a continuing sound keeps its word, and a bark is separated from the pause after it. Silence is never active.

audioset_words.csv maps each of AudioSet's 527 sound classes to a word and a use. Bark and howl both map to "dog", a
visible object (use 1). General words, such as animal or instrument, are predicted only to the extent that no specific
word is (use 2). Classes that name no object (music, an echo, noise, a small room) are not used (use 0).

    a = norm( P sum_w (h_w / sum h) e_w  g + n (1 - g) )                   g = min(1, max_w h_w / threshold)

a is the audio token, h are the scores of the predicted words, e their text embeddings, n a vector for "no word"; P and
n are learned. Since audio is represented by words alone, words unseen in training can be used, and training can use
words in place of audio. (Adding the tagger's embedding failed on natural audio: training identified the recordings by
it.) Not from the paper, which says only that the text stays implicit.
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

WINDOW = 5.0  # seconds of audio around each mask
MIDDLE = 1.2  # seconds in the middle of a window that tell when a tag is active, weighted towards the centre
SCORE_FLOOR = 0.05  # if the best tag has a lower score, nothing sounds
RELATIVE_SCORE_FLOOR = 0.02  # words with a lower score are dropped
_GENERAL_USE = 2  # value of `use` for general words
TAG_SETTINGS = (WINDOW, MIDDLE, SCORE_FLOOR, RELATIVE_SCORE_FLOOR)  # cached tags are valid only for these settings


class WordTagger(nn.Module):
    """Tagger of words: waveforms [B, T, n], T windows of about WINDOW seconds at the network's rate for each of B clips
    -> weight of each word in the middle of each window [B, T, len(words)], in [0, 1], 0 for inactive words.

    network: a tagger of AudioSet's classes, with `sample_rate`, `columns` (waveforms [N, n] -> features [N, D, L], one
    each `step` seconds) and `classifier` (mean over some columns [N, D] -> logits [N, 527]). words: the vocabulary, a
    superset of audio_words(). Raises ValueError if any is missing.
    """

    def __init__(self, network: Any, words: tuple[str, ...]) -> None:
        super().__init__()
        if missing := set(audio_words()) - set(words):
            raise ValueError(f"the vocabulary lacks {', '.join(sorted(missing))}")
        self.network, self.words = network, words
        pairs = [(tag, words.index(word), use == _GENERAL_USE) for tag, (word, use) in enumerate(_word_of_tag()) if use]
        # [used tags, (tag, index of its word, whether the word is general)]
        self.register_buffer("tags", torch.tensor(pairs, dtype=torch.long), persistent=False)

    @property
    def dim(self) -> int:
        """Number of columns of the output."""
        return len(self.words)

    def forward(self, clips: Tensor) -> Tensor:
        return self.weights(*self.evidence(clips))

    def evidence(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the arguments of `weights` for waveforms as in `forward`."""
        waves = reflect_pad_silence(clips.flatten(0, 1))
        columns, seconds = self.network.columns(waves), waves.shape[-1] / self.network.sample_rate
        pooling_weights = middle_weights(columns.shape[-1], self.network.step, seconds).to(columns)
        return self.evidence_from_columns(waves.view_as(clips), columns, pooling_weights)

    def evidence_from_columns(
        self, clips: Tensor, columns: Tensor, pooling_weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `evidence`, from the network's columns [B*T,D,L] for these clips. pooling_weights: `middle_weights`."""
        pooled = columns.mean(2), columns @ pooling_weights
        window, middle = (self.network.classifier(part).sigmoid().unflatten(0, clips.shape[:2]) for part in pooled)
        return window, middle, _level(clips, self.network.sample_rate)

    def weights(self, window: Tensor, middle: Tensor, level: Tensor) -> Tensor:
        """Compute word weights from tag probabilities in windows and their middles [B, T, 527] and the level [B, T].

        The specific word with the highest score s has weight s. Another one with score t has weight t, or s times the
        square root of the odds ratio of t and s if that is larger, as when the tagger is unsure. A word has the weight
        of its best tag. A general word has its clip probability minus that of the likeliest specific word of the clip.
        """
        tags, words, general = self.tags.unbind(1)
        window, middle, general = window[..., tags], middle[..., tags], general.bool()
        clip = window.amax(1, keepdim=True).expand_as(window)
        scores = (clip * window * middle) ** (1 / 3)
        active = level[..., None] * scores.amax(-1, True) >= SCORE_FLOOR
        best_score, best_clip_prob = (part.masked_fill(general, 0).amax(-1, True) for part in (scores, clip))
        odds = scores * (1 - best_score) / (best_score * (1 - scores)).clamp(min=1e-9)
        specific = torch.maximum(scores, best_score * odds.sqrt())
        scores = torch.where(general, clip - best_clip_prob, specific)
        scores = scores.masked_fill((scores < RELATIVE_SCORE_FLOOR) | ~active, 0)
        word_weights = scores.new_zeros(*scores.shape[:2], len(self.words))
        return word_weights.scatter_reduce(2, words.expand_as(scores), scores, "amax")


def _level(clips: Tensor, sample_rate: int) -> Tensor:
    """RMS of each window's middle second over that of the clip's loudest window: [B, T, n] -> [B, T], at most 1."""
    power, middle = clips.square(), clips.shape[-1] // 2
    second = power[..., max(middle - sample_rate // 2, 0) : middle + sample_rate // 2].mean(-1)
    return (second / power.mean(-1).amax(1, True).clamp(min=1e-12)).sqrt().clamp(max=1)


def reflect_pad_silence(waves: Tensor) -> Tensor:
    """Replace zeros at the ends of waveforms [N, n] by the adjacent audio, mirrored. A waveform that is silent at its
    middle is unchanged.

    Windows at the ends of a video are padded with zeros, and the network tags the edge as an organ or a chainsaw.
    """
    return waves if (waves[:, [0, -1]] != 0).all() else mirrored_ends(waves)  # most windows have no zeros at the ends


def mirrored_ends(waves: Tensor) -> Tensor:
    """As `reflect_pad_silence`, without its early exit."""
    length = waves.shape[-1]
    sounds = waves != 0
    first = sounds.int().argmax(1, keepdim=True)
    last = length - 1 - sounds.flip(1).int().argmax(1, keepdim=True)
    covers_middle = (first < length // 2) & (last >= length // 2)
    first, last = torch.where(covers_middle, first, 0), torch.where(covers_middle, last, length - 1)
    span = (last - first).clamp(min=1)
    phase = (torch.arange(length, device=waves.device) - first) % (2 * span)
    return waves.gather(1, first + torch.minimum(phase, 2 * span - phase))


def audio_words() -> tuple[str, ...]:
    """Return the words that the tagger can predict, without duplicates, in AudioSet's order."""
    return tuple(dict.fromkeys(word for word, use in _word_of_tag() if use))


@lru_cache(maxsize=1)
def _word_of_tag() -> tuple[tuple[str, int], ...]:
    """Return the word and the use of each tag."""
    return tuple((row["word"], int(row["use"])) for row in read_rows("audioset_words.csv"))


@lru_cache(maxsize=8)
def middle_weights(columns: int, step: float, seconds: float) -> Tensor:
    """Pooling weights [columns], sum 1: a bell of MIDDLE seconds at the centre of a window. Column j is at j * step."""
    distance = (torch.arange(columns) * step - seconds / 2) / MIDDLE
    bell = torch.where(distance.abs() < 0.5, torch.cos(torch.pi * distance).square(), torch.zeros(()))
    return bell / bell.sum()


FULL_CONFIDENCE_SCORE = 0.15  # below this best score, the token is blended with the vector for "no word"
NUM_WORD_TOKENS = 6  # likeliest words, which have a token each
RATE = 32_000  # Hz, sampling rate of the waveforms


class TaggerEncoder(nn.Module):
    """Tagger-based audio encoder: waveforms [N,160000] at 32 kHz -> (token [N,D], tokens [N,6,D], word scores [N,C]).

    names: text embeddings of the C words [C,E]. Each of the 6 tokens shifts the mean towards one of the likeliest words
    by its share, which is 0 if fewer words are active.
    """

    def __init__(self, dim: int, heard: WordTagger, names: Tensor) -> None:
        super().__init__()
        self.heard = heard.requires_grad_(False)
        self.register_buffer("names", names.clone())  # cloned: a checkpoint cannot hold a shared tensor
        self.project = nn.Linear(names.shape[1], dim)
        self.nothing = nn.Parameter(torch.randn(dim) * 0.1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode_tags(self.tag(waves[:, None])[:, 0])

    def encode_tags(self, tags: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, for given tags [N,C]."""
        strongest, word = tags.topk(min(NUM_WORD_TOKENS, tags.shape[-1]), dim=-1)  # N L
        words = self.project(F.normalize(self.names - self.names.mean(0), dim=-1))[word]  # N L D
        shares = strongest / strongest.sum(-1, keepdim=True).clamp(min=1e-6)
        mean_word = torch.einsum("nl,nld->nd", shares, words)
        confidence = (strongest[:, :1] / FULL_CONFIDENCE_SCORE).clamp(max=1)  # N 1
        no_word = self.nothing * (1 - confidence)
        word_tokens = mean_word[:, None] + shares[..., None] * (words - mean_word[:, None])
        tokens = self.norm(word_tokens * confidence[..., None] + no_word[:, None])
        return self.norm(mean_word * confidence + no_word), tokens, tags

    @torch.no_grad()
    def tag(self, clips: Tensor) -> Tensor:
        """Tag the waveforms of clips [B,T,160000] at 32 kHz -> word weights [B,T,C]."""
        return self.heard(clips)


TAGGERS = ("efficientat", "efficientat-mn10", "ast")


def load_tagger(name: str, weights: str | Path | None = None, random: bool = False) -> nn.Module:
    """Load a tagger of TAGGERS for waveforms at RATE, for WordTagger. weights: see load_efficientat and load_ast;
    random: no weights. Raises UserError if the weights are unavailable.
    """
    if name == "ast":
        return load_ast(weights, RATE, random)
    size = "mn10" if name == "efficientat-mn10" else "mn04"
    return EfficientAT(RATE, True, RELEASED[size][0]) if random else load_efficientat(weights, RATE, name=size)


def load_tagger_encoder(
    dim: int, words: tuple[str, ...], names: Tensor, weights: str | Path | None = None, random: bool = False,
    frozen: bool = True, tagger: str = TAGGERS[0],
) -> TaggerEncoder:  # fmt: skip
    """Load the encoder for a vocabulary of words with text embeddings [C,E]; tagger, weights, random: see load_tagger.

    Raises UserError if the tagger's weights are unavailable, ValueError if the vocabulary lacks an audio word.
    """
    if not frozen:
        raise ValueError("the tagger does not train")
    return TaggerEncoder(dim, WordTagger(load_tagger(tagger, weights, random), words), names)
