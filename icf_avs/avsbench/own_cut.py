"""Videos of one's own, cut once into clips of five seconds: a picture a second and the sound, kept in the cache.

The picture of second i is the one shown at i + 0.5, as `icf segment` takes it, so that its masks can be corrected and
used here. A clip lies in cache/own/KEY/FIRST; the key changes with the video's path, size and time of change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from icf_avs.avsbench.sound import RATE, wav_bytes
from icf_avs.data.audio_windows import AudioWindows
from icf_avs.data.media import probe, read_frames
from icf_avs.errors import Fault, UserError, refused
from icf_avs.mask_stream import mask_count
from icf_avs.output.folder import replaced_when_complete
from icf_avs.stamps.packages import cache_dir

CLIP_SECONDS = 5
PHASE = 0.5


@dataclass(frozen=True)
class Wanted:
    """A video, and the first seconds of the clips that are wanted of it, in order."""

    path: Path
    firsts: tuple[int, ...]


def cut_clips(videos: Sequence[Wanted], fault: Fault = refused) -> list[dict[int, Path]]:
    """Of each video the folders of its clips (0.jpg, ..., audio.wav) by first second; what lacks is cut now, with a
    progress bar. A clip that begins after the end of its video is left out. `fault` is told of a bad video.
    """
    from rich.console import Console
    from rich.progress import Progress

    places = [{first: _folder(video.path) / f"{first:06d}" for first in video.firsts} for video in videos]
    jobs = [
        (video.path, {first: folder for first, folder in clips.items() if not folder.is_dir()})
        for video, clips in zip(videos, places, strict=True)
    ]
    jobs = [job for job in jobs if job[1]]
    if jobs:
        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
        try:
            with Progress(console=Console(stderr=True)) as bar:
                for error in bar.track(pool.map(_tried, jobs), len(jobs), description="cutting videos"):
                    if error is not None:
                        fault(str(error))
        finally:
            pool.shutdown(cancel_futures=True)
    return [{first: folder for first, folder in clips.items() if folder.is_dir()} for clips in places]


def _folder(video: Path) -> Path:
    state = video.stat()
    key = f"{video.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    return cache_dir() / "own" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _tried(job: tuple[Path, dict[int, Path]]) -> UserError | None:
    try:
        _cut(*job)
    except UserError as error:
        return error


def _cut(video: Path, clips: dict[int, Path]) -> None:
    info = probe(video)
    if not info.has_audio:
        raise UserError(f"{video}: has no sound, and what sounds is the question; take it out with its masks")
    count = mask_count(info.duration, 1.0)
    seconds = {first: range(first, min(first + CLIP_SECONDS, count)) for first in sorted(clips)}
    pictures = read_frames(info, (second + PHASE for span in seconds.values() for second in span))
    sound = AudioWindows(info, RATE)
    for first, span in seconds.items():
        if not span:
            continue
        with replaced_when_complete(clips[first]) as new:
            for number in range(len(span)):
                _, picture = next(pictures)
                Image.fromarray(picture).save(new / f"{number}.jpg", quality=95)
            wave = sound.read(first * RATE, len(span) * RATE)
            samples = np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)
            (new / "audio.wav").write_bytes(wav_bytes(samples))
