"""`icf demo`: make a few videos with ground truth, segment them as `icf segment` does, show scores and paths."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from icf_avs.console import NORMAL, table_console, verbosity
from icf_avs.datasets.image_io import SIZE
from icf_avs.datasets.layouts import read_set
from icf_avs.datasets.video_clip import ClipRecord
from icf_avs.evaluation.metrics import StrictMetric

CLIPS = 6
FRAME_PHASE = 15 / 16  # AVSBench layouts hold the frame and mask at 15/16 of each second


def demo_command(out: Path, device: str = "auto") -> None:
    """Write `CLIPS` videos of Stamps into `out`/stamps, segment them into `out`/segmented, and print the scores."""
    from rich.console import Console
    from rich.table import Table

    from icf_avs.device import find_device
    from icf_avs.inference import pretrained
    from icf_avs.inference.segment import segment_video
    from icf_avs.synthetic.benchmark import write_stamps

    place = find_device(device)  # fail before the work starts
    started = time.perf_counter()
    console, steps = table_console(), Console(quiet=verbosity() < NORMAL)
    steps.print(f"1/3 making {CLIPS} videos of unseen scenes in {out / 'stamps'}")
    workers = min(os.cpu_count() or 1, CLIPS)
    write_stamps(out / "stamps", seed=0, test=CLIPS, video=True, workers=workers)
    records = read_set(out / "stamps" / "Multi-sources", "test")[:CLIPS]

    steps.print("2/3 loading the model")
    predictor = pretrained.load("stamps", place).predictor
    predictor.spec = replace(predictor.spec, phase=FRAME_PHASE)  # times of the ground-truth masks

    table = Table(title="predicted masks, against the known ones")
    for heading in ("video", "sounding", "tags", "mIoU", "segmented while silent"):
        table.add_column(heading)
    overall = StrictMetric()
    for number, record in enumerate(records, 1):
        assert record.video_path is not None  # written above
        steps.print(f"3/3 segmenting {record.video_path} ({number} of {len(records)})", soft_wrap=True)
        found = segment_video(predictor, record.video_path, out / "segmented")
        tags = _top_tags(found.heard)
        alone = StrictMetric()
        for metric in (alone, overall):
            _score(metric, found.masks, record)
        table.add_row(record.video_path.name, ", ".join(sorted(record.sounding or ())), tags, *_cells(alone))
    table.add_section()
    table.add_row("all", "", "", *_cells(overall), style="bold")
    console.print(table)
    where = f"The overlay videos, contact sheets and masks are in {out / 'segmented'}, for example"
    console.print(where, soft_wrap=True)
    for name in ("overlay.mp4", "sheet.png", "segmentation.json"):
        console.print(f"  {next((out / 'segmented').glob(f'*/{name}'))}", soft_wrap=True)
    console.print(f"Done in {time.perf_counter() - started:.0f} s. Your own video: icf segment VIDEO --out DIR")


def _score(metric: StrictMetric, masks: np.ndarray, record: ClipRecord) -> None:
    truth = torch.from_numpy(record.load().masks)
    squashed = [np.asarray(Image.fromarray(mask).resize((SIZE, SIZE), Image.Resampling.NEAREST)) for mask in masks]
    predicted = torch.from_numpy(np.stack(squashed[: len(truth)])).float()
    metric.update(predicted, truth[: len(predicted)])


def _cells(metric: StrictMetric) -> list[str]:
    scores = metric.compute()
    return [f"{scores[key]:.2f}" if scores[key] == scores[key] else "-" for key in ("miou", "fpr_empty")]


def _top_tags(frames: Iterable[Iterable[tuple[str, float]]]) -> str:
    """Return the tags of a video with the highest mean presence, at most three."""
    total: dict[str, float] = {}
    for frame in frames:
        for word, presence in frame:
            total[word] = total.get(word, 0) + presence
    return ", ".join(sorted(total, key=total.get, reverse=True)[:3])
