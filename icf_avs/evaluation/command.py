"""`icf evaluate`: score a checkpoint under the true and negative sounds, as a CSV table and on the terminal.

The table of `--robustness` has one row per checkpoint, test set, kind of sound and subset of the clips ("category"):
`all`, the super-category of the off-screen sound, or `changed`. Each subset also has a row for the true sound on the
same clips or frames. Scores are defined in robustness/runner.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icf_avs.atomic_io import check_file
from icf_avs.console import progress_console, table_console
from icf_avs.datasets.image_io import CLASS_ID_LAYOUTS
from icf_avs.datasets.layouts import class_names
from icf_avs.evaluation.evaluate import AUDIOS, evaluate_each
from icf_avs.evaluation.evaluate_semantic import class_order, class_protocols, evaluate_semantic
from icf_avs.evaluation.robustness.audio_reliance import Verdict, judge, worst
from icf_avs.evaluation.robustness.negative_audio import missing_donor_reason
from icf_avs.evaluation.robustness.runner import ALL, SCORE_NAMES, evaluate_robustness
from icf_avs.evaluation.test_sets import EvaluationTask, set_folder
from icf_avs.provenance import revision
from icf_avs.score_tables import (
    COLUMNS,
    DEFAULT_SETTINGS,
    SCORES,
    Row,
    ScoredModel,
    ScoreTable,
    ScoringSettings,
    cell,
    check_tables,
    save_notes,
    score_rows,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from icf_avs.datasets.video_clip import ClipRecord

ROBUSTNESS = ScoreTable(
    "robustness",
    (*ScoredModel._fields, "test_set", "audio", "category", "clips", "frames", *SCORE_NAMES, "seed", "revision"),
    ("data", "test_set"),
)


def evaluate_command(
    task: EvaluationTask, out: Path | None, clips: int | None, seed: int, settings: ScoringSettings = DEFAULT_SETTINGS
) -> None:
    """Score a checkpoint on each test set, write the table and its sidecar, print a summary.

    out       the table (None: results/stamps.csv, or avsbench.csv for sets other than Stamps)
    settings  non-default settings get separate rows (`ScoringSettings.labels`)

    Raises UserError if the table cannot be written: before scoring starts, or after the scores are printed.
    """
    table = out or Path("results") / ("stamps.csv" if task.is_stamps else "avsbench.csv")
    check_tables(table)
    predictor, written = task.predictor, list[Row]()
    semantic = {
        name: ("background", *class_names(set_folder(task.root, name)))
        for name, records in task.records.items()
        if records[0].layout in CLASS_ID_LAYOUTS and predictor.semantic
    }
    for known in semantic.values() if settings.size is not None else ():
        class_order(predictor.classes, known)

    def score(name: str, records: Sequence[ClipRecord], bar: Progress) -> None:
        say, total, audios = partial(bar.console.print, soft_wrap=True), len(records[:clips]), list(AUDIOS)
        if (reason := missing_donor_reason(records, clips)) is not None:
            say(f"{name}: no off-screen row, {reason}")
            audios.remove("offscreen")
        if not all(record.has_waveform for record in records):
            say(f"{name}: no noise row, log-mel windows do not say how loud its clips are")
            audios.remove("noise")
        advance = partial(bar.advance, bar.add_task(name, total=total))
        scores = evaluate_each(predictor, records, audios, seed, clips, advance, settings)
        if name in semantic and settings.size is not None:
            advance = partial(bar.advance, bar.add_task(f"{name}, classes", total=total))
            semantic_scores = evaluate_semantic(predictor, records, semantic[name], clips, advance, settings)
            scores["true"] = {**scores["true"], **class_protocols(semantic_scores)}
        elif name in semantic:
            say(f"{name}: no rows of classes, which are scored at one size; leave --native out")
        rows = score_rows(scores, task.scored, task.label(name), total, seed, settings)
        written.extend(rows)
        SCORES.save(table, rows)
        save_notes(table.with_suffix(".json"), task.scored, task.label(name), settings, scores, task.device)

    def show() -> None:
        if not written:
            return
        shown = [*COLUMNS[:1], *COLUMNS[4:-2]]
        title = "scores (under silence, noise and offscreen lower is better)"
        print_table(title, shown, 4, ([row[column] for column in shown] for row in written))
        print(f"scores of {task.scored}")

    _score_sets(task, score, show)
    print(f"wrote {table} and {table.with_suffix('.json')}")


def robustness_command(task: EvaluationTask, out: Path | None, clips: int | None, seed: int) -> None:
    """Score a checkpoint under every sound; write the table `out`, print a summary and whether audio is used.

    out: None: results/probe.csv, or probe-avsbench.csv for sets other than Stamps. Raises UserError like
    `evaluate_command`.
    """
    table = out or Path("results") / ("probe.csv" if task.is_stamps else "probe-avsbench.csv")
    check_file(table)
    ROBUSTNESS.read(table)
    lines, notes, verdicts = list[list[str]](), list[str](), list[Verdict]()

    def score(name: str, records: Sequence[ClipRecord], bar: Progress) -> None:
        advance = partial(bar.advance, bar.add_task(name, total=len(records[:clips])))
        label, code, rows = task.label(name), revision(), []
        result = evaluate_robustness(task.predictor, records, seed, clips, progress=advance)
        for (audio, category), values in result.scores.items():
            cells = str(values["clips"]), str(values["frames"]), *(cell(values[score]) for score in SCORE_NAMES)
            row = (*task.scored, label, audio, category, *cells, str(seed), code)
            rows.append(dict(zip(ROBUSTNESS.columns, row, strict=True)))
            if category == ALL:
                lines.append([label, audio, *(f"{values[name]:.3f}".replace("nan", "-") for name in SHOWN)])
        notes.extend(f"{label}: {note}" for note in result.notes)
        verdicts.append(judge(result.ious, result.frames, label, seed))
        ROBUSTNESS.save(table, rows)

    def show() -> None:
        if not verdicts:
            return
        print_table("strict scores against the original mask", ["set", "sound", *SHOWN], 2, lines)
        print("\n".join([*notes, f"scores of {task.scored}", worst(verdicts).sentence(task.scored.checkpoint)]))

    _score_sets(task, score, show)
    if task.predictor.semantic:
        print("Scored is the binary mask, what sounds against all else; classes that it names are not scored.")
    print(f"wrote {table}")


SHOWN = ("miou", "drop_miou", "g_miou", "f", "fpr", "null")  # on the terminal


def _score_sets(
    task: EvaluationTask, score: Callable[[str, Sequence[ClipRecord], Progress], None], show: Callable[[], None]
) -> None:
    """Score and save one set at a time, so that an interruption keeps finished sets. Always call `show` at the end."""
    from rich.progress import Progress

    try:
        with Progress(console=progress_console()) as bar:
            for name, records in task.records.items():
                score(name, records, bar)
    finally:
        show()
    for part in task.predictor.missing:
        print(f"scored {part}")


def print_table(title: str, columns: Sequence[str], left: int, lines: Iterable[Sequence[str]]) -> None:
    """Print a table on the terminal, with the first `left` columns left-aligned."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True, title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    table_console().print(table)
