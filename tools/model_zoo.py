"""results/models.csv: one line per shipped model, from its checkpoint and results/bench.csv."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from safetensors import safe_open

from icf_avs.checkpoint.serialization import read_recipe
from icf_avs.score_tables import read_csv

SPEEDS = {"stamps": "segment-1fps-600s", "natural": "segment-natural-1fps-600s"}  # ten minutes of 720p, 2 cores
COLUMNS = ("model", "size", "classes", "trained on", "speed", "licence")


def model_zoo(checkpoints: Path, results: Path) -> str:
    """Return the CSV text for all *.safetensors of a folder. Raises UserError for a file that is not a checkpoint."""
    _, speeds = read_csv(results / "bench.csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for path in sorted(checkpoints.glob("*.safetensors")):
        recipe = read_recipe(path)
        with safe_open(path, framework="np") as file:
            classes = json.loads(file.metadata()["config"])["classes"]
        measured = SPEEDS.get(path.stem), "real time"
        speed = [row["ratio"] for row in speeds if (row["benchmark"], row["reference_name"]) == measured]
        writer.writerow((
            path.stem, f"{path.stat().st_size / 1e6:.1f} MB", len(classes), recipe["data"].split(",")[0],
            f"{speed[0]} x real time" if speed else "-", recipe["licence"].split(";")[0].removeprefix("weights "),
        ))  # fmt: skip
    return text.getvalue()
