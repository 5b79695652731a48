"""Clips of the public sets as tensors, and batches of them: partial labels, 5 and 10 frames, class ids where known.

On a CPU a frozen encoder costs more than all trained parts, and its features of a frame never change. They are cached
for all epochs in a file without a name, which disappears with the process. So the cache cannot be stale, and a resumed
run reads the same numbers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from icf_avs.datasets.image_io import read_frames
from icf_avs.datasets.video_clip import Audio, ClipRecord, LoadedClip
from icf_avs.errors import UserError
from icf_avs.media.audio_windows import clip_windows
from icf_avs.types import MASK_STRIDE, Batch, ClipSpec

# Preferred first.
AUDIO_FOLDERS: dict[Audio, str] = {"wav": "audio_wav", "video": "raw_videos", "log_mel": "audio_log_mel"}


class ClipDataset(Dataset[Batch]):
    """Clips in the order of `records`. An item is one clip: a Batch without its first dimension, `pyramid` empty."""

    def __init__(
        self, records: Sequence[ClipRecord], names: Sequence[str], spec: ClipSpec, audio: Audio = "auto"
    ) -> None:
        """names  class names, id 1 first (`layouts.class_names` of the set); may be empty
        spec   size of the frames, and the windows cut from waveforms; its number of frames is ignored
        audio  form of the audio; "auto": the first of wav, video and log_mel that every clip has

        Raises UserError if a clip lacks that form, or the clips have none in common.
        """
        if spec.image_size % MASK_STRIDE:
            raise ValueError(f"image_size {spec.image_size} is not a multiple of the masks' stride {MASK_STRIDE}")
        self.records, self.names, self.spec = records, tuple(names), spec
        self.audio = common_audio(records, AUDIO_FOLDERS if audio == "auto" else (audio,))
        self.complete = all(record.complete for record in records)
        self._ids = {name: number for number, name in enumerate(self.names, 1)}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Batch:
        return self.clip(index)

    def clip(self, index: int, with_frames: bool = True) -> Batch:
        """Load one clip, with or without its frames. Raises UserError as `ClipRecord.load`, and for a class id
        without a name.
        """
        record = self.records[index]
        clip = record.load(self.spec.image_size, self.audio, with_frames)
        frames = len(clip.frames)
        classes = self._classes_by_frame(record, clip)
        values = torch.from_numpy(clip.masks)
        if clip.class_ids is None or not self.names:
            only = torch.tensor([ids[0] if len(ids) == 1 else 0 for ids in classes])
            class_map = (values > 0).long() * only[:, None, None]
        else:
            class_map = values.long()
        sounding = torch.zeros(frames, len(self.names), dtype=torch.bool)
        for frame, ids in enumerate(classes):
            sounding[frame, [number - 1 for number in ids]] = True
        waveforms = clip_windows(clip.waveform, self.spec, frames) if clip.log_mel is None else np.zeros((frames, 0))
        return Batch(
            pyramid=[],
            waveforms=torch.from_numpy(waveforms).float(),
            masks=F.avg_pool2d((values > 0).float(), MASK_STRIDE),
            class_map=class_map,
            labelled=torch.from_numpy(clip.labelled),
            valid=torch.ones(frames, dtype=torch.bool),
            sounding=sounding,
            onscreen=torch.tensor([name in record.onscreen for name in self.names]).bool() if self.complete else None,
            frames=torch.from_numpy(clip.frames) if with_frames else None,
            log_mel=None if clip.log_mel is None else torch.from_numpy(clip.log_mel),
        )

    def _classes_by_frame(self, record: ClipRecord, clip: LoadedClip) -> list[list[int]]:
        """Return the ids of the classes that sound in each frame.

        scenes.csv gives them by second, if present. Else a labelled frame has the classes of its class ids or, in a
        binary layout, all classes of the clip if its mask is not empty; an unlabelled one has all classes of the clip.
        """
        if record.sounding_by_second is not None and len(record.sounding_by_second) == len(clip.frames):
            return [self._ids_of(names) for names in record.sounding_by_second]
        clip_ids = self._ids_of(record.sounding or ())
        ids_by_frame = []
        for mask, labelled in zip(clip.masks, clip.labelled, strict=True):
            if not labelled:
                ids_by_frame.append(clip_ids)
            elif clip.class_ids is None:
                ids_by_frame.append(clip_ids if mask.any() else [])
            else:
                ids = [int(number) for number in np.unique(mask) if number]
                if self.names and ids and ids[-1] > len(self.names):
                    table = "label2idx.json" if record.layout == "AVSS" else "classes.txt"
                    raise UserError(
                        f"clip {record.name}: class id {ids[-1]} is out of range, {table} names 0 to "
                        f"{len(self.names)}; take both from the same set"
                    )
                ids_by_frame.append(ids if self.names else [])
        return ids_by_frame

    def _ids_of(self, names: Collection[str]) -> list[int]:
        """Return the ids of these classes; none if one of them has no id, since what sounds is then unknown."""
        return sorted(self._ids[name] for name in names) if self._ids.keys() >= set(names) else []


def common_audio(records: Sequence[ClipRecord], forms: Collection[Audio] = tuple(AUDIO_FOLDERS)) -> Audio:
    """Return the first of `forms` that every clip has. Raises UserError if there is none."""
    common = list(forms)
    for record in records:
        available = record.sources()
        forms, common = common, [form for form in common if form in available]
        if not common:
            folders = " or ".join(AUDIO_FOLDERS[form] for form in forms)
            raise UserError(
                f"clip {record.name} has no {' or '.join(forms)}, asked for or found with the clips before it, but "
                f"{' and '.join(available) or 'no sound'}; unpack all of {folders}"
            )
    return common[0]


def collate(clips: Sequence[Batch], frames: int | None = None) -> Batch:
    """Join clips of any length. Shorter ones are padded at the end with blank frames, neither valid nor labelled.

    clips: items of ClipDataset; frames: length of the batch, at least that of the longest clip (None: the same).
    """
    frames = frames or max(len(clip.valid) for clip in clips)

    def padded(values: Sequence[Tensor]) -> Tensor:
        longest = values[0].new_zeros(frames, *values[0].shape[1:])
        return pad_sequence([longest, *values], batch_first=True)[1:]

    parts = {}
    for name in ("waveforms", "masks", "class_map", "labelled", "valid", "sounding", "frames", "log_mel"):
        values = [getattr(clip, name) for clip in clips]
        parts[name] = None if any(value is None for value in values) else padded(values)
    onscreen = [clip.onscreen for clip in clips]
    return Batch(
        pyramid=[padded(levels) for levels in zip(*(clip.pyramid for clip in clips), strict=True)],
        onscreen=None if any(row is None for row in onscreen) else torch.stack(onscreen),
        **parts,
    )


MIN_FREE_BYTES = 2**30  # bytes of disk space that stay free


class FrameFeatures:
    """The pyramids of all clips of a split, each encoded on first request."""

    def __init__(self, records: Sequence[ClipRecord], encoder: nn.Module, size: int, folder: Path) -> None:
        """encoder: frozen, frames uint8 [N,S,S,3] -> levels; size: S, pixels; folder: that of the cache file.

        Raises OSError if the disk of `folder` has too little space.
        """
        self.records, self.encoder, self.size = records, encoder, size
        self._shapes = [
            (channels, -(-size // stride), -(-size // stride))
            for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
        ]
        self._first_row = list(accumulate((len(record.frame_paths) for record in records), initial=0))
        numbers = sum(int(np.prod(shape)) for shape in self._shapes)
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < 2 * numbers * self._first_row[-1] + MIN_FREE_BYTES:
            raise OSError(f"no room for {self._first_row[-1]} pyramids in {folder}")
        with tempfile.TemporaryFile(dir=folder) as file:  # the memory map outlives the file object
            if hasattr(os, "posix_fallocate"):  # a disk that fills later would end the process with a bus error
                os.posix_fallocate(file.fileno(), 0, 2 * numbers * self._first_row[-1])
            self._rows = np.memmap(file, np.float16, "w+", shape=(self._first_row[-1], numbers))
        self._is_encoded = np.zeros(len(records), bool)

    def __call__(self, index: int) -> list[Tensor]:
        """Return levels [T,c,h,w] float32 of clip `index`, rounded to float16 also on the first request."""
        rows = self._rows[self._first_row[index] : self._first_row[index + 1]]
        if not self._is_encoded[index]:
            frames = torch.from_numpy(read_frames(self.records[index].frame_paths, self.size))
            with torch.inference_mode():
                rows[:] = torch.cat([level.flatten(1) for level in self.encoder(frames)], 1).half().numpy()
            self._is_encoded[index] = True
        values = torch.from_numpy(rows.astype(np.float32))
        parts = values.split([int(np.prod(shape)) for shape in self._shapes], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)]
