"""Tables of the embedded benchmark: those of the public sets, and our scenes.csv, which says what is in each clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from icf_avs.datasets.clip_files import AVSS_COLUMNS, semantic_uid, write_bytes, write_table

SINGLE, MULTI, CROSS, SEMANTIC = "Single-source", "Multi-sources", "Cross", "AVSS"


def write_tables(out: Path, rows: list[dict], class_names: tuple[str, ...]) -> None:
    """Write the tables of all sets from the records of their clips (see `stamps.py`), in the order given."""
    of = {dataset: [row for row in rows if row["dataset"] == dataset] for dataset in (SINGLE, MULTI, CROSS)}
    if of[SINGLE]:
        table = [(row["name"], 0, row["sounding"][0], row["split"]) for row in of[SINGLE]]
        write_table(out / SINGLE / "s4_meta_data.csv", ("name", "start", "category", "split"), table)
    for dataset in (MULTI, CROSS):
        if of[dataset]:
            table = [(row["name"], row["split"]) for row in of[dataset]]
            write_table(out / dataset / "ms3_meta_data.csv", ("video_id", "split"), table)
    for dataset in (SINGLE, MULTI, CROSS):
        if of[dataset]:
            _write_scenes(out / dataset, of[dataset], str)
    both = of[SINGLE] + of[MULTI]
    if both:
        labels = ["v1s"] * len(of[SINGLE]) + ["v1m"] * len(of[MULTI])
        table = [
            # The public table calls a clip in which nothing sounds "background".
            (
                row["name"],
                semantic_uid(row["name"]),
                0,
                0,
                "_".join(row["sounding"]) or "background",
                row["split"],
                label,
            )
            for row, label in zip(both, labels, strict=True)
        ]
        write_table(out / SEMANTIC / "metadata.csv", AVSS_COLUMNS, table)
        ids = {name: number for number, name in enumerate(("background", *class_names))}
        write_bytes(out / SEMANTIC / "label2idx.json", json.dumps(ids, indent=1).encode())
        _write_scenes(out / SEMANTIC, both, semantic_uid)


def _write_scenes(folder: Path, rows: list[dict], clip_id: Callable[[str], str]) -> None:
    """scenes.csv: classes joined by blanks; stamps joined by ";", each stem|class|one digit a second (1: it sounds)."""
    header = ("video_id", "split", "seed", "index", "sounding", "onscreen", "stamps")
    table = []
    for row in rows:
        stamps = ";".join("|".join(stamp) for stamp in row["stamps"])
        classes = " ".join(row["sounding"]), " ".join(row["onscreen"])
        table.append((clip_id(row["name"]), row["split"], row["seed"], row["index"], *classes, stamps))
    write_table(folder / "scenes.csv", header, table)
