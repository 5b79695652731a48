"""One clip of a set on disk: the paths of its files, its known classes, and its contents once loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from icf_avs.datasets.image_io import CLASS_ID_LAYOUTS, SIZE, Layout, missing_folder, read_frames, read_mask
from icf_avs.datasets.log_mel import read_log_mel
from icf_avs.errors import UserError
from icf_avs.media.audio_file import read_audio, to_mono
from icf_avs.media.audio_windows import audio_blocks
from icf_avs.media.video_reader import probe
from icf_avs.types import RATE

Audio = Literal["auto", "wav", "log_mel", "video"]


def read_waveform(path: Path) -> np.ndarray:
    """Read audio as mono, float32 [n] at 16 kHz, from any rate and channels. Raises UserError if there is none."""
    return read_audio(path, RATE, "unpack the set again")[0]


def read_video_audio(path: Path) -> np.ndarray:
    """Read the audio of a video, aligned with its frames; see `read_waveform`. Raises UserError if it has none."""
    blocks = [*to_mono(audio_blocks(probe(path), RATE), RATE)]
    if not blocks:
        raise UserError(f"{path}: its sound is empty; copy or download it again")
    return np.concatenate(blocks).astype(np.float32)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """float32 [n] in -1..1 -> int16 [n], as in WAV files."""
    return np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)


@dataclass(frozen=True)
class LoadedClip:
    """One clip of T frames in memory, 224x224 unless requested otherwise."""

    name: str
    frames: np.ndarray  # uint8 [T, H, W, 3]; [T, 0, 0, 3] where frames were not requested
    masks: np.ndarray  # uint8 [T, H, W], class ids in AVSS and in custom sets with class ids, else 0 or 1
    labelled: np.ndarray  # bool [T]; masks of unlabelled frames are zeros without meaning
    class_ids: np.ndarray | None  # the masks, if they hold class ids
    samples: np.ndarray | None  # float32 [n], 16 kHz mono; None if only log-mel windows were read
    log_mel: np.ndarray | None  # float32 [T, 96, 64], windows 0.96 s apart; None if samples were read

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
    """The paths of the files of one clip, and its known classes.

    `sounding` and `onscreen` are the classes that sound at some time and the classes that are visible, from
    scenes.csv. Without it, both are the classes named by the set or by AVSS metadata beside it, and None if neither
    names any.
    """

    name: str
    split: str
    layout: Layout
    frame_paths: tuple[Path, ...]
    mask_paths: tuple[Path | None, ...]  # None: the frame is unlabelled
    audio_path: Path
    video_path: Path | None  # None: missing
    sounding: frozenset[str] | None
    onscreen: frozenset[str] | None
    log_mel_path: Path | None = None  # of the released windows, which may be missing; None in AVSS, which has none
    sounding_by_second: tuple[frozenset[str], ...] | None = None  # for each frame, if scenes.csv gives it
    complete: bool = False  # True if `onscreen` has everything visible, as in scenes.csv
    audio_form: Audio = "auto"  # unless `load` is given another

    def sources(self) -> list[Audio]:
        """Return the available forms of the audio, in order of preference."""
        log_mel = self.log_mel_path is not None and self.log_mel_path.is_file()
        available = {"wav": self.audio_path.is_file(), "video": self.video_path is not None, "log_mel": log_mel}
        return [source for source, exists in available.items() if exists]

    @property
    def has_waveform(self) -> bool:
        """True if `load` returns a waveform; False: log-mel windows."""
        return self._resolve_form(self.audio_form) != "log_mel"

    def _resolve_form(self, audio: Audio) -> Audio:
        return next(iter(self.sources()), "wav") if audio == "auto" else audio

    def load(self, size: int | None = SIZE, audio: Audio | None = None, with_frames: bool = True) -> LoadedClip:
        """Read frames, masks and audio.

        size   frames and masks are squashed to size x size, as is usual; None: native size (masks are resized to the
               frames)
        audio  "wav", "video" (of raw_videos) or "log_mel"; "auto": the first of these that is available; None:
               `audio_form`
        with_frames  False: frames are not read; needs a size

        Raises UserError for a missing or unreadable file and for mask values that the layout does not have.
        """
        if with_frames:
            frames = read_frames(self.frame_paths, size)
        elif size is not None:
            frames = np.zeros((len(self.frame_paths), 0, 0, 3), np.uint8)
        else:
            raise ValueError("without frames masks have no native size")
        shape = frames.shape[1:3] if with_frames else (size, size)
        empty = np.zeros(shape, np.uint8)
        masks = np.stack([empty if path is None else read_mask(path, self.layout, shape) for path in self.mask_paths])
        labelled = np.array([path is not None for path in self.mask_paths])
        class_ids = masks if self.layout in CLASS_ID_LAYOUTS else None
        return LoadedClip(
            self.name, frames, masks, labelled, class_ids, *self._sound(self._resolve_form(audio or self.audio_form))
        )

    def _sound(self, audio: Audio) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return samples and log-mel windows, one of them None."""
        if audio not in self.sources():
            missing = {
                "wav": missing_folder(self.audio_path) if audio == "wav" else None,
                "log_mel": self.log_mel_path or "log-mel of the AVSS layout",
                "video": "its video in raw_videos",
            }
            raise UserError(f"no sound of clip {self.name}: {missing[audio]} is missing; unpack the set again")
        if audio == "log_mel":
            return None, read_log_mel(self.log_mel_path, len(self.frame_paths))
        return read_waveform(self.audio_path) if audio == "wav" else read_video_audio(self.video_path), None
