"""Score a model on test sets with the true sound and with three negative sounds, into a CSV table.

The model sees each clip four times with the same pictures: with its `true` sound, with `silence`, with white `noise`
as loud as the clip, and with an `offscreen` sound, that of another clip none of whose sounding kinds is in the picture.
Under a negative sound nothing should be marked; mIoU and F are still taken against the original mask (lower is better).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icf_avs.atomic_io import check_folder
from icf_avs.console import progress_console
from icf_avs.datasets.clip import ClipRecord
from icf_avs.datasets.custom_dataset import is_custom_dataset
from icf_avs.datasets.image_io import SIZE, WITH_IDS
from icf_avs.datasets.layouts import TABLES, class_names, find_table, is_stamps, read_set
from icf_avs.device import find_device
from icf_avs.errors import UserError
from icf_avs.evaluation.audio_input import model_sound
from icf_avs.evaluation.evaluate_semantic import class_order, class_protocols, evaluate_semantic
from icf_avs.evaluation.metrics import DatasetMetric, ReferenceMetric, StrictMetric
from icf_avs.evaluation.robustness.negative_audio import Audio, heard, without_donor
from icf_avs.evaluation.score_tables import (
    USUAL,
    Row,
    Scored,
    Scores,
    Settings,
    check_tables,
    save_notes,
    save_rows,
    score_rows,
    show,
)
from icf_avs.inference.predictor import MaskPredictor
from icf_avs.media.images import resized
from icf_avs.provenance import short_digest

if TYPE_CHECKING:
    from icf_avs.inference.segment import Segmenter
    from icf_avs.types import ClipSpec

Split = Literal["test", "val"]
AUDIOS: tuple[Audio, ...] = ("true", "silence", "noise", "offscreen")
DEFAULT_SETS = ("s4", "ms3", "cross")  # AVSS holds the scenes of the first two again
FOLDERS = {"s4": "Single-source", "ms3": "Multi-sources", "avss": "AVSS", "cross": "Cross"}
OWN = "own"  # a set of one's own is the folder itself


def evaluate(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    audio: Audio = "true",
    seed: int = 0,
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
    settings: Settings = USUAL,
) -> Scores:
    """Score a model at 224x224 on the labelled frames of `records`, all with the same kind of `audio`.

    clips     score only the first so many; donors of off-screen sounds still come from all records
    progress  called after each clip
    settings  size, threshold of the mask and batches of the reference F

    Returns the scores of each protocol, {"reference": {...}, "strict": {...}, "dataset": {...}, "dataset-2classes":
    {...}}, from `ReferenceMetric`, `StrictMetric` and `DatasetMetric`, each with `miou`, `f` and `fpr`: the share of
    pixels marked where nothing should be, which is over the frames with empty ground truth for the true sound (NaN if
    there are none) and over all frames for a negative one. Pictures are squashed to the size that is scored, and then
    to the one the model takes.
    Raises UserError if no off-screen donor can be told.
    """
    return evaluate_each(predictor, records, (audio,), seed, clips, progress, settings)[audio]


def evaluate_each(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    audios: Sequence[Audio] = AUDIOS,
    seed: int = 0,
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
    settings: Settings = USUAL,
) -> dict[Audio, Scores]:
    """`evaluate` with several kinds of audio, each of which gets its scores. The frames of a clip are read and encoded
    once.
    """
    if unknown := set(audios) - set(AUDIOS):
        raise ValueError(f"audio is {unknown.pop()!r}; it must be one of {AUDIOS}")
    scorers = {audio: _Scorer(settings) for audio in audios}
    for index, record in enumerate(records[:clips]):
        clip = record.load(settings.size)
        sounds = [heard(clip, records, index, audio, seed) for audio in audios]
        truth = torch.from_numpy(clip.masks[clip.labelled] > 0)
        found = predict_each(predictor, clip.frames, sounds, clip.masks.shape[1:])
        for scorer, probabilities in zip(scorers.values(), found, strict=True):
            scorer.update(probabilities[torch.from_numpy(clip.labelled)], truth)
        progress()
    return {audio: scorer.compute(empty=audio == "true") for audio, scorer in scorers.items()}


class _Scorer:
    """The metrics of all protocols."""

    def __init__(self, settings: Settings) -> None:
        # One process scores the whole set, also where a run has several: nothing is to be gathered.
        self._reference = ReferenceMetric(settings.batch_size, settings.threshold, sync_on_compute=False)
        self._strict = StrictMetric(settings.threshold, sync_on_compute=False)
        self._dataset = DatasetMetric(settings.threshold, sync_on_compute=False)

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        for metric in (self._reference, self._strict, self._dataset):
            metric.update(probabilities, truth)

    def compute(self, empty: bool) -> Scores:
        """empty: false marks are those in frames in which nothing should be marked, in place of all."""
        scores = {"reference": self._reference.compute(), "strict": self._strict.compute()}
        whole = self._dataset.compute()
        scores["dataset"] = {name: whole[name] for name in ("miou", "f")}
        scores["dataset-2classes"] = {name: whole[f"{name}_2classes"] for name in ("miou", "f")}
        fpr = scores["strict"]["fpr_empty" if empty else "active"]
        return {protocol: {**values, "fpr": fpr} for protocol, values in scores.items()}


def predict(
    predictor: MaskPredictor, frames: np.ndarray, sound: np.ndarray, size: tuple[int, int] = (SIZE, SIZE)
) -> Tensor:
    """Probabilities [T, *size] of pictures uint8 [T, H, W, 3] and their sound, in clips of `spec.frames`.

    sound: a wave [n] or log-mel windows [T, 96, 64]. Raises UserError for log-mel where the model takes waves alone.
    """
    return predict_each(predictor, frames, [sound], size)[0]


def predict_each(
    predictor: MaskPredictor, frames: np.ndarray, sounds: Sequence[np.ndarray], size: tuple[int, int] = (SIZE, SIZE)
) -> list[Tensor]:
    """`predict` of the same frames under each of several sounds, encoded once."""
    spec: ClipSpec = predictor.spec
    pictures = resized(torch.from_numpy(frames), spec.image_size)
    windows = [torch.from_numpy(model_sound(predictor, sound, len(frames))) for sound in sounds]
    parts: list[list[Tensor]] = [[] for _ in sounds]
    for start in range(0, len(frames), spec.frames):
        part = slice(start, start + spec.frames)
        predictions = predictor.predict_each(pictures[part], [waves[part] for waves in windows])
        for prediction, found in zip(predictions, parts, strict=True):
            logits = prediction.logits.float()[:, None]
            found.append(F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0])
    return [torch.cat(found).sigmoid() for found in parts]


def evaluate_command(
    checkpoint: str | None,
    data: Path | None,
    sets: Sequence[str] | None,
    out: Path | None,
    clips: int | None,
    seed: int,
    settings: Settings = USUAL,
    split: Split = "test",
    device: str = "auto",
) -> None:
    """Score `checkpoint` on a split of each set, write the table and its sidecar, print a summary.

    data  folder of the sets (None: the default Stamps sets); sets  names of `FOLDERS` (None: all in the folder, of the
    default ones `DEFAULT_SETS`); settings  other ones than usual have rows of their own (`Settings.labels`), and so
    has the split val: s4-val. Raises UserError for sets that are not there or cannot be read, and for a table that
    cannot be written: before anything is scored, or once the scores are printed.
    """
    from rich.progress import Progress

    from icf_avs import load

    check_folder(Path("results")) if out is None else check_tables(out)
    place = find_device(device)
    loaded = load(checkpoint, place)
    scored = Scored(*identity(checkpoint, loaded), data_name(data))
    root, sets, stamps = choose_sets(data, sets, split)
    if out is None:
        out = Path("results") / ("stamps.csv" if stamps else "avsbench.csv")
        check_tables(out)
    records = {name: read_set(set_folder(root, name), split) for name in sets}
    semantic = {name for name in sets if records[name][0].layout in WITH_IDS and loaded.predictor.semantic}
    names = {name: ("background", *class_names(set_folder(root, name))) for name in semantic}
    for known in names.values() if settings.size is not None else ():
        class_order(loaded.predictor.classes, known)
    written: list[Row] = []
    with Progress(console=progress_console()) as bar:
        for name in sets:
            total = len(records[name][:clips])
            audios = list(AUDIOS)
            if (reason := without_donor(records[name], clips)) is not None:
                bar.console.print(f"{name}: no off-screen row, {reason}")
                audios.remove("offscreen")
            if not all(record.has_waveform for record in records[name]):
                bar.console.print(f"{name}: no noise row, log-mel windows do not say how loud its clips are")
                audios.remove("noise")
            advance = partial(bar.advance, bar.add_task(name, total=total))
            scores = evaluate_each(loaded.predictor, records[name], audios, seed, clips, advance, settings)
            if name in semantic and settings.size is not None:
                advance = partial(bar.advance, bar.add_task(f"{name}, classes", total=total))
                found = evaluate_semantic(loaded.predictor, records[name], names[name], clips, advance, settings)
                scores["true"] = {**scores["true"], **class_protocols(found)}
            elif name in semantic:
                bar.console.print(f"{name}: no rows of classes, which are scored at one size; leave --native out")
            label = name if split == "test" else f"{name}-{split}"
            rows = score_rows(scores, scored, label, total, seed, settings)
            written += rows
            try:  # set by set: what is finished outlives an interruption
                save_rows(out, rows)
                save_notes(out.with_suffix(".json"), scored, label, settings, scores, place)
            except UserError:
                bar.stop()
                show(written)
                raise
    show(written)
    for part in loaded.predictor.missing:
        print(f"scored {part}")
    print(f"wrote {out} and {out.with_suffix('.json')}")


def identity(checkpoint: str | None, loaded: Segmenter) -> tuple[str, str, str]:
    """Of a loaded checkpoint: its name, the digest of its file, and what it was asked for by."""
    return loaded.name, short_digest(loaded.predictor.digest or ""), str(checkpoint or loaded.name)


def data_name(data: Path | None) -> str:
    """What the folder of the sets is called in tables."""
    return "stamps" if data is None else os.path.normpath(data)


def choose_sets(
    data: Path | None, sets: Sequence[str] | None, split: Split = "test"
) -> tuple[Path, Sequence[str], bool]:
    """The folder of the sets, the names of those asked for, and whether they are Stamps.

    data  None: the default Stamps sets of the split; sets  None: all in the folder, of the default ones
    `DEFAULT_SETS`. A set of one's own, which is the folder itself, is `OWN`; the folder may be that of one public set
    as well, as it is for `icf train`. Raises UserError if the folder holds none, or is itself a set and others are
    named.
    """
    if data is not None and is_custom_dataset(data):
        if sets is not None:
            raise UserError(f"--sets {' '.join(sets)}: {data} is a set of your own, the only one there; leave it out")
        return data, [OWN], False
    if data is not None and _is_set(data):
        name = TABLES[find_table(data).name][0].lower()
        if set(sets or [name]) != {name}:
            raise UserError(f"--sets {' '.join(sets)}: {data} is itself a set, {name}; give the folder above it")
        return data, [name], is_stamps(data)
    sets = None if sets is None else list(dict.fromkeys(sets))
    root = data or default_sets(split)
    if sets is None:
        sets = DEFAULT_SETS if data is None else [name for name in FOLDERS if (root / FOLDERS[name]).is_dir()]
    if not sets:
        raise UserError(
            f"{root} holds none of {', '.join(FOLDERS.values())}, and no videos/ and masks/; give the folder above "
            "them as --data"
        )
    return root, sets, any(is_stamps(root / FOLDERS[name]) for name in sets)


def set_folder(root: Path, name: str) -> Path:
    """The folder of the test set of that name: `root`, or below it."""
    return root if name == OWN or _is_set(root) else root / FOLDERS[name]


def _is_set(root: Path) -> bool:
    return any((root / table).is_file() for table in TABLES)


def default_sets(split: Split = "test") -> Path:
    """Folder of a split of Stamps in the cache, 120 clips a set, seed 0; written on first use or when outdated."""
    from icf_avs.cache import cache_dir
    from icf_avs.synthetic.benchmark import write_stamps

    root = cache_dir() / f"stamps-{split}"
    counts = {"test": 120, "cross": 120} if split == "test" else {"val": 120, "cross_val": 120}
    write_stamps(root, seed=0, **counts, video=False, workers=os.cpu_count() or 1)
    return root
