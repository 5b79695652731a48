"""The two curves of the paper's figure 5: the clip's own sound with noise added, its own frames mixed with others.

snr-20db     the clip's sound with white Gaussian noise 20 dB below its loudness (root mean square), and so on
mixed-N      N of the clip's frames are averages of themselves and of frames of another clip; the sound is its own

The paper gives the range of both (20 to 40 dB; 0 to 4 frames), not how frames are mixed. An average changes every
network's input; frames that were wholly replaced would ask for masks of what is not in them.
"""

from __future__ import annotations

import numpy as np

from icf_avs.errors import UserError

SNRS = {"snr-20db": 20.0, "snr-30db": 30.0, "snr-40db": 40.0}
MIXED = {f"mixed-{count}": count for count in (1, 2, 3, 4)}


def with_noise(waveform: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """A waveform, float32 [n], plus white noise of the signal-to-noise ratio `snr` in dB; silence stays silence."""
    loudness = np.sqrt(np.mean(np.square(waveform))) if len(waveform) else 0.0
    noise = loudness * 10 ** (-snr / 20) * rng.standard_normal(len(waveform))
    return (waveform + noise).astype(np.float32)


def mix_frames(frames: np.ndarray, others: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """frames, others uint8 [T,H,W,3] -> `frames` with `count` of them, drawn by `rng`, averaged with those of `others`
    at the same place. From the same state of `rng`, a larger count mixes what a smaller one does, and more.

    Raises UserError where the sizes differ.
    """
    if frames.shape[1:] != others.shape[1:]:
        raise UserError(f"frames of {frames.shape[1:3]} cannot be mixed with frames of {others.shape[1:3]}")
    mixed = frames.copy()
    for place in rng.permutation(len(frames))[:count]:
        pair = np.stack([frames[place], others[place % len(others)]])
        mixed[place] = pair.mean(0).round().astype(np.uint8)
    return mixed
