"""One clip of a public set: where its files lie, what is known of its classes, and its contents once loaded.

Its sound is a waveform of any rate and channels, a raw video, or log-mel windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from icf_avs.datasets.image_io import CLASS_ID_LAYOUTS, SIZE, Layout, missing_folder, read_frames, read_masks
from icf_avs.datasets.log_mel import read_log_mel_pickle
from icf_avs.errors import UserError
from icf_avs.media.audio_file import read_audio, to_mono
from icf_avs.media.audio_windows import audio_blocks
from icf_avs.media.container import check_no_pipe
from icf_avs.media.video_reader import probe
from icf_avs.types import RATE

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


Audio = Literal["auto", "wav", "log_mel", "video"]


@dataclass(frozen=True)
class LoadedClip:
    """One clip of T frames in memory, 224x224 unless requested otherwise."""

    name: str
    frames: np.ndarray  # uint8 [T, H, W, 3]; [T, 0, 0, 3] where frames were not requested
    masks: np.ndarray  # uint8 [T, H, W], class ids in AVSS and where one's own set has them, else 0 or 1
    labelled: np.ndarray  # bool [T]; masks of unlabelled frames are zeros and mean nothing
    class_ids: np.ndarray | None  # the masks, where they hold class ids
    samples: np.ndarray | None  # float32 [n], 16 kHz mono; None where only log-mel windows were read
    log_mel: np.ndarray | None  # float32 [T, 96, 64], windows 0.96 s apart; None where samples were read

    @property
    def waveform(self) -> np.ndarray:
        """float32 [n], 16 kHz mono. Raises UserError if only log-mel windows were read."""
        if self.samples is None:
            raise UserError(
                f"clip {self.name} has its sound as log-mel windows only, and a waveform is needed; "
                "unpack audio_wav or raw_videos of the set beside them"
            )
        return self.samples

    @property
    def sound(self) -> np.ndarray:
        """The waveform [n], or the log-mel windows [T, 96, 64] where those were read."""
        return self.samples if self.log_mel is None else self.log_mel


@dataclass(frozen=True)
class ClipRecord:
    """Where the files of one clip lie, and what is known of its classes.

    `sounding` and `onscreen` are the classes that sound at some time and the classes that are visible, from
    scenes.csv; without it both are the classes that the set itself or AVSS metadata beside it names, and None where
    neither names any.
    """

    name: str
    split: str
    layout: Layout
    frame_paths: tuple[Path, ...]
    mask_paths: tuple[Path | None, ...]  # None: this frame carries no label
    audio_path: Path
    video_path: Path | None  # None: not there
    sounding: frozenset[str] | None
    onscreen: frozenset[str] | None
    log_mel_stem: Path | None = None  # the file of log-mel windows without its ending; None in AVSS, which has none
    seconds: tuple[frozenset[str], ...] | None = None  # classes that sound in each frame, where scenes.csv says
    complete: bool = False  # whether `onscreen` has everything visible, as from scenes.csv
    form: Audio = "auto"  # of its sound, unless `load` asks for another

    @property
    def log_mel_path(self) -> Path | None:
        """The log-mel windows, of `icf data prepare` (.npy) or as released (.pkl), or None if there are none."""
        if self.log_mel_stem is None:
            return None
        paths = (self.log_mel_stem.with_name(self.log_mel_stem.name + ending) for ending in (".npy", ".pkl"))
        return next((path for path in paths if path.is_file()), None)

    def sources(self) -> list[Audio]:
        """Which forms of its sound are there, the preferred first."""
        there = {"wav": self.audio_path.is_file(), "video": self.video_path, "log_mel": self.log_mel_path}
        return [source for source, path in there.items() if path]

    @property
    def has_waveform(self) -> bool:
        """Whether `load` gives a waveform; False: log-mel windows."""
        form = self.form if self.form != "auto" else next(iter(self.sources()), "wav")
        return form != "log_mel"

    def load(self, size: int | None = SIZE, audio: Audio | None = None, with_frames: bool = True) -> LoadedClip:
        """Read frames, masks and sound.

        size   frames and masks are squashed to size x size, as is usual; None: native size (masks take the size of
               the frames)
        audio  "wav", "video" (of raw_videos) or "log_mel"; "auto": the first of these that is there; None: its `form`
        with_frames  False: frames are not opened; needs a size

        Raises UserError for a missing or unreadable file and for masks with other values than the layout's.
        """
        if with_frames:
            frames = read_frames(self.frame_paths, size)
            shape = frames.shape[1:3]
        elif size is not None:
            frames, shape = np.zeros((len(self.frame_paths), 0, 0, 3), np.uint8), (size, size)
        else:
            raise ValueError("without frames masks have no native size")
        masks = read_masks(self.mask_paths, self.layout, shape)
        samples, log_mel = self._sound(audio or self.form)
        return LoadedClip(
            name=self.name,
            frames=frames,
            masks=masks,
            labelled=np.array([path is not None for path in self.mask_paths]),
            class_ids=masks if self.layout in CLASS_ID_LAYOUTS else None,
            samples=samples,
            log_mel=log_mel,
        )

    def _sound(self, audio: Audio) -> tuple[np.ndarray | None, np.ndarray | None]:
        there = self.sources()
        if audio == "auto":
            audio = there[0] if there else "wav"
        if audio not in there:
            missing = {
                "wav": missing_folder(self.audio_path) if "wav" not in there else None,
                "log_mel": f"{self.log_mel_stem}.pkl" if self.log_mel_stem else "log-mel of the AVSS layout",
                "video": "its video in raw_videos",
            }
            raise UserError(f"no sound of clip {self.name}: {missing[audio]} is missing; unpack the set again")
        if audio == "wav":
            return read_waveform(self.audio_path), None
        if audio == "video":
            return read_video_audio(self.video_path), None
        return None, read_log_mel(self.log_mel_path, len(self.frame_paths))
