"""The main job: any video in, the pixels of what sounds out, with the files that show them; and `icf segment`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from av.error import FFmpegError
from PIL import Image

from icf_avs.atomic_io import being_written, put_in_place
from icf_avs.errors import UserError
from icf_avs.inference.predictor import MaskPredictor, Predictor
from icf_avs.inference.streaming import check_settings, stream_masks
from icf_avs.media.audio_windows import AudioSource, mask_count
from icf_avs.media.frame_tee import FrameTee
from icf_avs.media.video_reader import probe
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.output.class_overlay import ClassOverlay, indexed
from icf_avs.output.contact_sheet import classes_of, contact_sheet, frame_tile, tile_numbers
from icf_avs.output.overlay import Overlay
from icf_avs.output.result_file import document, result_folder
from icf_avs.output.video_writer import WriterThread, write_video
from icf_avs.provenance import Source
from icf_avs.results import FrameMask, Segmentation

_PNG: dict[str, Any] = {
    "compress_level": 1,
    "compress_type": 3,
}  # run lengths: of masks, nothing else makes much less of them


def segment_video(
    predictor: MaskPredictor,
    path: str | Path,
    out: str | Path | None = None,
    fps: float = 1.0,
    threshold: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    *,
    semantic: bool = False,
    audio_track: int | None = None,
    checkpoint: str = "",
    reserved_dirs: Iterable[Path] = (),
    sound: AudioSource | None = None,
    private: bool = False,
) -> Segmentation:
    """Segment a video at `fps` masks a second; with `out`, write out/STEM/ (overlay.mp4, masks/, ...) as well.

    `semantic` asks for the class of each segmented pixel: classes/ is added, the overlay and the sheet are in the
    colours of the classes. `audio_track` (from 1) chooses among several; by default the one that the file marks as
    default. progress(done, total) is called as the work goes on; `checkpoint` is the name written to
    segmentation.json; `reserved_dirs` are result folders of the same run that must not be replaced; `sound` is
    taken, by the model and in the overlay, in place of the video's own; `private` leaves the folder of the video
    out of segmentation.json. Results appear complete or not at all. Raises UserError for whatever is wrong with the
    video, the settings or the output folder, and for a model without a class head if `semantic`.
    """
    check_settings(fps, threshold)
    if semantic:
        check_class_head(predictor, checkpoint)
    info = probe(path, audio_track)
    count = mask_count(info.duration, fps)
    made, missing = _made_with(predictor, checkpoint, threshold), predictor.missing
    if out is None:
        frames = []
        for frame, _ in stream_masks(predictor, info, fps, threshold, semantic, sound):
            frames.append(frame)
            _report(progress, len(frames), count)
        info.repaired.check_growth(info.path)
        return Segmentation(info, replace(predictor.spec, fps=fps), tuple(frames), None, missing)

    source, reserved_dirs = Source(info.path), set(reserved_dirs)

    def place() -> Path:
        return result_folder(Path(out), source, reserved_dirs)

    with being_written(place(), (FFmpegError,)) as new:
        video = source.content if private else {"path": source.place, **source.content}
        for name in ("masks", "classes") if semantic else ("masks",):
            (new / name).mkdir()
        tiles, shown = [], tile_numbers(count)
        tee = FrameTee(info, predictor.spec.frames / fps)

        def write(frame_of: Callable[[int], FrameMask], drawn: Callable[[int], None]) -> None:
            def overlay_of(frame: FrameMask) -> Overlay | ClassOverlay:
                return ClassOverlay(frame.class_ids, frame.class_names) if semantic else Overlay(frame.mask)

            def interval_at(time: float) -> int:
                return min(int(time * fps + 1e-6), count - 1)

            with tee.behind() as frames:
                write_video(info, new / "overlay.mp4", interval_at, frame_of, drawn, overlay_of, sound, frames)

        masks = stream_masks(predictor, info, fps, threshold, semantic, sound, shown, tee)
        with tee, WriterThread(write) as writer, closing(masks):  # closed first: then the writer waits for no more
            frames = writer.frames
            for frame, preview in masks:
                writer.add(frame)
                (new / "masks" / f"{frame.index:06d}.png").write_bytes(_png(frame))
                if semantic:
                    indexed(frame.class_ids).save(new / "classes" / f"{frame.index:06d}.png", **_PNG)
                if preview is not None:
                    tiles.append(frame_tile(frame, preview))
                _report(progress, len(frames) + writer.drawn, 2 * count)
            contact_sheet(tiles, classes_of(frames[index] for index in sorted(shown))).save(new / "sheet.png")
            writer.finish(lambda: _report(progress, count + writer.drawn, 2 * count))
        info.repaired.check_growth(info.path)
        spec = replace(predictor.spec, fps=fps)
        content = document(info, spec, checkpoint, frames, video, made)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (new / "segmentation.json").write_text(text + "\n", encoding="utf-8")
        _report(progress, 2 * count, 2 * count)
        folder = put_in_place(new, place)
    return Segmentation(info, spec, tuple(frames), folder, missing)


def _made_with(predictor: MaskPredictor, checkpoint: str, threshold: float) -> dict[str, Any]:
    """The model and its settings, as segmentation.json has them; `checkpoint` is its name."""
    words = predictor.only_words
    return {
        "checkpoint": {"name": checkpoint, "sha256": predictor.digest},
        "encoders": dict(predictor.encoders),
        "threshold": threshold,
        **({"words": list(words)} if words is not None else {}),
        "without": [part._asdict() for part in predictor.missing],
    }


def _png(frame: FrameMask) -> bytes:
    """The mask as a grey image, 0 or 255; one that is empty as it was made last."""
    return _drawn(frame.mask) if frame.area else _black(*frame.run_lengths["size"])


@lru_cache(maxsize=1)
def _black(height: int, width: int) -> bytes:
    return _drawn(np.zeros((height, width), bool))


def _drawn(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask.view(np.uint8) * np.uint8(255)).save(file, "PNG", **_PNG)
    return file.getvalue()


def check_class_head(predictor: MaskPredictor, name: str) -> None:
    """Raise UserError unless the model of that name has a class head."""
    if not predictor.semantic:
        raise UserError(
            f"{name or 'the model'} was trained without a class head; leave --semantic (semantic=True) out, or give a "
            "checkpoint that was trained with one (ModelConfig semantic=True)"
        )


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


class Segmenter:
    """A predictor with the name of its checkpoint: what `icf_avs.load` returns."""

    def __init__(self, predictor: MaskPredictor, name: str) -> None:
        self.predictor, self.name = predictor, name

    @property
    def model(self) -> SegmentationModel:
        """The model that the checkpoint holds."""
        return cast(Predictor, self.predictor).model

    def segment(
        self,
        path: str | Path,
        out: str | Path | None = None,
        fps: float = 1.0,
        threshold: float = 0.5,
        semantic: bool = False,
        audio_track: int | None = None,
    ) -> Segmentation:
        """Segment a video at `fps` masks a second; see `segment_video`. With `out`, files are written as well."""
        return segment_video(
            self.predictor, path, out, fps, threshold, semantic=semantic, audio_track=audio_track, checkpoint=self.name
        )

    def set_words(self, words: str) -> None:
        """From now on predict only these tags, with commas between them, and what may mean the same.

        Raises UserError for a model without tags, and for a word that is like none of them.
        """
        self.predictor.set_words(words)
