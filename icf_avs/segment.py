"""The main job: any video in, the pixels of what sounds out.

Mask i stands for [i/fps, (i+1)/fps) seconds; picture and sound are taken by ClipSpec. Clips of `spec.frames`
masks go through the model one after the other, so a long video needs no more memory than a short one.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from icf_avs.contracts import ClipSpec, Prediction
from icf_avs.data.audio_windows import AudioWindows
from icf_avs.data.media import MediaInfo, probe, read_frames
from icf_avs.errors import UserError
from icf_avs.output import coco
from icf_avs.output.coco import FrameMask
from icf_avs.output.film import write_film
from icf_avs.output.folder import replaced_when_complete, result_folder
from icf_avs.output.overlay import Overlay
from icf_avs.output.sheet import Tile, caption, contact_sheet, tile_numbers

HEARD_WORDS, HEARD_PROBABILITY = 5, 0.2  # which words are told: at most so many, at least so likely
_SLIVER = 0.1  # a rest of less than this share of an interval belongs to the last whole one
_PREVIEW = 320  # long side of a picture on the contact sheet
_MAX_FPS = 60.0


class Model(Protocol):
    """What segmentation needs of a model."""

    spec: ClipSpec
    classes: tuple[str, ...]

    def predict(self, frames: torch.Tensor, waves: torch.Tensor) -> Prediction:
        """frames uint8 [T, S, S, 3], waves float32 [T, window], T at most spec.frames."""


@dataclass(frozen=True)
class Segmentation:
    """All masks of a video. They are held as run lengths and unpacked when asked for."""

    video: MediaInfo
    spec: ClipSpec
    frames: tuple[FrameMask, ...]
    folder: Path | None  # where the results lie, None if nothing was written

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def times(self) -> np.ndarray:
        """[n] seconds, the middle of each interval."""
        return np.array([frame.time for frame in self.frames])

    @property
    def masks(self) -> np.ndarray:
        """Bool [n, H, W]; for a long video go through `frames` instead."""
        return np.stack([frame.mask for frame in self.frames])

    @property
    def scores(self) -> np.ndarray:
        """[n] mean probability inside each mask."""
        return np.array([frame.score for frame in self.frames])

    @property
    def areas(self) -> np.ndarray:
        """[n] share of the picture."""
        return np.array([frame.area for frame in self.frames])

    @property
    def heard(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """Of each frame the likeliest words with their probabilities."""
        return tuple(frame.heard for frame in self.frames)


def mask_count(duration: float, fps: float) -> int:
    """How many masks a video gets: one an interval, where a rest below a tenth of one is no interval of its own."""
    return max(1, math.ceil(duration * fps - _SLIVER))


def stream_masks(
    model: Model, info: MediaInfo, fps: float = 1.0, threshold: float = 0.5
) -> Iterator[tuple[FrameMask, np.ndarray]]:
    """Masks in order, each with a small copy of its picture (RGB uint8, long side at most 320).

    Raises UserError for a video without sound or one that breaks in the middle, and for an unusable setting.
    """
    _check(fps, threshold)
    spec = replace(model.spec, fps=fps)
    count = mask_count(info.duration, fps)
    windows = AudioWindows(info, spec.sample_rate)
    clip: list[_Shot] = []
    for index, (time, picture) in enumerate(read_frames(info, (spec.frame_time(i) for i in range(count)))):
        image = Image.fromarray(picture)
        squashed = image.resize((spec.image_size, spec.image_size), Image.Resampling.BILINEAR)
        image.thumbnail((_PREVIEW, _PREVIEW))
        wave = windows.read(spec.window_start(index), spec.window)
        clip.append(_Shot(index, min(time, info.duration), np.asarray(squashed), wave, np.asarray(image)))
        if len(clip) == spec.frames or index == count - 1:
            prediction = _predict(model, clip)
            for shot, logits, presence in zip(clip, prediction.logits, prediction.heard, strict=True):
                end = info.duration if shot.index == count - 1 else (shot.index + 1) / fps
                heard = _heard(presence, prediction.words)
                yield _frame_mask(shot, shot.index / fps, end, logits, heard, info, threshold), shot.preview
            clip = []


@dataclass(frozen=True)
class _Shot:
    """What the model is given for one mask; the picture itself is let go at once."""

    index: int
    time: float
    squashed: np.ndarray  # uint8 [S, S, 3]
    wave: np.ndarray  # float32 [window]
    preview: np.ndarray  # uint8 [h, w, 3]


def _check(fps: float, threshold: float) -> None:
    if not (math.isfinite(fps) and 0 < fps <= _MAX_FPS):
        raise UserError(f"fps is {fps}; give a number of masks a second above 0, at most {_MAX_FPS:g}")
    if not 0 < threshold < 1:
        raise UserError(f"threshold is {threshold}; give a probability between 0 and 1")


def _predict(model: Model, clip: list[_Shot]) -> Prediction:
    frames = torch.from_numpy(np.stack([shot.squashed for shot in clip]))
    waves = torch.from_numpy(np.stack([shot.wave for shot in clip]))
    with torch.inference_mode():
        return model.predict(frames, waves)


def _frame_mask(
    shot: _Shot, start: float, end: float, logits: torch.Tensor, heard: tuple, info: MediaInfo, threshold: float
) -> FrameMask:
    size = info.height, info.width
    native = F.interpolate(logits[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    probability = native.sigmoid()
    mask = probability > threshold
    return FrameMask(
        index=shot.index,
        start=start,
        end=end,
        picture_time=shot.time,
        area=mask.float().mean().item(),
        score=probability[mask].mean().item() if mask.any() else 0.0,
        heard=heard,
        run_lengths=coco.encode(mask.cpu().numpy()),
    )


def _heard(presence: torch.Tensor, words: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    values, order = presence.float().topk(min(HEARD_WORDS, len(words)))
    told = zip(values.tolist(), order.tolist(), strict=True)
    return tuple((words[i], value) for value, i in told if value >= HEARD_PROBABILITY)


def segment_video(
    model: Model,
    path: str | Path,
    out: str | Path | None = None,
    fps: float = 1.0,
    threshold: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    *,
    checkpoint: str = "",
    taken: Iterable[Path] = (),
) -> Segmentation:
    """Segment a video at `fps` masks a second; with `out`, write out/STEM/ (overlay.mp4, masks/, ...) as well.

    progress(done, total) is called as the work goes on; `checkpoint` is the name written to segmentation.json;
    `taken` are result folders of the same run that must not be replaced. Results appear complete or not at all.
    Raises UserError for whatever is wrong with the video, the settings or the output folder.
    """
    _check(fps, threshold)
    info = probe(path)
    count = mask_count(info.duration, fps)
    if out is None:
        frames = []
        for frame, _ in stream_masks(model, info, fps, threshold):
            frames.append(frame)
            _tell(progress, len(frames), count)
        return Segmentation(info, replace(model.spec, fps=fps), tuple(frames), None)

    folder = result_folder(Path(out), info.path, set(taken))
    with replaced_when_complete(folder) as new:
        (new / "masks").mkdir()
        frames, tiles, shown = [], [], tile_numbers(count)
        for frame, preview in stream_masks(model, info, fps, threshold):
            frames.append(frame)
            mask = Image.fromarray(frame.mask)
            mask.convert("L").save(new / "masks" / f"{frame.index:06d}.png")
            if frame.index in shown:
                tiles.append(_tile(frame, preview, mask))
            _tell(progress, len(frames), 2 * count)
        spec = replace(model.spec, fps=fps)
        text = json.dumps(coco.document(info, spec, checkpoint, frames), indent=1, ensure_ascii=False)
        (new / "segmentation.json").write_text(text + "\n", encoding="utf-8")
        contact_sheet(tiles).save(new / "sheet.png")
        write_film(
            info,
            new / "overlay.mp4",
            interval_at=lambda time: min(int(time * fps + 1e-6), count - 1),
            mask_of=lambda index: frames[index].mask,
            progress=lambda index: _tell(progress, count + index + 1, 2 * count),
        )
    return Segmentation(info, spec, tuple(frames), folder)


def _tell(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _tile(frame: FrameMask, preview: np.ndarray, mask: Image.Image) -> Tile:
    height, width = preview.shape[:2]
    picture = preview.copy()
    Overlay(np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))).draw_rgb(picture)
    return Tile(picture, caption(frame.picture_time, frame.heard, width))


class Segmenter:
    """A model with its name: what `icf_avs.load` returns."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name

    def segment(
        self, path: str | Path, out: str | Path | None = None, fps: float = 1.0, threshold: float = 0.5
    ) -> Segmentation:
        """Segment a video at `fps` masks a second; see `segment_video`. With `out`, files are written as well."""
        return segment_video(self.model, path, out, fps, threshold, checkpoint=self.name)


def segment_command(videos: list[Path], out: Path, checkpoint: str | None, fps: float, threshold: float) -> None:
    """Segment videos from the command line: a progress bar while it runs, one line a video when it is done.

    A video that fails gets its line on standard error and the others go on; then UserError.
    """
    from rich.console import Console
    from rich.progress import Progress

    import icf_avs

    segmenter = icf_avs.load(checkpoint)
    taken: list[Path] = []
    failures: list[UserError] = []
    for path in videos:
        try:
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task(path.name, total=None)
                result = segment_video(
                    segmenter.model, path, out, fps, threshold,
                    progress=lambda done, total, bar=bar, task=task: bar.update(task, completed=done, total=total),
                    checkpoint=segmenter.name, taken=taken,
                )  # fmt: skip
        except UserError as error:
            failures.append(error)
            if len(videos) > 1:
                print(error, file=sys.stderr)
            continue
        taken.append(result.folder)
        marked = int(np.count_nonzero(result.areas))
        print(f"{path}: {len(result)} masks, {marked} with something that sounds -> {result.folder}{os.sep}")
    if len(videos) == 1 and failures:
        raise failures[0]
    if failures:
        raise UserError(f"{len(failures)} of {len(videos)} videos failed; their lines above say why")
