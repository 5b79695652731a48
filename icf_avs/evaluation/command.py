"""`icf evaluate`: scores of a checkpoint under the true sound and three negative ones, as a table (CSV)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from icf_avs.console import progress_console
from icf_avs.datasets.image_io import CLASS_ID_LAYOUTS
from icf_avs.datasets.layouts import class_names
from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate import AUDIOS, evaluate_each
from icf_avs.evaluation.evaluate_semantic import class_order, class_protocols, evaluate_semantic
from icf_avs.evaluation.robustness.negative_audio import without_donor
from icf_avs.evaluation.score_tables import (
    DEFAULT_SETTINGS,
    Row,
    Settings,
    check_tables,
    save_notes,
    save_rows,
    score_rows,
    show,
)
from icf_avs.evaluation.test_sets import Task, set_folder


def evaluate_command(
    task: Task, out: Path | None, clips: int | None, seed: int, settings: Settings = DEFAULT_SETTINGS
) -> None:
    """Score a checkpoint on each test set, write the table and its sidecar, print a summary.

    out       the table (None: results/stamps.csv, or avsbench.csv for sets of another origin)
    settings  other ones than usual have rows of their own (`Settings.labels`)

    Raises UserError for a table that cannot be written: before anything is scored, or once the scores are printed.
    """
    from rich.progress import Progress

    predictor, seen = task.segmenter.predictor, task.records
    if out is None:
        out = Path("results") / ("stamps.csv" if task.is_stamps else "avsbench.csv")
        check_tables(out)
    semantic = {name for name in seen if seen[name][0].layout in CLASS_ID_LAYOUTS and predictor.semantic}
    names = {name: ("background", *class_names(set_folder(task.root, name))) for name in semantic}
    for known in names.values() if settings.size is not None else ():
        class_order(predictor.classes, known)
    written: list[Row] = []
    with Progress(console=progress_console()) as bar:
        say = partial(bar.console.print, soft_wrap=True)
        for name, records in seen.items():
            total = len(records[:clips])
            audios = list(AUDIOS)
            if (reason := without_donor(records, clips)) is not None:
                say(f"{name}: no off-screen row, {reason}")
                audios.remove("offscreen")
            if not all(record.has_waveform for record in records):
                say(f"{name}: no noise row, log-mel windows do not say how loud its clips are")
                audios.remove("noise")
            advance = partial(bar.advance, bar.add_task(name, total=total))
            scores = evaluate_each(predictor, records, audios, seed, clips, advance, settings)
            if name in semantic and settings.size is not None:
                advance = partial(bar.advance, bar.add_task(f"{name}, classes", total=total))
                found = evaluate_semantic(predictor, records, names[name], clips, advance, settings)
                scores["true"] = {**scores["true"], **class_protocols(found)}
            elif name in semantic:
                say(f"{name}: no rows of classes, which are scored at one size; leave --native out")
            rows = score_rows(scores, task.scored, task.label(name), total, seed, settings)
            written += rows
            try:  # set by set: what is finished outlives an interruption
                save_rows(out, rows)
                save_notes(out.with_suffix(".json"), task.scored, task.label(name), settings, scores, task.device)
            except UserError:
                bar.stop()
                show(written)
                raise
    show(written)
    for part in predictor.missing:
        print(f"scored {part}")
    print(f"wrote {out} and {out.with_suffix('.json')}")
