"""`icf evaluate --robustness`: scores of a checkpoint under negative audio, as a table (CSV) and a page (HTML)."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path

from icf_avs.atomic_io import check_file, write_text
from icf_avs.console import counted, progress_console, table_console
from icf_avs.errors import UserError
from icf_avs.evaluation.robustness.audio_reliance import RESAMPLES, Verdict, judge, worst
from icf_avs.evaluation.robustness.csv_table import read_table, rows_of, save_table
from icf_avs.evaluation.robustness.report import page
from icf_avs.evaluation.robustness.runner import CONDITIONS, RobustnessResult, evaluate_robustness
from icf_avs.evaluation.robustness.scores import ALL
from icf_avs.evaluation.score_tables import Scored, hardware, revision
from icf_avs.evaluation.test_sets import Task

BINARY_ONLY = "the binary mask, what sounds against all else; the classes that this checkpoint names are not scored"


def robustness_command(task: Task, out: Path | None, clips: int | None, seed: int) -> None:
    """Score a checkpoint under every sound; write the table `out` and a page beside it, STEM-CHECKPOINT-DIGEST.html.

    out: None: results/probe.csv, or probe-avsbench.csv for sets of another origin than Stamps. Raises UserError for
    files that cannot be written: before anything is scored, or once the scores are printed.
    """
    from rich.progress import Progress

    loaded, scored = task.segmenter, task.scored
    table = out or Path("results") / ("probe.csv" if task.is_stamps else "probe-avsbench.csv")
    report = table.with_name(f"{table.stem}-{loaded.name}-{scored.digest}.html")
    check_file(table)
    check_file(report)
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
                save_table(table, rows_of(result, scored, label, seed))
            except UserError:
                bar.stop()
                _print(results, verdicts, scored)
                raise
    facts = _facts(task, results, seed)
    if loaded.predictor.semantic:
        facts["what is scored"] = BINARY_ONLY
    _print(results, verdicts, scored)
    if "what is scored" in facts:
        print(f"Scored is {BINARY_ONLY}.")
    write_text(report, page(loaded.name, results, verdicts, facts))
    for part in loaded.predictor.missing:
        print(f"scored {part}")
    print(f"wrote {table} and {report}")


def _print(results: dict[str, RobustnessResult], verdicts: list[Verdict], scored: Scored) -> None:
    _show(results)
    print(f"scores of {scored}")
    print(worst(verdicts).sentence(scored.checkpoint))


def _facts(task: Task, results: dict[str, RobustnessResult], seed: int) -> dict[str, str]:
    kind = "composed Stamps scenes, not natural video" if task.is_stamps else "sets in the AVSBench layouts"
    counts = ", ".join(f"{test_set} {counted(result.clips, 'clip')}" for test_set, result in results.items())
    machine = hardware(task.device)
    return {
        "checkpoint": str(task.scored),
        "data": f"{task.scored.data}: {kind}; {task.split} split, {counts}",
        "seed of noise, donors and interval": f"{seed}; {RESAMPLES} draws of the clips",
        "command": shlex.join(["icf", *sys.argv[1:]]),
        "hardware": ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None),
        "revision": revision(),
    }


def _show(results: dict[str, RobustnessResult]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    names = ("miou", "drop_miou", "g_miou", "f", "fpr", "null")
    table = Table(
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
        title="strict scores against the original mask",
    )
    for column in ("set", "sound", *names):
        table.add_column(column, justify="left" if column in ("set", "sound") else "right", no_wrap=True)
    for test_set, result in results.items():
        for (audio, subset), scores in result.scores.items():
            if subset == ALL:
                cells = (f"{scores[name]:.3f}".replace("nan", "-") for name in names)
                table.add_row(test_set, audio, *cells)
    table_console().print(table)
