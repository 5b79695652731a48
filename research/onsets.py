"""`python -m research onsets`: test whether tags tell what sounds and when, on sounds that start and stop.

Clips of ten seconds with one class each, from recordings not used in training. In half of them the class sounds in runs
of one to four seconds, in the others throughout. Rows: the rule of encoders/tagger_encoder.py, and the same without one
part. f1: seconds with any predicted tag against seconds in which the class sounds, on clips with runs; right: share of
the sounding seconds whose top tag may mean the class; lost: in the continuous clips that are mostly right, the share of
seconds that are not. Clips of the split "val" are for choices.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.atomic_io import write_text
from icf_avs.encoders import tagger_encoder
from icf_avs.encoders.tagger_encoder import WINDOW, WordTagger, audio_words
from icf_avs.encoders.taggers import SAMPLE_RATE, load_tagger
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.media.audio_file import resample
from icf_avs.synthetic.catalog import load_catalog, load_open_vocab_stamps
from icf_avs.synthetic.sounds import NOISES, SoundBank, noise, tilt_and_reverb
from research.table import csv_text

SECONDS, CLIP = 10, 5  # seconds per composed clip; masks per model clip
COLUMNS = ("row", "split", "f1", "right", "lost", "clips")
SEEDS = {"val": 101, "test": 7}
_SAME = 0.6  # minimum cosine for a tag to mean a class
_BANK_RATE = 16_000


class Sounds(NamedTuple):
    """N clips: input of `WordTagger.weights`, [2N,5,...]; when the class sounds [N,10] bool, and the tags that may mean
    it [N,C] bool.
    """

    window: Tensor
    middle: Tensor
    level: Tensor
    on: Tensor
    right: Tensor


def _with_floor(floor: float) -> Callable[[WordTagger, Sounds], Tensor]:
    def weights(tagger: WordTagger, sounds: Sounds) -> Tensor:
        with patch.object(tagger_encoder, "SCORE_FLOOR", floor):
            return tagger.weights(*sounds[:3])

    return weights


def _apart(tagger: WordTagger, *parts: Tensor) -> Tensor:
    """Treat each window as a separate clip."""
    return tagger.weights(*(part.flatten(0, 1)[:, None] for part in parts))


# Row -> function that returns the tag weights.
ROWS: dict[str, Callable[[WordTagger, Sounds], Tensor]] = {
    "whole": lambda tagger, found: tagger.weights(*found[:3]),
    "without level": lambda tagger, found: tagger.weights(*found[:2], torch.ones_like(found.level)),
    "without clip": lambda tagger, found: _apart(tagger, *found[:3]),
    "window alone": lambda tagger, found: _apart(tagger, found.window, found.window, found.level),
    "middle alone": lambda tagger, found: _apart(tagger, found.middle, found.middle, found.level),
    "middle alone, without level": lambda tagger, found: _apart(
        tagger, found.middle, found.middle, torch.ones_like(found.level)
    ),
    "SCORE_FLOOR .025": _with_floor(0.025),
    "SCORE_FLOOR .1": _with_floor(0.1),
}


def scores(weights: Tensor, on: Tensor, right: Tensor) -> dict[str, float]:
    """weights [N,T,C], on [N,T], right [N,C] -> f1, right, lost."""
    found, whole = weights.amax(-1) > 0, on.all(1)
    first = found & right.gather(1, weights.argmax(-1))
    mostly = first[whole & (first.float().mean(1) >= 0.5)]
    both = 2 * (found & on)[~whole].sum() / (found[~whole].sum() + on[~whole].sum()).clamp(min=1)
    return {"f1": float(both), "right": float(first[on].float().mean()), "lost": 1 - float(mostly.float().mean())}


@torch.inference_mode()
def compose(tagger: WordTagger, seed: int, count: int) -> Sounds:
    """Compose `count` clips of each class that has a second recording and a word."""
    catalog, rng = load_catalog(), np.random.default_rng(seed)
    bank, names = SoundBank(catalog, "cross"), F.normalize(embed_with_minilm(tagger.words), dim=-1)
    word_of = {stamp.class_name: stamp.word for stamp in reversed(load_open_vocab_stamps(held_out=()).stamps)}
    rows = []
    for each in (each.name for each in catalog.classes if bank.references(each.name) and each.name in word_of):
        right = names @ F.normalize(embed_with_minilm((word_of[each],)), dim=-1)[0] > _SAME
        for number in range(count):
            lengths = np.repeat(np.arange(SECONDS), rng.integers(1, 5, SECONDS))[:SECONDS]
            on = np.ones(SECONDS, bool) if number % 2 else (lengths + rng.integers(2)) % 2 == 0
            evidence = tagger.evidence(_windows(_clip(bank, each, on, rng)).unflatten(0, (-1, CLIP)))
            rows.append((*evidence, torch.from_numpy(on)[None], right[None]))
    return Sounds(*map(torch.cat, zip(*rows, strict=True)))


def _clip(bank: SoundBank, name: str, on: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compose audio of a class that sounds in the seconds `on`, with noise."""
    samples = SECONDS * _BANK_RATE
    track = bank.loop_recording(name, samples, rng)
    track = tilt_and_reverb(track / np.sqrt(np.mean(np.square(track))), rng, reverb=rng.random() < 0.4)
    track = track * np.repeat(on, _BANK_RATE)
    track += noise(NOISES[rng.integers(len(NOISES))], samples, rng) * 10 ** (-rng.uniform(10, 45) / 20)
    return track * min(10 ** (rng.uniform(-32, -14) / 20), 0.99 / float(np.abs(track).max()))


def _windows(clip: np.ndarray) -> Tensor:
    """[n] -> the window around each second [10, WINDOW * SAMPLE_RATE], zero-padded at the ends."""
    wave = resample(torch.from_numpy(clip.astype(np.float32))[None], _BANK_RATE, SAMPLE_RATE)
    beyond = round((WINDOW - 1) / 2 * SAMPLE_RATE)
    return F.pad(wave, (beyond, beyond))[0].unfold(0, round(WINDOW * SAMPLE_RATE), SAMPLE_RATE)


def onsets_command(args: argparse.Namespace) -> None:
    """Score all rows and write the table."""
    tagger = WordTagger(load_tagger("efficientat"), audio_words())
    sounds, lines = compose(tagger, SEEDS[args.split], args.clips), []
    for row, weights in ROWS.items():
        found = scores(weights(tagger, sounds).view(*sounds.on.shape, -1), sounds.on, sounds.right)
        shown = {name: f"{value:.3f}" for name, value in found.items()}
        lines.append({"row": row, "split": args.split, **shown, "clips": str(len(sounds.on))})
    write_text(args.results, csv_text(COLUMNS, lines))
    print(f"wrote {args.results}")
