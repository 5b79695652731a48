"""`icf segment`: segment videos one after the other, with a progress bar and a summary of each."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from glob import glob, has_magic
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress, TaskID

from icf_avs.console import VERBOSE, counted, note, progress_console
from icf_avs.errors import UserError
from icf_avs.glibc_malloc import keep_freed_memory
from icf_avs.inference import pretrained
from icf_avs.inference.segment import segment_video
from icf_avs.inference.word_prompts import log_prompts
from icf_avs.mask_predictor import check_class_head
from icf_avs.media.container import check_file
from icf_avs.output.text_summary import tag_lines

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv")


def find_videos(paths: list[Path]) -> list[Path]:
    """Expand paths to videos: a folder to the videos in it, and a pattern such as *.mp4, which some shells do not
    expand, to the matching files. Raises UserError for a path that expands to none.
    """
    videos: list[Path] = []
    for path in paths:
        matches = [path]
        if path.is_dir():
            matches = [file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.name[0] != "."]
        elif not path.exists() and has_magic(str(path)):
            matches = [Path(name) for name in glob(str(path))]
        if not matches:
            raise UserError(f"{path}: no video there; name a video, or a folder with *{', *'.join(ENDINGS)}")
        videos += sorted(matches)
    return videos


def segment_command(
    videos: list[Path], out: Path, checkpoint: str | None, fps: float, threshold: float, semantic: bool = False,
    audio_track: int | None = None, words: str | None = None, device: str = "auto",
) -> None:  # fmt: skip
    """Segment videos from the command line: show a progress bar, then print the masks and tags of each video.

    videos: see `find_videos`; checkpoint: see `icf_avs.load`. The error of a failed video is printed on standard error
    and the others are still processed; UserError is raised at the end.
    """
    console, videos = progress_console(), find_videos(videos)
    # The overlay writer has the other half of the threads; with more, those of the model would wait for each other.
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    keep_freed_memory()
    if not any(path.exists() for path in videos):
        check_file(videos[0])  # before the model is loaded
    segmenter = pretrained.load(checkpoint, device)
    if semantic:
        check_class_head(segmenter.predictor, segmenter.name)
    predictor = segmenter.predictor if words is None else segmenter.predictor.with_words(words)
    if words is not None:
        log_prompts(segmenter.model, words)
    reserved_dirs: list[Path] = []
    failures: list[UserError] = []
    for path in videos:
        start_time = time.perf_counter()
        try:
            with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
                result = segment_video(
                    predictor, path, out, fps, threshold,
                    progress=partial(_advance, bar, bar.add_task(path.name, total=None)),
                    semantic=semantic, audio_track=audio_track, checkpoint=segmenter.name, reserved_dirs=reserved_dirs,
                )  # fmt: skip
        except UserError as error:
            failures.append(error)
            if len(videos) > 1:
                print(error, file=sys.stderr)
            continue
        assert result.folder is not None  # `out` was given
        reserved_dirs.append(result.folder)
        note(f"{path}: {time.perf_counter() - start_time:.1f} s for {result.video.duration:.1f} s of video", VERBOSE)
        num_segmented = int(np.count_nonzero(result.areas))
        masks = f"{counted(len(result), 'mask')} ({fps:g} a second)"
        print(f"{path}: {masks}, {num_segmented} with something segmented -> {result.folder}{os.sep}")
        for line in tag_lines(result.frames) if segmenter.predictor.classes else ():  # no class names, no tags
            print(f"  {line}")
        for part in result.missing:
            print(f"  made {part}")
        for line in result.video.repaired.lines():
            print(f"  repaired: {line}")
    if len(videos) == 1 and failures:
        raise failures[0]
    if failures:
        raise UserError(f"{len(failures)} of {len(videos)} videos failed; their lines above say why")


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)
