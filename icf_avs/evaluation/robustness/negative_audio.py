"""Sounds and frames that replace or disturb those of a clip. All sounds go through the same front end.

true         the sound of the clip
silence      zeros
noise        white Gaussian noise as loud (root mean square) as the clip; noise-10db and noise-40db are quieter by that
             much. TeSO reports "10 dB and 40 dB" without a reference level; here they are below the clip's loudness
offscreen    the sound of another clip of the split, none of whose sounding classes is in the frame
shifted      the sound of the clip, delayed by half the clip and wrapped around. Half is rounded down to whole frames,
             so that each frame has exactly the sound of another frame
snr-20db     the sound of the clip with white Gaussian noise 20 dB below its loudness; likewise -30db and -40db
mixed-N      the sound of the clip; N of its frames are averaged with frames of another clip

The last two are the curves of the paper's figure 5. It gives both ranges (20 to 40 dB; 0 to 4 frames), but not how
frames are mixed. An average changes the input of every network. A replaced frame would require masks of objects that
are not in it.

`icf evaluate` accepts any off-screen donor. With --robustness the donor comes from another super-category than
everything that sounds in the clip, as in AVSBench-Robust: see `choose_donor`. That paper also avoids pairs it finds
unsuitable (no human sound for music, and so on). This is not done here, as whole super-categories would stay untested.

super_categories.csv has the super-category (music, human, animal, device) of the 70 classes of AVSS and the 23
categories of S4; stamps.csv has those of Stamps. Those of S4 and MS3 are taken from AVSBench-Robust (a computer
keyboard is a device). It gives none for the other classes of AVSS, so these are our choice.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from icf_avs.errors import UserError
from icf_avs.media.vggish_frontend import LOG_OFFSET

if TYPE_CHECKING:
    from icf_avs.datasets.video_clip import ClipRecord, LoadedClip

Audio = Literal[
    "true", "silence", "noise", "noise-10db", "noise-40db", "offscreen", "shifted", "snr-20db", "snr-30db", "snr-40db"
]
NEGATIVES = ("silence", "noise", "noise-10db", "noise-40db", "offscreen")  # sounds of no visible object
NOISE_LEVELS = {"noise": 0.0, "noise-10db": -10.0, "noise-40db": -40.0}  # dB relative to the clip
SNRS = {"snr-20db": 20.0, "snr-30db": 30.0, "snr-40db": 40.0}  # dB
MIXED = {f"mixed-{count}": count for count in (1, 2, 3, 4)}  # frames
CATEGORY_FILES = (("icf_avs.evaluation.robustness", "super_categories.csv"), ("icf_avs.synthetic", "stamps.csv"))
SEVERAL, UNKNOWN = "mixed", "unknown"  # donors of several super-categories; of classes in no table


class Donor(NamedTuple):
    """The clip that provides the replacement sound, as an index into the records, and its super-category."""

    record: int
    category: str


def altered_audio(clip: LoadedClip, records: Sequence[ClipRecord], index: int, audio: Audio, seed: int) -> np.ndarray:
    """Return the audio that replaces that of `records[index]`, deterministic for a given seed.

    It is a waveform, float32 [n] at 16 kHz, or log-mel windows [T, 96, 64] for a clip that has only those. Raises
    UserError for noise if there is no waveform.
    """
    rng = np.random.default_rng([seed, index])
    if audio == "true":
        return clip.sound
    if audio == "silence":  # log-mel windows of silence hold log(offset)
        return np.full_like(clip.sound, 0.0 if clip.sound.ndim == 1 else math.log(LOG_OFFSET))
    if audio in NOISE_LEVELS:
        return _noise(clip.waveform, NOISE_LEVELS[audio], rng).astype(np.float32)
    if audio in SNRS:
        return (clip.waveform + _noise(clip.waveform, -SNRS[audio], rng)).astype(np.float32)
    if audio == "shifted":
        frames = len(clip.frames)
        return np.roll(clip.sound, len(clip.sound) * (frames // 2) // frames, axis=0)
    return records[rng.choice(donors(records, index))].load().sound


def _noise(waveform: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return white noise as loud as a waveform [n], shifted by `level` dB. For silence it is silence."""
    loudness = np.sqrt(np.mean(np.square(waveform))) if len(waveform) else 0.0
    return loudness * 10 ** (level / 20) * rng.standard_normal(len(waveform))


