"""`icf probe`: the robustness of one checkpoint to negative audio, as a table (CSV) and a page (HTML)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icf_avs.atomic_io import check_file, check_folder, write_text
from icf_avs.console import progress_console
from icf_avs.datasets.layouts import read_set
from icf_avs.device import find_device
from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate import Split, choose_sets, data_name, identity, set_folder
from icf_avs.evaluation.robustness.report import page
from icf_avs.evaluation.robustness.runner import CONDITIONS, SetProbe, probe_set
from icf_avs.evaluation.robustness.scores import ALL
from icf_avs.evaluation.robustness.table import read_table, rows_of, save_table
from icf_avs.evaluation.robustness.verdict import RESAMPLES, Verdict, judge, worst
from icf_avs.evaluation.score_tables import Scored, hardware, revision

if TYPE_CHECKING:
    import torch

BINARY_ONLY = "the binary mask, what sounds against all else; the classes that this checkpoint names are not scored"


def probe_command(
    checkpoint: str | None,
    data: Path | None,
    sets: Sequence[str] | None,
    out: Path | None,
    clips: int | None,
    seed: int,
    split: Split = "test",
    device: str = "auto",
) -> None:
    """Probe `checkpoint` on a split of each set; write OUT/probe.csv and OUT/probe-CHECKPOINT-DIGEST.html.

    data, sets, split  as in `choose_sets`; out  folder (None: results). The files of sets of another origin than Stamps
    are named probe-avsbench. Raises UserError for sets that are not there or cannot be read, and for files that cannot
    be written: before anything is scored, or once the scores are printed.
    """
    from rich.progress import Progress

    from icf_avs import load

    folder = out or Path("results")
    check_folder(folder)
    place = find_device(device)
    loaded = load(checkpoint, place)
    scored = Scored(*identity(checkpoint, loaded), data_name(data))
    root, sets, is_stamps = choose_sets(data, sets, split)
    stem = "probe" if is_stamps else "probe-avsbench"
    table, report = folder / f"{stem}.csv", folder / f"{stem}-{loaded.name}-{scored.digest}.html"
    check_file(table)
    check_file(report)
    read_table(table)
    records = {name: read_set(set_folder(root, name), split) for name in sets}
    probes: dict[str, SetProbe] = {}
    verdicts: list[Verdict] = []
    with Progress(console=progress_console()) as bar:
        tasks = {
            name: bar.add_task(name, total=len(records[name][:clips]) * len(CONDITIONS), start=False) for name in sets
        }
        for name in sets:
            bar.start_task(tasks[name])
            advance = partial(bar.advance, tasks[name])
            probe = probe_set(loaded.predictor, records[name], seed, clips, progress=advance)
            label = name if split == "test" else f"{name}-{split}"
            probes[label] = probe
            verdicts.append(judge(probe.ious, probe.frames, label, seed))
            try:  # set by set: what is finished outlives an interruption
                save_table(table, rows_of(probe, scored, label, seed))
            except UserError:
                bar.stop()
                _tell(probes, verdicts, scored)
                raise
    facts = _facts(scored, probes, seed, is_stamps, split, place)
    if loaded.predictor.semantic:
        facts["what is scored"] = BINARY_ONLY
    _tell(probes, verdicts, scored)
    if "what is scored" in facts:
        print(f"Scored is {BINARY_ONLY}.")
    write_text(report, page(loaded.name, probes, verdicts, facts))
    for part in loaded.predictor.missing:
        print(f"scored {part}")
    print(f"wrote {table} and {report}")


def _tell(probes: dict[str, SetProbe], verdicts: list[Verdict], scored: Scored) -> None:
    _show(probes)
    print(f"scores of {scored}")
    print(worst(verdicts).sentence(scored.checkpoint))


def _facts(
    scored: Scored, probes: dict[str, SetProbe], seed: int, is_stamps: bool, split: Split, device: torch.device
) -> dict[str, str]:
    kind = "composed Stamps scenes, not natural video" if is_stamps else "sets in the AVSBench layouts"
    counts = ", ".join(f"{test_set} {probe.clips} clips" for test_set, probe in probes.items())
    machine = hardware(device)
    return {
        "checkpoint": str(scored),
        "data": f"{scored.data}: {kind}; {split} split, {counts}",
        "seed of noise, donors and interval": f"{seed}; {RESAMPLES} draws of the clips",
        "command": shlex.join(["icf", *sys.argv[1:]]),
        "hardware": ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None),
        "revision": revision(),
    }


def _show(probes: dict[str, SetProbe]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
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
    for test_set, probe in probes.items():
        for (audio, subset), scores in probe.scores.items():
            if subset == ALL:
                cells = (f"{scores[name]:.3f}".replace("nan", "-") for name in names)
                table.add_row(test_set, audio, *cells)
    Console().print(table)
