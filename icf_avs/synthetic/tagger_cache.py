"""Cached predictions of the audio tagger for every sound class; training draws these instead of mixing and tagging.

Each recording is looped over a clip of five seconds as in the benchmark (speed, tilt, reverberation, noise, level), and
tagged at one moment. In half of the examples the class sounds in some of the seconds only. Windows in which it sounds
in other seconds than the middle one are stored separately: nothing must be segmented there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch

from icf_avs.atomic_io import cache_dir, load_arrays, make_once, save_arrays
from icf_avs.encoders.tagger_encoder import TAG_SETTINGS, WINDOW, WordTagger
from icf_avs.encoders.taggers import SAMPLE_RATE
from icf_avs.media.audio_file import resample
from icf_avs.media.audio_windows import cut_windows
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.sounds import NOISES, SoundBank, noise, tilt_and_reverb
from icf_avs.types import RATE, ClipSpec

SECONDS = 5  # length of a clip
_SPEC = ClipSpec(SECONDS, window=round(WINDOW * RATE))  # windows at the ends of a clip are padded with zeros
_RECIPE = 1  # increased when mixing or tagging changes
_ARRAYS = ("outputs", "silent", "noise", "pairs", "mixed")  # of TaggerOutputs
_BATCH = 16
_RAMP = 0.01  # seconds of ramp on either side of a start or stop
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class TaggerOutputs:
    """Outputs of WordTagger, one score per word, float16.

    class_names [C]: in the catalog's order. outputs [C, variants, dim]: each class sounds in the middle second. silent
    [C, variants / 4, dim]: each sounds in other seconds only. noise [variants, dim]: noise alone. mixed
    [C * variants / 4, dim]: two classes sound in the middle second; pairs [the same, 2] are their indices in
    `class_names`. The prediction for a mixture is not the maximum over its parts: the quieter one is often missed.
    """

    class_names: tuple[str, ...]
    outputs: np.ndarray
    silent: np.ndarray
    noise: np.ndarray
    pairs: np.ndarray
    mixed: np.ndarray


def tagger_outputs(
    catalog: Catalog, recordings: str, tagger: WordTagger, only: Collection[str], variants: int = 24,
    progress: Progress = lambda done, total: None,
) -> TaggerOutputs:  # fmt: skip
    """Return predictions for the recordings "train" or "cross" of the classes `only` that have any, cached or new.

    Takes about a minute; the result does not depend on where the files are. Raises UserError if the disk is full.
    """
    bank = SoundBank(catalog, recordings)
    class_names = tuple(each.name for each in catalog.classes if each.name in only and bank.references(each.name))
    folder = cache_dir() / "heard" / _digest(catalog, bank, class_names, tagger, variants)
    make_once(folder, lambda new: save_arrays(new, _tag(bank, class_names, tagger, variants, progress)))
    return TaggerOutputs(class_names, *map(np.array, load_arrays(folder, _ARRAYS)))


def _tag(
    bank: SoundBank, class_names: tuple[str, ...], tagger: WordTagger, variants: int, progress: Progress
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(variants)
    number, quarter = len(class_names), max(variants // 4, 1)
    outputs, silent = [], []
    for done, name in enumerate(class_names):
        progress(done, number + 1)
        outputs.append(_predict(tagger, [_example(bank, (name,), rng, pauses=i % 2 > 0) for i in range(variants)]))
        silent.append(_predict(tagger, [_example(bank, (name,), rng, now=False) for _ in range(quarter)]))
    noise_only = _predict(tagger, [_noise_example(rng) for _ in range(variants)])
    count = number * quarter if number > 1 else 0
    pairs = np.array([rng.choice(number, 2, replace=False) for _ in range(count)], np.int64).reshape(count, 2)
    mixed = [np.zeros((0, tagger.dim), np.float16)]
    for start in range(0, count, _BATCH):
        both = [(class_names[a], class_names[b]) for a, b in pairs[start : start + _BATCH]]
        mixed.append(_predict(tagger, [_example(bank, two, rng) for two in both]))
    progress(number + 1, number + 1)
    arrays = np.stack(outputs), np.stack(silent), noise_only, pairs, np.concatenate(mixed)
    return dict(zip(_ARRAYS, arrays, strict=True))


def _predict(tagger: WordTagger, windows: list[np.ndarray]) -> np.ndarray:
    """Windows at RATE -> predictions, float16."""
    waves = resample(torch.from_numpy(np.stack(windows)), RATE, SAMPLE_RATE)
    with torch.inference_mode():
        return torch.cat([tagger(part[:, None])[:, 0] for part in waves.split(_BATCH)]).half().numpy()


def _example(
    bank: SoundBank, class_names: tuple[str, ...], rng: np.random.Generator, now: bool = True, pauses: bool = True
) -> np.ndarray:
    """Return a window of a clip of these classes around one of its seconds, in which all of them sound, or none.

    In the other seconds each sounds at random or, without pauses, throughout. A class that does not sound now sounds
    in the second before or after. Colour, noise and levels are as in sounds.render_tracks.
    """
    moment = int(rng.integers(SECONDS))
    levels = -rng.uniform(0, 9, len(class_names))
    clip = np.zeros(samples := SECONDS * RATE, np.float32)
    for class_name, level in zip(class_names, levels - levels.max(), strict=True):
        on = rng.random(SECONDS) < 0.5 if pauses else np.ones(SECONDS, bool)
        if not now:
            on[moment + 1 if moment == 0 else moment - 1 if moment == SECONDS - 1 else moment + rng.choice((-1, 1))] = 1
        on[moment] = now
        track = bank.loop_recording(class_name, samples, rng) * _gate(on)
        track = tilt_and_reverb(track, rng, reverb=rng.random() < 0.4)
        rms = float(np.sqrt(np.mean(np.square(track[track != 0])))) if track.any() else 1.0
        clip += track * (10 ** (level / 20) / rms)
    if rng.random() < 0.85:
        hiss = noise(NOISES[rng.integers(len(NOISES))], samples, rng)
        clip += hiss * 10 ** (-rng.uniform(10, 45) / 20)
    clip *= min(10 ** (rng.uniform(-32, -14) / 20), 0.99 / float(np.abs(clip).max()))
    return cut_windows(clip, _SPEC, SECONDS)[moment]


def _noise_example(rng: np.random.Generator) -> np.ndarray:
    """Return a window of noise alone, from loud to microphone noise."""
    level = 10 ** (-rng.uniform(14, 75) / 20)
    hiss = noise(NOISES[rng.integers(len(NOISES))], SECONDS * RATE, rng)
    return cut_windows(hiss * level, _SPEC, SECONDS)[rng.integers(SECONDS)]


def _gate(on: np.ndarray) -> np.ndarray:
    """Return 1 in the seconds `on`, 0 in the others, with short ramps between them."""
    ramps = (np.arange(1, SECONDS)[:, None] + np.array((-_RAMP, _RAMP))).reshape(-1)
    return np.interp(np.arange(SECONDS * RATE) / RATE, ramps, np.repeat(on, 2)[1:-1]).astype(np.float32)


def _digest(catalog: Catalog, bank: SoundBank, class_names: tuple[str, ...], tagger: WordTagger, variants: int) -> str:
    """Return a digest of the recordings, the network, the words and their tags."""
    inputs = [_RECIPE, bank.recordings, class_names, variants, tagger.words, tagger.tags.tolist(), TAG_SETTINGS]
    digest = hashlib.sha256(repr(inputs).encode())
    for class_name in class_names:
        for reference in bank.references(class_name):
            digest.update(reference.encode() + catalog.read_recording(reference))
    for name, tensor in tagger.network.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:20]
