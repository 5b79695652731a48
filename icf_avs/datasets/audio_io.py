"""The sound of a clip from disk: a waveform of any rate and channels, a raw video, or log-mel windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icf_avs.datasets.log_mel import read_log_mel_pickle
from icf_avs.errors import UserError
from icf_avs.media.audio_file import read_audio
from icf_avs.media.audio_windows import RATE, audio_blocks
from icf_avs.media.downmix import to_mono
from icf_avs.media.local_url import check_no_pipe
from icf_avs.media.video_reader import probe

BANDS, STEPS = 64, 96  # of a log-mel window


def read_waveform(path: Path) -> np.ndarray:
    """Mono, float32 [n] at 16 kHz, whatever the file's rate and channels. Raises UserError if it holds no sound."""
    return decode(path)[0]


def decode(path: Path) -> tuple[np.ndarray, int]:
    """A sound file as `read_waveform` gives it, and the rate it is stored at (Hz)."""
    return read_audio(path, RATE, "unpack the set again")


def read_video_audio(path: Path) -> np.ndarray:
    """The sound of a video on the clock of its frames, as `read_waveform`. Raises UserError if it has none."""
    blocks = [*to_mono(audio_blocks(probe(path), RATE), RATE)]
    if not blocks:
        raise UserError(f"{path}: its sound is empty; copy or download it again")
    return np.concatenate(blocks).astype(np.float32)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """float32 [n] in -1..1 -> int16 [n], as WAV files hold it."""
    return np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)


def read_log_mel(path: Path, frames: int) -> np.ndarray:
    """Log-mel windows of a clip of so many frames, float32 [frames, 96, 64].

    `path` is a released pickle, read without executing anything in it, or a .npy file that `icf data prepare` wrote.
    Fewer windows than frames: the last one is repeated, as in the released files. More: the first ones are taken.
    Raises UserError for anything else.
    """
    check_no_pipe(path)
    if path.suffix == ".pkl":
        windows = read_log_mel_pickle(path)
    else:
        try:
            windows = np.lib.format.open_memmap(path, mode="r")  # asks for no more memory than the file has
        except Exception as error:  # its header is a Python literal, which can be broken in many ways
            raise UserError(f"{path}: no log-mel array ({error}); delete it and run `icf data prepare`") from error
    if windows.dtype != np.float32 or windows.ndim != 4 or windows.shape[1:] != (1, STEPS, BANDS) or not len(windows):
        raise UserError(
            f"{path}: want float32 log-mel [n, 1, {STEPS}, {BANDS}], got {windows.dtype} {[*windows.shape]}; "
            "unpack the set again"
        )
    return windows[np.minimum(np.arange(frames), len(windows) - 1), 0]
