"""Independent reader of the released layouts (standard library, NumPy and PIL only)."""

from __future__ import annotations

import csv
import wave
from pathlib import Path

import numpy as np
from PIL import Image


def plain_read(root: Path, split: str) -> dict[str, dict[str, np.ndarray]]:
    """Clip name -> frames [T,H,W,3], masks [labelled,H,W] as stored, samples int16 [n]; FileNotFoundError if absent."""
    clips = {}
    for layout, name, folder in _rows(root, split):
        if layout == "s4":
            frames = [root / f"s4_data/visual_frames/{split}/{folder}/{name}/{name}_{k}.png" for k in range(1, 6)]
            masks = [root / f"s4_data/gt_masks/{split}/{folder}/{name}/{name}_{k}.png" for k in range(1, 6)]
            masks = masks[:1] if split == "train" else masks
            sound = root / f"s4_data/audio_wav/{split}/{folder}/{name}.wav"
        elif layout == "ms3":
            frames = [root / f"ms3_data/visual_frames/{name}/{name}.mp4_{k}.png" for k in range(1, 6)]
            masks = [root / f"ms3_data/gt_masks/{split}/{name}/{name}_{k}.png" for k in range(1, 6)]
            sound = root / f"ms3_data/audio_wav/{split}/{name}.wav"
        else:
            count = 10 if folder == "v2" else 5
            frames = [root / f"{folder}/{name}/frames/{k}.jpg" for k in range(count)]
            masks = [root / f"{folder}/{name}/labels_semantic/{k}.png" for k in range(count)]
            masks = masks[:1] if (folder, split) == ("v1s", "train") else masks
            sound = root / f"{folder}/{name}/audio.wav"
        with wave.open(str(sound)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        clips[name] = {
            "frames": np.stack([np.asarray(Image.open(path).convert("RGB")) for path in frames]),
            "masks": np.stack([np.asarray(Image.open(path)) for path in masks]),
            "samples": samples,
        }
    return clips


def _rows(root: Path, split: str) -> list[tuple[str, str, str]]:
    tables = {
        "s4": ("s4_meta_data.csv", "name", "category"),
        "ms3": ("ms3_meta_data.csv", "video_id", "video_id"),
        "avss": ("metadata.csv", "uid", "label"),
    }
    for layout, (table, name, folder) in tables.items():
        if (root / table).exists():
            with (root / table).open(newline="") as file:
                return [(layout, row[name], row[folder]) for row in csv.DictReader(file) if row["split"] == split]
    raise FileNotFoundError(root)
