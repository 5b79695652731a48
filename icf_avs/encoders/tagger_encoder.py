"""The audio encoders "efficientat", "efficientat-mn10" and "ast": audio is represented by the words of a tagger.

Tags are scored at three granularities; the last one and the loudness of the audio tell when a tag is active:

    score(tag) = (p_clip(tag) p_window(tag) p_middle(tag))^(1/3)                          a product of experts
    active     = level  max_tag score(tag) >= SCORE_FLOOR
    level      = min(1, RMS of the middle second / RMS of the loudest window of the clip)

p_window are the tagger's probabilities with its last map pooled over a window of several seconds, p_middle over the
middle of the window (a single second of audio gives few tags), p_clip the maximum of p_window over the masks of a clip.
So a continuing sound keeps its word, and a bark is separated from the pause after it. Silence is never active.

audioset_words.csv maps each of AudioSet's 527 classes to a word and a use. Bark and howl both map to "dog", a visible
object (use 1). General words, such as animal or instrument, are predicted only to the extent that no specific word is
(use 2). Classes that name no object (music, an echo, noise, a small room) are not used (use 0).

    a = norm( P sum_w (h_w / sum h) e_w  g + n (1 - g) )                   g = min(1, max_w h_w / threshold)

a is the audio token, h are the scores of the predicted words, e their text embeddings, n a vector for "no word"; P and
n are learned. Since audio is represented by words alone, words unseen in training can be used, and training can use
words in place of audio. Not from the paper, which says only that the text stays implicit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.taggers import SAMPLE_RATE, TAGGERS, load_tagger
from icf_avs.encoders.weights import read_rows

WINDOW = 5.0  # seconds of audio around each mask
MIDDLE = 1.2  # seconds in the middle of a window that tell when a tag is active, weighted towards the centre
SCORE_FLOOR = 0.05  # if the best tag has a lower score, nothing sounds
RELATIVE_SCORE_FLOOR = 0.02  # words with a lower score are dropped
_GENERAL_USE = "2"  # value of `use` for general words
FULL_CONFIDENCE_SCORE = 0.15  # below this best score, the token is blended with the vector for "no word"
NUM_WORD_TOKENS = 6  # likeliest words, which have a token each
TAG_SETTINGS = (WINDOW, MIDDLE, SCORE_FLOOR, RELATIVE_SCORE_FLOOR)  # cached tags are valid only for these settings


class WordTagger(nn.Module):
    """Tagger of words: waveforms [B, T, n], T windows of about WINDOW seconds at SAMPLE_RATE for each of B clips ->
    weight of each word in the middle of each window [B, T, len(words)], in [0, 1], 0 for inactive words.

    network: a tagger of AudioSet's classes, with `columns` (waveforms [N, n] -> features [N, D, L], one each `step`
    seconds) and `classifier` (mean over some columns [N, D] -> logits [N, 527]). words: the vocabulary, a superset of
    audio_words(). Raises ValueError if any is missing.
    """

    def __init__(self, network: Any, words: tuple[str, ...]) -> None:
        super().__init__()
        if missing := set(audio_words()) - set(words):
            raise ValueError(f"the vocabulary lacks {', '.join(sorted(missing))}")
        self.network, self.words, self.dim = network, words, len(words)
        rows = ((tag, row["word"], row["use"]) for tag, row in enumerate(read_rows("audioset_words.csv")))
        tags = [(tag, words.index(word), use == _GENERAL_USE) for tag, word, use in rows if use != "0"]
        # [used tags, (tag, index of its word, whether the word is general)]
        self.register_buffer("tags", torch.tensor(tags, dtype=torch.long), persistent=False)

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        return self.weights(*self.evidence(clips))

    def evidence(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the arguments of `weights` for waveforms as in `forward`."""
        waves = reflect_pad_silence(clips.flatten(0, 1))
        columns = self.network.columns(waves)
        pooled = columns.mean(2), columns @ self._middle_weights(columns, waves.shape[-1])
        window, middle = (self.network.classifier(part).sigmoid().unflatten(0, clips.shape[:2]) for part in pooled)
        power, centre, half = waves.view_as(clips).square(), waves.shape[-1] // 2, SAMPLE_RATE // 2
        second = power[..., max(centre - half, 0) : centre + half].mean(-1)
        level = (second / power.mean(-1).amax(1, True).clamp(min=1e-12)).sqrt().clamp(max=1)
        return window, middle, level

    def _middle_weights(self, columns: Tensor, samples: int) -> Tensor:
        """Pooling weights [L] of columns [N,D,L], sum 1: a bell of MIDDLE seconds at the centre of `samples`."""
        seconds = torch.arange(columns.shape[-1], device=columns.device) * self.network.step
        distance = (seconds - samples / SAMPLE_RATE / 2) / MIDDLE
        bell = torch.cos(torch.pi * distance).square() * (distance.abs() < 0.5)
        return (bell / bell.sum()).to(columns)

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
        word_weights = scores.new_zeros(*scores.shape[:2], self.dim)
        return word_weights.scatter_reduce(2, words.expand_as(scores), scores, "amax")


def reflect_pad_silence(waves: Tensor) -> Tensor:
    """Replace zeros at the ends of waveforms [N, n] by the adjacent audio, mirrored. A waveform that is silent at its
    middle is unchanged.

    Windows at the ends of a video are padded with zeros, and the network tags the edge as an organ or a chainsaw.
    """
    length, sounds = waves.shape[-1], waves != 0
    first = sounds.int().argmax(1, keepdim=True)
    last = length - 1 - sounds.flip(1).int().argmax(1, keepdim=True)
    covers_middle = (first < length // 2) & (last >= length // 2)
    first, last = torch.where(covers_middle, first, 0), torch.where(covers_middle, last, length - 1)
    span = (last - first).clamp(min=1)
    phase = (torch.arange(length, device=waves.device) - first) % (2 * span)
    return waves.gather(1, first + torch.minimum(phase, 2 * span - phase))


@lru_cache(maxsize=1)
def audio_words() -> tuple[str, ...]:
    """Return the words that the tagger can predict, without duplicates, in AudioSet's order."""
    return tuple(dict.fromkeys(row["word"] for row in read_rows("audioset_words.csv") if row["use"] != "0"))


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
        return self.encode_tags(self.heard(waves[:, None])[:, 0])

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


def load_tagger_encoder(
    dim: int, words: tuple[str, ...], names: Tensor, random: bool = False, tagger: str = TAGGERS[0]
) -> TaggerEncoder:
    """Load the encoder for a vocabulary of words with text embeddings [C,E]; tagger, random: see load_tagger.

    Raises UserError if the tagger's weights are unavailable, ValueError if the vocabulary lacks an audio word.
    """
    return TaggerEncoder(dim, WordTagger(load_tagger(tagger, random), words), names)
