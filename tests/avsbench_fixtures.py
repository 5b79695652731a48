"""Write tiny data sets in exactly the layouts of the public ones (PROTOCOLS, layouts on disk).

The writer shares no code with the reader. Each clip has a tone and one object: a disc on a shaded background or
(one_colour) columns of a single-colour frame. Written clips are returned as ground truth.
"""

from __future__ import annotations

import csv
import json
import pickle
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

OWN_SIZE = 192, 120  # width and height of videos of a custom data set
NAMES = ("background", *(f"class-{i:02d}" for i in range(1, 70)), "woman")  # as many as the public 71


@dataclass
class Written:
    """A clip as written to disk."""

    name: str
    split: str
    frames: list[np.ndarray]  # uint8 [H, W, 3]
    masks: list[np.ndarray]  # uint8 [H, W], class id or 0
    samples: np.ndarray  # int16 [n]


def draw(seed: int, second: int, size: tuple[int, int]):
    """Frame (RGB uint8 [H, W, 3]) and mask (bool [H, W]) of an object that moves right with `second`."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    frame = np.stack([x * 150 // width, y * 150 // height, np.full_like(x, 20 * seed % 200)], -1).astype(np.uint8)
    centre, radius = width * (0.25 + 0.05 * second), height * (0.1 + 0.02 * (seed % 5))
    mask = (x - centre) ** 2 + (y - height / 2) ** 2 < radius**2
    frame[mask] = (250, 40 * (seed % 6), 10 * second)
    return frame, mask


def tone(seed: int, seconds: float, rate: int = 16_000) -> np.ndarray:
    """Tone of 300 * (seed + 1) Hz, int16 [n]."""
    time = np.arange(round(seconds * rate)) / rate
    return np.round(9000 * np.sin(2 * np.pi * 300 * (seed + 1) * time)).astype(np.int16)


def log_mel_steps(signal: np.ndarray) -> np.ndarray:
    """The audio front end of PROTOCOLS in NumPy: [n] -> float64 [steps of 10 ms, 64]."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    spectrum = np.abs(np.fft.rfft([signal[at : at + 400] * hann for at in range(0, len(signal) - 399, 160)], 512))
    mel = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    edges = np.linspace(*(1127 * np.log(1 + np.array([125, 7500]) / 700)), 66)
    weights = [1 - np.abs(mel - middle) / (edges[1] - edges[0]) for middle in edges[1:-1]]
    return np.log(spectrum @ np.maximum(0, weights).T + 0.01)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """int16 [n] -> float32 [windows, 1, 96, 64]."""
    steps = log_mel_steps(samples / 32768)
    return steps[: len(steps) // 96 * 96].reshape(-1, 1, 96, 64).astype(np.float32)


def write_pickle(path: Path, samples: np.ndarray, windows: int = 5) -> None:
    """Write log-mel windows as released: a pickled tensor that requires grad, padded by repeating the last window."""
    features = log_mel(samples)[:windows]
    features = np.concatenate([features, np.repeat(features[-1:], windows - len(features), 0)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump(torch.tensor(features[:, 0], requires_grad=True)[:, None].float(), file)


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> None:
    """samples: int16 [n] or [n, channels]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def write_picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def write_table(path: Path, header: str, rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def read_table(path: Path | str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_files(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Contents of the files of a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


def plain(index: int, second: int, size: tuple[int, int]):
    """Single-colour frame and its object mask: the columns below 40 * (index + 1) of 224."""
    width, height = size
    mask = np.broadcast_to(np.arange(width) < 40 * (index + 1) * width // 224, (height, width))
    return np.full((height, width, 3), (10 * second, 50 * index, 99), np.uint8), mask


def _content(seed: int, name: str, split: str, seconds: int, size, one_colour: bool, value: int) -> Written:
    drawn = [(plain if one_colour else draw)(seed, second, size) for second in range(seconds)]
    masks = [np.uint8(value) * mask for _, mask in drawn]
    samples = tone((2 * seed - 1) / 3 if one_colour else seed, seconds)
    return Written(name, split, [frame for frame, _ in drawn], masks, samples)


def _write_binary(data: Path, inner: str, frames: str, clip: Written, labelled: int) -> Written:
    """Write a clip of S4 or MS3. inner: folder of its files; frames: path of the frames up to their number."""
    for k in range(5):
        write_picture(data / f"visual_frames/{frames}{k + 1}.png", clip.frames[k])
        if k < labelled:
            mask = data / f"gt_masks/{inner}/{clip.name}/{clip.name}_{k + 1}.png"
            write_picture(mask, clip.masks[k] * np.uint8(255))
    write_pickle(data / f"audio_log_mel/{inner}/{clip.name}.pkl", clip.samples)
    write_wav(data / f"audio_wav/{inner}/{clip.name}.wav", clip.samples)
    return clip


def write_s4(root: Path, clips: list[tuple[str, int, str, str]], one_colour: bool = False) -> list[Written]:
    """clips: rows of the table (name, start, category, split)."""
    write_table(root / "s4_meta_data.csv", "name,start,category,split", clips)
    written = []
    for seed, (name, _, category, split) in enumerate(clips):
        clip, inner = _content(seed, name, split, 5, (224, 224), one_colour, 1), f"{split}/{category}"
        labelled = 1 if split == "train" else 5
        written.append(_write_binary(root / "s4_data", inner, f"{inner}/{name}/{name}_", clip, labelled))
    return written


def write_ms3(root: Path, clips: list[tuple[str, str]], one_colour: bool = False) -> list[Written]:
    """clips: rows of the table (video_id, split). The last mask of each clip is empty."""
    write_table(root / "ms3_meta_data.csv", "video_id,split", clips)
    written = []
    for seed, (name, split) in enumerate(clips):
        clip = _content(seed, name, split, 5, (224, 224), one_colour, 1)
        clip.masks[4][:] = 0
        written.append(_write_binary(root / "ms3_data", split, f"{name}/{name}.mp4_", clip, 5))
    return written


def write_avss(
    root: Path, clips: list[tuple], names: tuple[str, ...] = NAMES, first: int = 1, one_colour: bool = False
) -> list[Written]:
    """clips: rows of the table (vid, uid, s_min, s_sec, a_obj, split, label); the first name in a_obj is the class.

    first: id of background in label2idx.json, 1 as redistributed. Frames have a native size, 256x144.
    """
    write_table(root / "metadata.csv", "vid,uid,s_min,s_sec,a_obj,split,label", clips)
    (root / "label2idx.json").write_text(json.dumps({name: first + i for i, name in enumerate(names)}))
    written = []
    for seed, (_, uid, _, _, a_obj, split, label) in enumerate(clips):
        value = names.index(a_obj.split("_")[0])
        clip = _content(seed, uid, split, 10 if label == "v2" else 5, (256, 144), one_colour, value)
        for k, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
            write_picture(root / f"{label}/{uid}/frames/{k}.jpg", frame)
            if k == 0 or (label, split) != ("v1s", "train"):
                for labels in ("semantic", "rgb"):  # the colours of the second are not read
                    write_picture(root / f"{label}/{uid}/labels_{labels}/{k}.png", mask)
        write_wav(root / f"{label}/{uid}/audio.wav", clip.samples)
        written.append(clip)
    return written


def write_left_third(path: Path, value: int, size: tuple[int, int] = OWN_SIZE) -> None:
    """Write a mask of a custom data set with its left third marked."""
    marked = np.zeros(size[::-1], np.uint8)
    marked[:, : size[0] // 3] = value
    write_picture(path, marked)
