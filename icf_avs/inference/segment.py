"""Segment a video: masks of the sounding objects, with the overlay video and the other output files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
import torch
from av.error import FFmpegError
from PIL import Image

from icf_avs.atomic_io import put_in_place, staging_folder
from icf_avs.errors import UserError
from icf_avs.inference.live_stream import MaskStream
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment_arrays import Frames, segment_arrays
from icf_avs.inference.streaming import check_settings, stream_masks
from icf_avs.mask_predictor import MaskPredictor, check_class_head
from icf_avs.media.arrays import Audio, Pair, audio_source, checked_rate, chunks_of_pairs
from icf_avs.media.audio_windows import AudioSource, mask_count
from icf_avs.media.container import temporary_file
from icf_avs.media.frame_tee import FrameTee
from icf_avs.media.video_reader import probe
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.output.class_overlay import ClassOverlay, indexed
from icf_avs.output.contact_sheet import contact_sheet, frame_tile, tile_numbers
from icf_avs.output.overlay import Overlay
from icf_avs.output.result_file import document, result_folder
from icf_avs.output.video_writer import WriterThread, write_video
from icf_avs.provenance import Source
from icf_avs.results import FrameMask, Segmentation
from icf_avs.version import VERSION

Video = str | Path | bytes | BinaryIO | Frames

_PNG: dict[str, Any] = {
    "compress_level": 1,
    "compress_type": 3,
}  # Z_RLE: on masks, other strategies compress hardly better


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
    """Segment a video at `fps` masks per second; with `out`, also write out/STEM/ (overlay.mp4, masks/, ...).

    `semantic` adds the class of each segmented pixel: classes/ is written, and the overlay and the sheet use class
    colours. `audio_track` (from 1) selects an audio track; by default the one marked as default in the file.
    progress(done, total) is called during the work. `checkpoint` is the name written to segmentation.json.
    `reserved_dirs` are result folders of the same run that must not be replaced. `sound` replaces the audio of the
    video, for the model and in the overlay. `private` leaves the folder of the video out of segmentation.json. Results
    are written completely or not at all. Raises UserError for a problem with the video, the settings or the output
    folder, and if `semantic` is set for a model without a class head.
    """
    check_settings(fps, threshold)
    if semantic:
        check_class_head(predictor, checkpoint)
    info, report = probe(path, audio_track), progress or (lambda done, total: None)
    count = mask_count(info.duration, fps)
    facts, missing = _model_facts(predictor, checkpoint, threshold, sound), predictor.missing
    if out is None:
        frames = []
        for frame, _ in stream_masks(predictor, info, fps, threshold, semantic, sound):
            frames.append(frame)
            report(len(frames), count)
        info.repaired.check_growth(info.path)
        return Segmentation(info, replace(predictor.spec, fps=fps), tuple(frames), None, missing)

    source, reserved_dirs = Source(info.path), set(reserved_dirs)

    def target_folder() -> Path:
        return result_folder(Path(out), source, reserved_dirs)

    with staging_folder(target_folder(), (FFmpegError,)) as temp_dir:
        video = source.content if private else {"path": source.real_path, **source.content}
        for name in ("masks", "classes") if semantic else ("masks",):
            (temp_dir / name).mkdir()
        tiles, shown = [], tile_numbers(count)
        tee = FrameTee(info, predictor.spec.frames / fps)

        def write(frame_of: Callable[[int], FrameMask], drawn: Callable[[int], None]) -> None:
            def overlay_of(frame: FrameMask) -> Overlay | ClassOverlay:
                return ClassOverlay(frame.class_ids, frame.class_names) if semantic else Overlay(frame.mask)

            def interval_at(time: float) -> int:
                return min(int(time * fps + 1e-6), count - 1)

            with tee.behind() as frames:
                write_video(info, temp_dir / "overlay.mp4", interval_at, frame_of, drawn, overlay_of, sound, frames)

        masks = stream_masks(predictor, info, fps, threshold, semantic, sound, shown, tee)
        with tee, WriterThread(write) as writer, closing(masks):  # closed first: unblocks the writer
            frames = writer.frames
            for frame, preview in masks:
                writer.add(frame)
                (temp_dir / "masks" / f"{frame.index:06d}.png").write_bytes(_mask_png(frame))
                if semantic:
                    indexed(frame.class_ids).save(temp_dir / "classes" / f"{frame.index:06d}.png", **_PNG)
                if preview is not None:
                    tiles.append(frame_tile(frame, preview))
                report(len(frames) + writer.drawn, 2 * count)
            contact_sheet(tiles, [frames[index] for index in sorted(shown)]).save(temp_dir / "sheet.png")
            writer.finish(lambda: report(count + writer.drawn, 2 * count))
        info.repaired.check_growth(info.path)
        spec = replace(predictor.spec, fps=fps)
        content = document(info, spec, checkpoint, frames, video, facts)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (temp_dir / "segmentation.json").write_text(text + "\n", encoding="utf-8")
        report(2 * count, 2 * count)
        folder = put_in_place(temp_dir, target_folder)
    return Segmentation(info, spec, tuple(frames), folder, missing)


def _model_facts(
    predictor: MaskPredictor, checkpoint: str, threshold: float, sound: AudioSource | None
) -> dict[str, Any]:
    """Return the model and its settings, as stored in segmentation.json; checkpoint: name of the model."""
    words = predictor.only_words
    return {
        "checkpoint": {"name": checkpoint, "sha256": predictor.digest},
        "encoders": dict(predictor.encoders),
        "versions": {"icf-avs": VERSION, "torch": torch.__version__, "av": av.__version__},
        "threshold": threshold,
        **({"words": list(words)} if words is not None else {}),
        **({"audio": "replaced"} if sound is not None else {}),
        "without": [part._asdict() for part in predictor.missing],
    }


def _mask_png(frame: FrameMask) -> bytes:
    """Return the mask as a grey PNG of 0 and 255; the PNG of an empty mask is cached."""
    return _encode_png(frame.mask) if frame.area else _empty_png(*frame.run_lengths["size"])


@lru_cache(maxsize=1)
def _empty_png(height: int, width: int) -> bytes:
    return _encode_png(np.zeros((height, width), bool))


def _encode_png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask.view(np.uint8) * np.uint8(255)).save(file, "PNG", **_PNG)
    return file.getvalue()


class Segmenter:
    """A predictor with the name of its checkpoint, as `icf_avs.load` returns it."""

    def __init__(self, predictor: MaskPredictor, name: str) -> None:
        self.predictor, self.name = predictor, name

    @property
    def model(self) -> SegmentationModel:
        """The segmentation model."""
        return cast(Predictor, self.predictor).model

    def segment(
        self,
        video: Video,
        out: str | Path | None = None,
        fps: float = 1.0,
        threshold: float = 0.5,
        semantic: bool = False,
        audio_track: int | None = None,
        *,
        words: str | None = None,
        audio: Audio | None = None,
        frame_rate: float | None = None,
        sample_rate: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Segmentation:
        """Segment a video at `fps` masks per second. With `out`, also write files; see `segment_video`.

        video: a path; the bytes of a file or a binary file; frames uint8 [T,H,W,3] or an iterator of frames, with
        `audio` and both rates; or an iterator of pairs, a frame and the audio until the next, with its `sample_rate`
        (see `segment_arrays`). words: segment only these tags in this call, see `MaskPredictor.with_words`. audio:
        replaces the audio of the video. progress(done, total) is called during the work.
        """
        predictor = self._predictor(words, semantic)
        sound = None if audio is None else audio_source(audio, sample_rate)
        is_path = isinstance(video, str | Path)
        if is_path or isinstance(video, bytes) or hasattr(video, "read"):
            with nullcontext(video) if is_path else temporary_file(cast("bytes | BinaryIO", video)) as path:
                return segment_video(
                    predictor, cast(Path, path), out, fps, threshold, progress, semantic=semantic,
                    audio_track=audio_track, checkpoint=self.name, sound=sound, private=not is_path,
                )  # fmt: skip
        if not isinstance(video, Iterable):
            hint = "give a path, bytes, a binary file, an array, or an iterator; docs/PYTHON.md has examples of each"
            raise UserError(f"the video is {video!r}; {hint}")
        if out is not None or audio_track is not None:
            raise UserError("out and audio_track go with video files; the masks of arrays are in the result")
        return segment_arrays(
            predictor, cast(Frames, video), fps, threshold, semantic, audio=sound, frame_rate=frame_rate,
            sample_rate=sample_rate, progress=progress,
        )  # fmt: skip

    def stream(
        self,
        source: Iterable[Pair],
        sample_rate: int,
        fps: float = 1.0,
        threshold: float = 0.5,
        semantic: bool = False,
        *,
        words: str | None = None,
    ) -> Iterator[FrameMask]:
        """Segment a live stream: yield the mask of each interval as soon as its input is complete.

        source: pairs of a frame (uint8 RGB [H,W,3]) and the audio that follows it ([n] or [channels, n] at
        `sample_rate`, float or int16); either is None if only the other has arrived. The audio is the clock. A mask has
        a latency of `delay` seconds plus the time the model takes. Memory is constant. The last mask of each clip of
        `spec.frames` equals that of a file with these frames and this audio; the others are based on less of the clip.
        """
        predictor = self._predictor(words, semantic)
        rate = round(checked_rate(sample_rate, "sample_rate"))
        return iter(MaskStream(predictor, chunks_of_pairs(source), rate, fps, threshold, semantic))

    @property
    def delay(self) -> float:
        """Seconds from a frame to the end of the audio window of its mask."""
        return self.predictor.spec.delay

    def _predictor(self, words: str | None, semantic: bool) -> MaskPredictor:
        predictor = self.predictor if words is None else self.predictor.with_words(words)
        if semantic:
            check_class_head(predictor, self.name)
        return predictor
