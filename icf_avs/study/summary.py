"""What the runs say together: means and deviations of rows, and paired tests of what each part and stand-in changes.

Pairs are runs of the same seed, which share the taught ear, the weights that both have, and the order of scenes. With
three seeds a paired t-test has two degrees of freedom: p is shown, and so is the difference in standard deviations of
the row it is compared with, which is what the study's bar is set in.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from statistics import mean, stdev

from icf_avs.errors import UserError
from icf_avs.results import write_whole
from icf_avs.study.rows import ROWS
from icf_avs.study.table import COLUMNS, PART_COLUMNS, SCORES, Line, parts_path, read_table

SHOWN = ("miou", "f", "miou_silence", "miou_noise", "miou_offscreen", "fpr_offscreen", "g_miou")
PAIRS = (  # question, row, row it is compared with
    ("MIT alone", "mit", "baseline"),
    ("SC alone", "sc", "baseline"),
    ("CDCL alone", "cdcl", "baseline"),
    ("MIT beside SC and CDCL", "all", "sc+cdcl"),
    ("SC beside MIT and CDCL", "all", "mit+cdcl"),
    ("CDCL beside MIT and SC", "all", "mit+sc"),
    ("the whole method", "all", "baseline"),
    ("SC against shuffled sounds", "all", "shuffled"),
    ("SC against random vectors", "all", "random"),
    ("SC against dropout", "all", "dropout"),
    ("do(vision)", "all", "sc-audio-only"),
    ("three levels against video alone", "all", "video-level"),
    ("three levels against segments alone", "all", "segment-level"),
    ("three levels against frames alone", "all", "frame-level"),
    ("W2 against cosine", "all", "cosine"),
    ("two counterfactuals against one", "all", "k1"),
    ("four counterfactuals against two", "k4", "all"),
    ("eight counterfactuals against two", "k8", "all"),
)
PAIR_COLUMNS = ("question", "row", "against", "scenes", "score", "seeds", "difference", "deviations", "p")


def rows_table(lines: list[Line]) -> list[Line]:
    """One line a row: seeds, and mean ± standard deviation over them of the scores that are shown."""
    table = []
    for name in ROWS:
        runs = [line for line in lines if line["row"] == name]
        if runs:
            cells = {score: spread([float(run[score]) for run in runs]) for score in SHOWN}
            table.append({"row": name, "what": ROWS[name].what, "seeds": str(len(runs)), **cells})
    return table


def spread(values: list[float]) -> str:
    """ "0.712 ± 0.004", or the mean alone for one value."""
    if any(math.isnan(value) for value in values):
        return ""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def pairs_table(lines: list[Line], parts: list[Line]) -> list[Line]:
    """Differences of PAIRS in mIoU, G-mIoU and mIoU under off-screen sound, over all scenes; and in mIoU where two or
    three things in the picture could sound. `deviations`: the difference over the standard deviation, over seeds, of the
    row it is compared with.
    """
    by_run = {(line["row"], line["seed"]): line for line in lines}
    by_part = {(line["row"], line["seed"], line["test_set"], line["candidates"]): line for line in parts}
    table = []
    for question, row, against in PAIRS:
        seeds = sorted(
            {seed for name, seed in by_run if name == row} & {seed for name, seed in by_run if name == against}
        )
        if not seeds:
            continue

        def compare(scenes: str, score: str, of_run, question=question, row=row, against=against, seeds=seeds) -> None:
            ours, theirs = ([of_run(name, seed) for seed in seeds] for name in (row, against))
            gains = [a - b for a, b in zip(ours, theirs, strict=True)]
            deviation = stdev(theirs) if len(theirs) > 1 else 0.0
            table.append(
                {
                    "question": question,
                    "row": row,
                    "against": against,
                    "scenes": scenes,
                    "score": score,
                    "seeds": str(len(seeds)),
                    "difference": f"{mean(gains):+.4f}",
                    "deviations": f"{mean(gains) / deviation:+.1f}" if deviation else "",
                    "p": paired_p(gains),
                }
            )

        for score in ("miou", "g_miou", "miou_offscreen"):
            compare("all", score, lambda name, seed, score=score: float(by_run[name, seed][score]))

        def crowded(name: str, seed: str) -> float:
            found = [
                by_part[name, seed, "all", number] for number in ("2", "3") if (name, seed, "all", number) in by_part
            ]
            frames = [int(part["frames"]) for part in found]
            return sum(float(part["miou"]) * n for part, n in zip(found, frames, strict=True)) / max(1, sum(frames))

        compare("2 or 3 candidates", "miou", crowded)
    return table


def paired_p(gains: list[float]) -> str:
    """Two-sided p of a paired t-test, empty with fewer than two pairs."""
    if len(gains) < 2 or stdev(gains) == 0:
        return ""
    from scipy.stats import ttest_1samp

    return f"{ttest_1samp(gains, 0.0).pvalue:.3f}"


def summary_command(table: Path, runs: Path | None) -> None:
    """Write the two tables of the summary beside `table`, and the plots beside them in docs/."""
    lines, parts = read_table(table, COLUMNS), read_table(parts_path(table), PART_COLUMNS)
    if not lines:
        raise UserError(f"{table} has no run yet; make some with `icf study ablation`")
    columns = ("row", "what", "seeds", *SHOWN)
    for name, content, heading in (
        ("rows", rows_table(lines), columns),
        ("pairs", pairs_table(lines, parts), PAIR_COLUMNS),
    ):
        text = io.StringIO()
        writer = csv.DictWriter(text, heading, lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)
        path = table.with_name(f"{table.stem}_{name}.csv")
        write_whole(path, text.getvalue())
        print(f"wrote {path}")