def mix_frames(frames: np.ndarray, others: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `frames` with `count` of them, drawn by `rng`, averaged with `others` at the same index; both uint8
    [T,H,W,3].

    From the same state of `rng`, a larger count mixes the frames of a smaller count and more. Raises UserError if the
    sizes differ.
    """
    if frames.shape[1:] != others.shape[1:]:
        raise UserError(f"frames of {frames.shape[1:3]} cannot be mixed with frames of {others.shape[1:3]}")
    mixed = frames.copy()
    for place in rng.permutation(len(frames))[:count]:
        pair = np.stack([frames[place], others[place % len(others)]])
        mixed[place] = pair.mean(0).round().astype(np.uint8)
    return mixed


def shifted_frame(frame: int, frames: int) -> int:
    """Return the index of the frame whose sound `frame` gets under shifted sound, in a clip of `frames` frames."""
    return (frame - frames // 2) % frames


def donors(records: Sequence[ClipRecord], index: int) -> list[int]:
    """Return the indices of clips whose sound is off-screen in clip `index`. Raises UserError if there are none."""
    onscreen = records[index].onscreen
    if onscreen is None:
        raise UserError(
            f"clip {records[index].name}: its set does not say what is in the frame, so no sound is known to be "
            "off-screen; add a scenes.csv, or use the same clips in the AVSS layout"
        )
    found = [i for i, other in enumerate(records) if other.sounding and not other.sounding & onscreen]
    if not found:
        raise UserError(f"clip {records[index].name}: every sound of the split is on screen; use a larger test set")
    return found


def missing_donor_reason(records: Sequence[ClipRecord], clips: int | None) -> str | None:
    """Return why one of the first `clips` clips has no off-screen sound; None if all have one."""
    sounds = {frozenset(record.sounding) for record in records if record.sounding}
    for record in records[:clips]:
        if record.onscreen is None:
            return "its clips do not say what is in the frame"
        if not any(not sounding & record.onscreen for sounding in sounds):
            return f"clip {record.name} has no off-screen sound to choose from"
    return None


def choose_donor(records: Sequence[ClipRecord], index: int, seed: int) -> Donor:
    """Choose an off-screen clip for clip `index`: a random super-category not sounding in it, then a random clip.

    If there is no such donor, or the super-category of a class is unknown, any clip that shares no class is used and
    its category is `UNKNOWN`. Raises UserError like `donors`.
    """
    rng = np.random.default_rng([seed, index])
    candidates = donors(records, index)
    own = super_categories(records[index].sounding or ())
    groups: dict[str, list[int]] = {}
    for i in candidates:
        theirs = super_categories(records[i].sounding or ())
        if own is not None and theirs and not theirs & own:
            groups.setdefault(next(iter(theirs)) if len(theirs) == 1 else SEVERAL, []).append(i)
    if not groups:
        return Donor(int(rng.choice(candidates)), UNKNOWN)
    category = str(rng.choice(sorted(groups)))
    return Donor(int(rng.choice(groups[category])), category)


@cache
def _table() -> dict[str, str]:
    table: dict[str, str] = {}
    for package, name in CATEGORY_FILES:
        lines = resources.files(package).joinpath(name).read_text(encoding="utf-8").splitlines()
        table |= {row["class"]: row["super_category"] for row in csv.DictReader(lines) if row["class"]}
    return table


def super_categories(classes: Iterable[str]) -> frozenset[str] | None:
    """Return the super-categories of the classes, or None if one of them is in no table."""
    table, names = _table(), set(classes)
    return frozenset(table[name] for name in names) if names <= table.keys() else None
