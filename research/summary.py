"""`python -m research summary`: means and deviations of rows, paired tests, and the curves of figure 5.

Pairs are runs of the same seed, which share the pretrained audio encoder, the scenes and their order. A paired t-test
over three seeds has only two degrees of freedom, so the difference of each pair is shown too.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean, stdev

from icf_avs.atomic_io import write_text
from icf_avs.errors import UserError
from icf_avs.evaluation.robustness.negative_audio import MIXED, SNRS
from research.reproduction import RUNS
from research.rows import ROWS
from research.table import Line, csv_text

PAIRS = (  # row, reference row
    ("cdcl", "baseline"),
    ("mit+cdcl", "baseline"),
    ("all", "baseline"),
    ("all", "mit+cdcl"),
    ("all", "cdcl"),
    ("trained-cdcl", "trained-baseline"),
    ("trained-mit+cdcl", "trained-baseline"),
    ("trained-all", "trained-baseline"),
    ("tpavi-all", "tpavi-baseline"),
    ("avsegformer-all", "avsegformer-baseline"),
    ("interventions", "baseline"),
    ("all+interventions", "interventions"),
    ("other-texts", "baseline"),
    ("other-texts", "all"),
    ("guided", "baseline"),
    ("guided", "all+interventions"),
)
PAIR_COLUMNS = ("row", "against", "score", "seeds", "difference", "of_each_seed", "p")
SHOWN = (  # scores and diagnostics in the table of rows; the table of runs has all of them
    "miou", "g_miou", "miou_noise", "miou_offscreen", "fpr_offscreen", "miou_snr-20db", "miou_mixed-2", "z_cosine",
    "z_other_class", "joint_auc",
)  # fmt: skip
COMPARED = ("miou", "g_miou", "miou_offscreen", "miou_snr-20db", "miou_mixed-2")
CURVES = ("baseline", "all", "interventions", "all+interventions", "guided")


def spread(values: list[float]) -> str:
    """Format as "0.712 ± 0.004", or the mean alone for one value; empty without values."""
    if not values or any(map(math.isnan, values)):
        return ""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def rows_table(lines: list[Line]) -> list[Line]:
    """Return a line for each row that has runs. Raises UserError if those of a row differ in more than the seed."""
    table = []
    for name, row in ROWS.items():
        runs = [line for line in lines if line["row"] == name]
        if len({run["config_hash"] for run in runs}) > 1:
            steps = ", ".join(sorted({run["steps"] for run in runs}, key=int))
            raise UserError(f"{name}: its runs have different settings (steps: {steps}); keep those of one setting")
        if runs:
            cells = {score: spread([float(run[score]) for run in runs]) for score in SHOWN}
            facts = {"row": name, "answers": row.answers, "seeds": str(len(runs)), "steps": runs[0]["steps"]}
            table.append(facts | cells)
    return table


def pairs_table(lines: list[Line]) -> list[Line]:
    """Return differences of PAIRS over the seeds that both rows have, with a two-sided paired t-test."""
    runs, table = {(line["row"], line["seed"]): line for line in lines}, []
    for row, against in PAIRS:
        seeds = [seed for name, seed in runs if name == row and (against, seed) in runs]
        for score in COMPARED if seeds else ():
            gains = [float(runs[row, seed][score]) - float(runs[against, seed][score]) for seed in seeds]
            table.append(
                {
                    "row": row,
                    "against": against,
                    "score": score,
                    "seeds": str(len(seeds)),
                    "difference": f"{mean(gains):+.4f}",
                    "of_each_seed": " ".join(f"{gain:+.3f}" for gain in gains),
                    "p": paired_p(gains),
                }
            )
    return table


def paired_p(gains: list[float]) -> str:
    """Return the two-sided p of a paired t-test; empty for fewer than two pairs."""
    if len(gains) < 2 or stdev(gains) == 0:
        return ""
    from scipy.stats import ttest_1samp

    return f"{ttest_1samp(gains, 0.0).pvalue:.3f}"


def summary_command(table: Path, pictures: Path) -> None:
    """Write the two tables of the summary beside `table`, and the curves into `pictures`."""
    lines = RUNS.read(table)
    if not lines:
        raise UserError(f"{table} has no run yet; make some with `python -m research reproduction`")
    columns = ("row", "answers", "seeds", "steps", *SHOWN)
    for name, text in (
        ("rows", csv_text(columns, rows_table(lines))),
        ("pairs", csv_text(PAIR_COLUMNS, pairs_table(lines))),
    ):
        path = table.with_name(f"{table.stem}_{name}.csv")
        write_text(path, text)
        print(f"wrote {path}")
    curves(lines, pictures / "reproduction.png")
    print(f"wrote {pictures / 'reproduction.png'}")


def curves(lines: list[Line], path: Path) -> None:
    """Plot mIoU against the noise added to the sound, and against the number of mixed frames of five."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    axes = (
        ("noise added to the sound (dB below it)", ["none", "40", "30", "20"], ["miou", *sorted(SNRS, reverse=True)]),
        ("frames of five that are mixed", ["0", "1", "2", "3", "4"], ["miou", *MIXED]),
    )
    for panel, (label, ticks, names) in zip(panels, axes, strict=True):
        for row in CURVES:
            runs = [line for line in lines if line["row"] == row]
            if runs:
                keys = [name if name == "miou" else f"miou_{name}" for name in names]
                values = [[float(run[key]) for run in runs] for key in keys]
                deviations = [stdev(each) if len(each) > 1 else 0.0 for each in values]
                panel.errorbar(ticks, [mean(each) for each in values], deviations, marker="o", capsize=3, label=row)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mIoU, strict")
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
