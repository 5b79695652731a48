"""What the runs say together: means and deviations of rows, and paired tests of what each part and stand-in changes.

Pairs are runs of the same seed, which share the pretrained audio encoder, the weights that both have, and the order of
scenes. With three seeds a paired t-test has two degrees of freedom: p is shown, and so is the difference in standard
deviations of the row it is compared with, which the study's threshold is given in.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean, stdev

from icf_avs.atomic_io import write_text
from icf_avs.errors import UserError
from research.ablation import PARTS, RUNS, parts_path
from research.ablation_rows import ROWS
from research.table import Line, csv_text

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
    ("do(vision)", "all", "sc-no-vision"),
    ("taking a source out", "all", "sc-no-rest"),
    ("three levels against video alone", "all", "video-level"),
    ("three levels against segments alone", "all", "segment-level"),
    ("three levels against frames alone", "all", "frame-level"),
    ("W2 against cosine", "all", "cosine"),
    ("two counterfactuals against one", "all", "k1"),
    ("four counterfactuals against two", "k4", "all"),
    ("eight counterfactuals against two", "k8", "all"),
)
EXAMPLES = 4  # clips shown under four sounds
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
    three things in the image could sound. `deviations`: the difference over the standard deviation, over seeds, of
    the row it is compared with.
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


def summary_command(table: Path, runs: Path, pictures: Path) -> None:
    """Write the two tables of the summary beside `table`, and the plots into `images`; those that need models are
    made from the runs in `runs` if they are there, the example clips beside the runs.
    """
    lines, parts = RUNS.read(table), PARTS.read(parts_path(table))
    if not lines:
        raise UserError(f"{table} has no run yet; make some with `python -m research ablation`")
    for path, text in summaries(table, lines, parts).items():
        write_text(path, text)
        print(f"wrote {path}")
    from research.plots import reliance

    reliance(lines, pictures / "ablation_reliance.png")
    print(f"wrote {pictures / 'ablation_reliance.png'}")
    whole, plain = (runs / f"{row}-seed0" / "model.safetensors" for row in ("all", "baseline"))
    if whole.exists() and plain.exists():
        _plots_of_models(whole, plain, runs, pictures)


def summaries(table: Path, lines: list[Line], parts: list[Line]) -> dict[Path, str]:
    """The files of the summary and what they hold."""
    contents = {
        "rows": (("row", "what", "seeds", *SHOWN), rows_table(lines)),
        "pairs": (PAIR_COLUMNS, pairs_table(lines, parts)),
    }
    return {
        table.with_name(f"{table.stem}_{name}.csv"): csv_text(columns, content)
        for name, (columns, content) in contents.items()
    }


def _plots_of_models(whole: Path, plain: Path, runs: Path, pictures: Path) -> None:
    from icf_avs.checkpoint.serialization import load_checkpoint
    from icf_avs.datasets.layouts import read_set
    from icf_avs.evaluation.test_sets import FOLDERS, default_sets
    from icf_avs.training.composed_data import StampsData
    from research.plots import counterfactuals, four_sounds
    from research.scoring import test_clips

    models = {"baseline": load_checkpoint(plain), "all": load_checkpoint(whole)}
    data = StampsData(ROWS["all"].config(0, 1), None, 1, lambda *_: None)
    counterfactuals(models["all"], next(iter(data.validation())), pictures / "ablation_counterfactuals.png")
    print(f"wrote {pictures / 'ablation_counterfactuals.png'}")
    root = default_sets()
    records = read_set(root / FOLDERS["ms3"], "test")[:EXAMPLES]
    clips = test_clips(root, models["all"].visual, models["all"].spec, EXAMPLES)[-len(records) :]
    for record, clip in zip(records, clips, strict=True):
        path = runs / f"four-sounds-{record.name}.png"
        frame = int(clip.truth.flatten(1).any(1).int().argmax())
        four_sounds(models, clip, record.load().frames[frame], frame, path)
        print(f"wrote {path}")
