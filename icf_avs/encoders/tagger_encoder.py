"""The audio encoder "efficientat": a sound enters as the words that a tagger predicts for it.

EfficientAT's last map of a window of several seconds is pooled over the middle second: around it the network has the
context that it was trained with (on one second alone it names little), and yet a bark is told from the pause after it.
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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.efficientat import EfficientAT, load_efficientat
from icf_avs.encoders.weights import read_rows

WINDOW = 5.0  # seconds of sound around each moment
MIDDLE = 1.2  # seconds of them that the answer is about, the outer ones less than the inner
SCORE_FLOOR = 0.1  # where the best word has a lower score, no word is predicted
GENERAL_SCORE_FLOOR = 0.15  # the same of a general word: faint sounds of any source are often "animal"
RELATIVE_SCORE_FLOOR = 0.02  # a word with a lower score is not predicted beside the best one
ODDS_POWER = 0.5  # of the odds between words: where the tagger is unsure, its next guesses get higher scores
_GENERAL = 2  # use of a tag
_STEP = 0.32  # seconds that a column of the network's last map stands for
_CONTEXT = 0.35  # share of the whole window in saying what it is that sounds
# Whatever is kept of what is heard depends on these.
READ_OUT = (WINDOW, MIDDLE, SCORE_FLOOR, GENERAL_SCORE_FLOOR, RELATIVE_SCORE_FLOOR, ODDS_POWER, _STEP, _CONTEXT)


class WordTagger(nn.Module):
    """Waveforms [N, n], windows of about WINDOW seconds at the network's rate -> [N, len(words)].

    The weight of each word in [0, 1], 0 where it is not heard, about the middle second. words: the vocabulary, at least
    audio_words(). Raises ValueError where it lacks any.
    """

    def __init__(self, network: EfficientAT, words: tuple[str, ...]) -> None:
        super().__init__()
        if missing := set(audio_words()) - set(words):
            raise ValueError(f"the vocabulary lacks {', '.join(sorted(missing))}")
        self.network = network
        self.words = words
        pairs = [(tag, words.index(word), use == _GENERAL) for tag, (word, use) in enumerate(_word_of_tag()) if use]
        # [used tags, (tag, place of its word, whether it is a general one)]
        self.register_buffer("tags", torch.tensor(pairs, dtype=torch.long), persistent=False)

    @property
    def dim(self) -> int:
        """Columns of the output."""
        return len(self.words)

    def forward(self, waves: Tensor) -> Tensor:
        columns = self.network.maps(reflect_pad_silence(waves)).mean(2)  # N 384 L
        middle = columns @ _middle(columns.shape[-1], waves.shape[-1] / self.network.sample_rate).to(columns)
        here = self.network.classifier(middle).sigmoid()
        around = self.network.classifier(columns.mean(2)).sigmoid()
        return self.weights(here, around)

    def weights(self, here: Tensor, around: Tensor) -> Tensor:
        """Probabilities of the tags, in the middle second and in the window [N, 527] -> weights of words [N, words].

        What sounds, the window says as well, a little; how surely something sounds now, the middle alone: the surest
        word has that weight s, another the more of its share of s and s (o / o_surest)^SOFT, o its odds. A word has the
        weight of the best of its tags, a general word as much of it as the surest particular word leaves.
        """
        tags, words, general = self.tags.unbind(1)
        here, around, general = here[:, tags], around[:, tags], general.bool()
        shares = here ** (1 - _CONTEXT) * around**_CONTEXT
        odds = shares / (1 - shares).clamp(min=1e-6)
        surest = here.masked_fill(general, 0).amax(1, True)
        share, odd = (x / x.masked_fill(general, 0).amax(1, True).clamp(min=1e-9) for x in (shares, odds))
        particular = surest * torch.maximum(share, odd**ODDS_POWER)
        particular = particular.masked_fill((particular < RELATIVE_SCORE_FLOOR) | (surest < SCORE_FLOOR), 0)
        scores = here - surest
        scores = torch.where(general, scores.masked_fill(scores < GENERAL_SCORE_FLOOR, 0), particular)
        none = scores.new_zeros(len(scores), len(self.words))
        return none.scatter_reduce(1, words.expand(len(scores), -1), scores, "amax")


def reflect_pad_silence(waves: Tensor) -> Tensor:
    """Zeros at the ends of waveforms [N, n] -> the sound beside them, mirrored; a waveform silent at its middle is left
    alone.

    Windows at the ends of a video are padded with zeros, and the network takes the edge for an organ or a chainsaw.
    """
    length = waves.shape[-1]
    if (waves[:, [0, -1]] != 0).all():  # most windows of natural video
        return waves
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
def _middle(columns: int, seconds: float) -> Tensor:
    """Weights [columns], sum 1: a bell of MIDDLE seconds around the middle of a window. Column j is about j * _STEP."""
    away = (torch.arange(columns) * _STEP - seconds / 2) / MIDDLE
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
        self.register_buffer("active_words", torch.ones(len(names)), persistent=False)  # see `only`
        self.project = nn.Linear(names.shape[1], dim)
        self.nothing = nn.Parameter(torch.randn(dim) * 0.1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode_tags(self.tag(waves))

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
    def tag(self, waves: Tensor) -> Tensor:
        """Waveforms [N,160000] at 32 kHz -> weights of the words [N,C]."""
        return self.heard(waves) * self.active_words

    @property
    def only_words(self) -> list[int] | None:
        """The words that may be predicted, None for all."""
        return None if self.active_words.all() else self.active_words.nonzero()[:, 0].tolist()

    def restrict_to(self, words: Tensor) -> None:
        """Predict no other words from now on: bool [C]."""
        self.active_words.copy_(words)


def load_tagger_encoder(
    dim: int,
    words: tuple[str, ...],
    names: Tensor,
    weights: str | Path | None = None,
    random: bool = False,
    frozen: bool = True,
) -> TaggerEncoder:
    """The encoder for a vocabulary of words with text embeddings [C,E]; weights: see load_efficientat; random: none.

    Raises UserError when the tagger's weights are not to be had, ValueError when the vocabulary lacks an audio word.
    """
    if not frozen:
        raise ValueError("the tagger does not train")
    tagger = EfficientAT(RATE, frozen) if random else load_efficientat(weights, RATE)
    return TaggerEncoder(dim, WordTagger(tagger, words), names)
