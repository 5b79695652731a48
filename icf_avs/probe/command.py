"""`icf probe`: the robustness of one checkpoint to negative audio, as a table (CSV) and a page (HTML)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from icf_avs.avsbench.layouts import read_set
from icf_avs.evaluate import choose_sets, set_folder
from icf_avs.probe.report import page
from icf_avs.probe.runner import CONDITIONS, SetProbe, probe_set
from icf_avs.probe.scores import ALL
from icf_avs.probe.table import rows_of, save_table
from icf_avs.probe.verdict import RESAMPLES, Verdict, judge, worst
from icf_avs.results import hardware, revision, write_whole

BINARY_ONLY = "the binary mask, what sounds against all else; the classes that this checkpoint names are not scored"


def probe_command(
    checkpoint: str | None,
    data: Path | None,
    sets: Sequence[str] | None,
    out: Path | None,
    clips: int | None,
    seed: int,
) -> None:
    """Probe `checkpoint` on the test split of each set; write OUT/probe.csv and OUT/probe-CHECKPOINT.html.

    data, sets  as in `choose_sets`; out  folder (None: results). The files of sets of another origin than Stamps
    are named probe-avsbench. Raises UserError for sets that are not there or cannot be read.
    """
    from rich.console import Console
    from rich.progress import Progress

    from icf_avs import load

    loaded = load(checkpoint)
    root, sets, is_stamps = choose_sets(data, sets)
    stem = "probe" if is_stamps else "probe-avsbench"
    folder = out or Path("results")
    table, report = folder / f"{stem}.csv", folder / f"{stem}-{loaded.name}.html"
    records = {name: read_set(set_folder(root, name), "test") for name in sets}
    probes: dict[str, SetProbe] = {}
    verdicts: list[Verdict] = []
    with Progress(console=Console(stderr=True)) as bar:
        tasks = {
            name: bar.add_task(name, total=len(records[name][:clips]) * len(CONDITIONS), start=False) for name in sets
        }
        for name in sets:
            bar.start_task(tasks[name])
            advance = partial(bar.advance, tasks[name])
            probe = probe_set(loaded.model, records[name], seed, clips, progress=advance)
            save_table(table, rows_of(probe, loaded.name, name, seed))  # what is finished outlives an interruption
            probes[name] = probe
            verdicts.append(judge(probe.ious, probe.frames, name, seed))
    facts = _facts(loaded.name, data, probes, seed, is_stamps)
    if getattr(loaded.model, "semantic", None) is not None:
        facts["what is scored"] = BINARY_ONLY
    write_whole(report, page(loaded.name, probes, verdicts, facts))
    _show(probes)
    if "what is scored" in facts:
        print(f"Scored is {BINARY_ONLY}.")
    print(worst(verdicts).sentence(loaded.name))
    print(f"wrote {table} and {report}")


def _facts(name: str, data: Path | None, probes: dict[str, SetProbe], seed: int, is_stamps: bool) -> dict[str, str]:
    kind = "composed Stamps scenes, not natural video" if is_stamps else "sets in the AVSBench layouts"
    counts = ", ".join(f"{test_set} {probe.clips} clips" for test_set, probe in probes.items())
    machine = hardware()
    return {
        "checkpoint": name,
        "data": f"{data or 'default Stamps test sets'}: {kind}; test split, {counts}",
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
