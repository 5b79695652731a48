"""results/checkpoints.csv: training metadata stored in the shipped checkpoints."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from safetensors import safe_open

from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe
from icf_avs.config import TrainConfig
from icf_avs.config_dict import from_dict

COLUMNS = (
    "checkpoint", "command", "seed", "kinds", "trained parameters", "MB", "pictures", "clips", "steps", "minutes",
    "processor", "gpu", "threads", "torch", "revision", "data", "licence",
)  # fmt: skip


def checkpoint_table(folder: Path) -> str:
    """Return the CSV text for all *.safetensors of a folder. Raises UserError for a file that is not a checkpoint."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for path in sorted(folder.glob("*.safetensors")):
        recipe = read_recipe(path)
        run, machine = recipe["config"], recipe["hardware"]
        run = from_dict(TrainConfig, run)
        data = run.words or run.data
        sizes = (
            " + ".join(str(getattr(data, of)) for of in (kind, f"highres_{kind}") if hasattr(data, of))
            for kind in ("images", "clips")
        )
        steps = f"{run.audio_pretrain_steps} + {run.steps} + {run.highres_steps}"
        with safe_open(path, framework="np") as file:
            kinds = len(json.loads(file.metadata()["config"])["classes"])
        # The file also holds untrained tensors (embeddings of names, running means).
        parameters = sum(
            p.numel() for p in load_checkpoint(path, without_frozen_weights=True).parameters() if p.requires_grad
        )
        writer.writerow((
            path.stem, recipe["command"], run.seed, kinds, parameters, f"{path.stat().st_size / 1e6:.1f}",
            *sizes, steps, recipe["minutes"],
            machine["processor"], machine["gpu"] or "none", machine["threads"], machine["torch"], recipe["revision"],
            recipe["data"], recipe["licence"],
        ))  # fmt: skip
    return text.getvalue()
