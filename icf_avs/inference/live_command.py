"""`icf live`: print one line per mask, live from a camera or from a file played in real time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

from icf_avs.console import note
from icf_avs.inference import pretrained
from icf_avs.inference.live_stream import MaskStream
from icf_avs.inference.word_prompts import log_prompts
from icf_avs.media.arrays import AVChunk
from icf_avs.media.live_source import captured, played, read_ahead
from icf_avs.media.video_reader import probe
from icf_avs.output.text_summary import tag_lines


def live_command(
    video: Path | None, devices: list[str], checkpoint: str | None, fps: float, threshold: float,
    words: str | None = None, device: str = "auto",
) -> None:  # fmt: skip
    """Print each mask as soon as it is computed, with its delay after the frame, until the source ends.

    devices: see `captured`; used if video is None. Raises UserError for a source that cannot be read.
    """
    info = None if video is None else probe(video)  # before the model is loaded
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))  # the others decode the source
    segmenter = pretrained.load(checkpoint, device)
    predictor = segmenter.predictor if words is None else segmenter.predictor.with_words(words)
    if words is not None:
        log_prompts(segmenter.model, words)
    rate = predictor.spec.sample_rate
    sources = [captured(name, rate) for name in devices] if info is None else [played(info, rate)]
    note(f"{segmenter.name}: a mask needs the sound until {segmenter.delay:.1f} s after its frame; Ctrl-C stops")
    start_time = 0.0

    def timed_chunks() -> Iterator[AVChunk]:
        nonlocal start_time
        for chunk in read_ahead(sources):
            start_time = start_time or time.monotonic()
            yield chunk

    for mask in MaskStream(predictor, timed_chunks(), rate, fps, threshold):
        delay = time.monotonic() - start_time - mask.picture_time
        share = f"{mask.area:.1%} of the frame, " if mask.area else ""
        print(f"{next(tag_lines([mask]))}  ({share}after {delay:.2f} s)", flush=True)
