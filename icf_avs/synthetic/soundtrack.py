"""Sound of a scene: each sounding stamp's own track, their mixture with noise, and which stamp sounds when.

Whether a stamp sounds in an interval is measured on its own track, never read from the plan.
"""

from __future__ import annotations

import numpy as np

from icf_avs.media.audio_windows import cut_windows
from icf_avs.synthetic.audio_augment import (
    LONGEST_TAIL,
    PLAIN,
    AudioAugmentConfig,
    ambient_noise,
    apply_room_and_mic,
    degrade,
    gain_envelope,
    mic_response,
)
from icf_avs.synthetic.scene import Scene
from icf_avs.synthetic.sounds import NOISES, SoundBank, fast_length, frame_rms, noise, tilt_and_reverb
from icf_avs.types import RATE, ClipSpec

_QUIET_DB = -30.0  # a window this far below the track's loudest one counts as silent
_QUIET_FRAME_DB = -35.0  # the same for the frames of 25 ms inside a window
_SHARE = 0.15  # a window with fewer sounding frames than this is a sliver, not a sound
_FRAME = 400  # samples, 25 ms
_FADE = 0.02  # seconds


def render_tracks(
    scene: Scene, bank: SoundBank, variation: int = 0, style: AudioAugmentConfig = PLAIN
) -> tuple[np.ndarray, np.ndarray]:
    """The mixture, float32 [N], peak <= 0.99, and the track of each stamp in it, float32 [stamps, N].

    `variation` draws other recordings, speeds, offsets, levels and noise; the schedule stays. `style` says how far from
    its recordings a mixture may be. Two stamps of one class share a track: the audio cannot tell them apart.
    Deterministic.
    """
    rng = np.random.default_rng([*scene.key, 1 + variation])
    varied = style.augment_prob > 0 and rng.random() < style.augment_prob
    samples = scene.seconds * RATE
    time = np.arange(samples, dtype=np.float32) / RATE
    size = fast_length(samples + round(LONGEST_TAIL * RATE))
    mic = mic_response(style, rng) if varied else None
    tracks = np.zeros((len(scene.stamps), samples), dtype=np.float32)
    levels = -rng.uniform(0, 9, len(scene.stamps))
    loudest = max((levels[i] for i, placed in enumerate(scene.stamps) if placed.spans), default=0.0)
    voices: dict[str, list[int]] = {}
    for index, placed in enumerate(scene.stamps):
        if placed.spans:
            voices.setdefault(placed.class_name, []).append(index)
    for class_name, stamps in voices.items():
        ramps = [np.minimum(time - start, end - time) / _FADE + 0.5 for start, end in scene.stamps[stamps[0]].spans]
        gate = np.clip(np.max(ramps, axis=0), 0, 1)
        if mic is not None:
            track = bank.loop_augmented(class_name, samples, style, rng) * gain_envelope(samples, style, rng) * gate
            track = apply_room_and_mic(track, mic, size, style, rng)
        else:
            track = bank.loop_recording(class_name, samples, rng) * gate
            track = tilt_and_reverb(track, rng, reverb=rng.random() < 0.4)
        level = np.sqrt(np.mean(np.square(track[track != 0]))) if track.any() else 1.0
        tracks[stamps] = track * (10 ** ((levels[stamps[0]] - loudest) / 20) / level / len(stamps))
    mixture = tracks.sum(axis=0)
    if mic is not None:
        gain = 10 ** (rng.uniform(*style.level_db) / 20)
        hiss = ambient_noise(samples, mic, size, style, rng) * np.float32(10 ** (-rng.uniform(*style.noise_db) / 20))
    else:
        gain = 10 ** (rng.uniform(-32, -14) / 20)
        hiss = noise(NOISES[rng.integers(len(NOISES))], samples, rng) * 10 ** (-rng.uniform(10, 45) / 20)
    if rng.random() < 0.85:
        mixture = mixture + hiss
    if mic is not None:
        mixture = degrade(mixture, style, rng)
    gain = min(gain, 0.99 / max(float(np.abs(mixture).max()), 1e-6))
    return (mixture * gain).astype(np.float32), (tracks * gain).astype(np.float32)


def track_activity(tracks: np.ndarray, spec: ClipSpec) -> np.ndarray:
    """Which track sounds in which interval: tracks [n, N] -> bool [n, T].

    A track sounds when the RMS of the interval's window is above -30 dB of the track's loudest window and at least
    15 % of the window's frames of 25 ms are above -35 dB of its loudest frame.
    """
    active = np.zeros((len(tracks), spec.frames), dtype=bool)
    for index, track in enumerate(tracks):
        if not track.any():
            continue
        cut = cut_windows(track, spec, spec.frames)
        rms = np.sqrt(np.mean(np.square(cut), axis=1))
        frames = np.stack([frame_rms(window, _FRAME) for window in cut])
        share = np.mean(frames > frames.max() * 10 ** (_QUIET_FRAME_DB / 20), axis=1)
        active[index] = (rms > rms.max() * 10 ** (_QUIET_DB / 20)) & (share >= _SHARE)
    return active


def render_audio(
    scene: Scene, bank: SoundBank, variation: int = 0, style: AudioAugmentConfig = PLAIN
) -> tuple[np.ndarray, np.ndarray]:
    """The mixture float32 [N] at 16 kHz and which stamp sounds in which second, bool [stamps, T], measured."""
    waveform, tracks = render_tracks(scene, bank, variation, style)
    return waveform, track_activity(tracks, ClipSpec(frames=scene.seconds))
