"""Segment a video for the page and prepare everything that the page shows."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icf_avs.console import counted
from icf_avs.errors import UserError
from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.inference.word_prompts import find_prompts
from icf_avs.media.audio_windows import AudioSource
from icf_avs.media.images import thumbnail
from icf_avs.media.video_reader import MediaInfo, read_frames
from icf_avs.output.text_summary import clock, no_word
from icf_avs.results import FrameMask, Segmentation
from icf_avs.serve.audio_override import noise, of_clip, silence
from icf_avs.serve.limits import Limits
from icf_avs.serve.timeline import timeline_html

AudioMode = Literal["own", "muted", "noise", "clip"]
_PREVIEW = 320  # pixels, long side of an image in the gallery


@dataclass(frozen=True)
class PageResult:
    """Result shown on the page. Its files lie in the folder that `run_inference` created."""

    overlay: Path  # mp4 with the sound that was used
    words: str  # HTML
    summary: str  # one line
    pictures: list[tuple[Path, str]]  # one image with its mask and a caption per mask
    masks: Path  # zip of PNG files
    document: Path  # segmentation.json


def run_inference(
    segmenter: Segmenter, video: Path, store: Path, limits: Limits, audio_mode: AudioMode = "own",
    other: Path | None = None, progress: Callable[[float, float], None] = lambda done, total: None,
    words: str = "", fps: float = 1.0, threshold: float = 0.5,
) -> PageResult:  # fmt: skip
    """Segment a video with the original sound, another sound, or none.

    store  folder in which a new result folder is created, complete or not at all
    other  the video whose sound is used, for "clip"
    progress  called with the seconds done and the total seconds
    words  segment only sounds that match these words; "": all sounds
    Raises UserError if a video is unusable or exceeds the limits. The message contains no folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="answer-", dir=store))
    try:
        info = limits.checked(video)
        if not info.has_audio:
            raise UserError(f"{video}: has no sound, which is needed to tell what sounds; give a video with sound")
        predictor = segmenter.predictor.with_words(words) if words.strip() else segmenter.predictor
        result = segment_video(
            predictor, video, folder, fps, threshold,
            progress=limits.timed(lambda done, total: progress(info.duration * done / total, info.duration), video),
            checkpoint=segmenter.name, sound=_sound(info, audio_mode, other, limits), private=True,
        )  # fmt: skip
        prompts = find_prompts(segmenter.model, words) if words.strip() else []
        return _page_result(result, "".join(f" {prompt}." for prompt in prompts))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, UserError):
            raise UserError(_without_folders(str(error), video, other, folder)) from error
        raise


def _sound(info: MediaInfo, audio_mode: AudioMode, other: Path | None, limits: Limits) -> AudioSource | None:
    if audio_mode == "own":
        return None
    if audio_mode == "muted":
        return silence(info)
    if audio_mode == "noise":
        return noise(info)
    if other is None:
        raise UserError("no other clip yet; give the video whose sound is to be used")
    return of_clip(info, limits.checked(other))


def _without_folders(line: str, *paths: Path | None) -> str:
    """Remove folder names from a message, so that visitors do not see where the server stores files."""
    for path in filter(None, paths):
        line = line.replace(f"{path.parent}/", "")
    return line


def _page_result(result: Segmentation, query_note: str) -> PageResult:
    """Build the page result. query_note: summary text about the requested words."""
    folder = result.folder
    assert folder is not None  # it was requested
    segmented = sum(frame.area > 0 for frame in result.frames)
    counts = Counter(word for frame in result.frames for word, _ in frame.heard[:1])
    tags_note = f"Tags: {', '.join(word for word, _ in counts.most_common(3))}."
    if not counts:
        nothing = "None of the sounds asked for." if query_note else "No sound that the model knows."
        tags_note = "The model has no names for sounds." if segmented else nothing
    unit = "second" if result.spec.fps == 1 else "mask"
    missing_note = "".join(f" Made {part}." for part in result.missing)
    repairs_note = "".join(f" Repaired: {line}." for line in result.video.repaired.lines())
    notes = f"{tags_note}{query_note}{missing_note}{repairs_note}"
    return PageResult(
        overlay=folder / "overlay.mp4",
        words=timeline_html(result.frames),
        summary=f"Segmented in {segmented} of {counted(len(result), unit)}. {notes}",
        pictures=_pictures(result, folder),
        masks=_zip_masks(folder),
        document=folder / "segmentation.json",
    )


def _pictures(result: Segmentation, folder: Path) -> list[tuple[Path, str]]:
    """Save the middle frame of each interval from the overlay video as a thumbnail, with a caption."""
    (folder / "pictures").mkdir()
    pictures = []
    for frame, (_, image) in zip(
        result.frames, read_frames(folder / "overlay.mp4", (frame.time for frame in result.frames)), strict=True
    ):
        path = folder / "pictures" / f"{frame.index:06d}.jpg"
        thumbnail(image, _PREVIEW, result.video.pixel_aspect).save(path, quality=85)
        pictures.append((path, _caption(frame)))
    return pictures


def _caption(frame: FrameMask) -> str:
    words = ", ".join(word for word, _ in frame.heard[:2]) or no_word(frame)
    return f"{clock(frame.start)} {words}"


def _zip_masks(folder: Path) -> Path:
    path = folder / f"{folder.name}-masks.zip"
    with zipfile.ZipFile(path, "w") as archive:  # PNG files are compressed already
        for mask in sorted((folder / "masks").iterdir()):
            archive.write(mask, mask.name)
    return path
