"""`icf evaluate --robustness`: scores of a checkpoint under negative audio, as a table (CSV) and a verdict.

One row a checkpoint, test set, kind of sound and subset ("category") of the clips. Checkpoint, digest, path and data
are as in score_tables.py. Category is `all`, the super-category of the off-screen sound, or `changed`; rows of the true
sound on the same clips or frames stand beside it. Scores as in runner.py, empty where none exists.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from icf_avs.atomic_io import check_file
from icf_avs.console import progress_console, table_console
from icf_avs.errors import UserError
from icf_avs.evaluation.robustness.audio_reliance import Verdict, judge, worst
from icf_avs.evaluation.robustness.runner import ALL, CONDITIONS, RobustnessResult, evaluate_robustness
from icf_avs.evaluation.score_tables import UNKNOWN, Row, Scored, read_rows, replace_rows, revision
from icf_avs.evaluation.test_sets import Task

_SCORES = (
    *("miou", "f", "reference_miou", "reference_f", "fpr", "null"),
    *("drop_miou", "drop_f", "g_miou", "g_f"),
)
COLUMNS = ("checkpoint", *UNKNOWN, "test_set", "audio", "category", "clips", "frames", *_SCORES, "seed", "revision")


def robustness_command(task: Task, out: Path | None, clips: int | None, seed: int) -> None:
    """Score a checkpoint under every sound; write the table `out`, print a summary and whether it uses the audio.

    out: None: results/probe.csv, or probe-avsbench.csv for sets of another origin than Stamps. Raises UserError for a
    table that cannot be written: before anything is scored, or once the scores are printed.
    """
    from rich.progress import Progress

    loaded, scored = task.segmenter, task.scored
    table = out or Path("results") / ("probe.csv" if task.is_stamps else "probe-avsbench.csv")
    check_file(table)
    read_table(table)
    results: dict[str, RobustnessResult] = {}
    verdicts: list[Verdict] = []
    with Progress(console=progress_console()) as bar:
        tasks = {
            name: bar.add_task(name, total=len(records[:clips]) * len(CONDITIONS), start=False)
            for name, records in task.records.items()
        }
        for name, records in task.records.items():
            bar.start_task(tasks[name])
            advance = partial(bar.advance, tasks[name])
            label = task.label(name)
            result = results[label] = evaluate_robustness(loaded.predictor, records, seed, clips, progress=advance)
            verdicts.append(judge(result.ious, result.frames, label, seed))
            try:  # set by set: what is finished outlives an interruption
                replace_rows(
                    table, COLUMNS, read_table(table), _rows(result, scored, label, seed), ("data", "test_set")
                )
            except UserError:
                bar.stop()
                _print(results, verdicts, scored)
                raise
    _print(results, verdicts, scored)
    if loaded.predictor.semantic:
        print("Scored is the binary mask, what sounds against all else; classes that it names are not scored.")
    for part in loaded.predictor.missing:
        print(f"scored {part}")
    print(f"wrote {table}")


def read_table(path: Path) -> list[Row]:
    """Rows of the table at `path`, none where there is no file. Raises UserError if it has other columns."""
    return read_rows(path, COLUMNS, "robustness")


def _rows(result: RobustnessResult, scored: Scored, test_set: str, seed: int) -> list[Row]:
    code, rows = revision(), []
    for (audio, category), values in result.scores.items():
        cells = ("" if math.isnan(values[name]) else f"{values[name]:.4f}" for name in _SCORES)
        counts = str(values["clips"]), str(values["frames"])
        row = (*scored, test_set, audio, category, *counts, *cells, str(seed), code)
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def _print(results: dict[str, RobustnessResult], verdicts: list[Verdict], scored: Scored) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    names = ("miou", "drop_miou", "g_miou", "f", "fpr", "null")
    title = "strict scores against the original mask"
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True, title=title)
    for column in ("set", "sound", *names):
        table.add_column(column, justify="left" if column in ("set", "sound") else "right", no_wrap=True)
    for test_set, result in results.items():
        for (audio, subset), scores in result.scores.items():
            if subset == ALL:
                table.add_row(test_set, audio, *(f"{scores[name]:.3f}".replace("nan", "-") for name in names))
    table_console().print(table)
    for test_set, result in results.items():
        for note in result.notes:
            print(f"{test_set}: {note}")
    print(f"scores of {scored}")
    print(worst(verdicts).sentence(scored.checkpoint))
