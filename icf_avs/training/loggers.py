"""Trackers that log curves and images of a run: TensorBoard if installed, Weights & Biases on request.

TensorBoard writes local files. W&B uploads the run, and is loaded only if `wandb` is True. No other tracker of
accelerate is used, whatever is installed or set in the environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from icf_avs.atomic_io import write_text
from icf_avs.config import TrainConfig
from icf_avs.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

PROJECT = "icf-avs"


def start_trackers(accelerator: Accelerator, folder: Path, config: TrainConfig, step: int, wandb: bool) -> None:
    """Attach trackers to `accelerator` for a run that starts or resumes at `step`; call it in the writing process.

    TensorBoard writes to folder/tensorboard, W&B to folder/wandb. A resumed run hides TensorBoard's entries from `step`
    on, and continues the same W&B run. Raises UserError if W&B is requested and unavailable.
    """
    trackers: list[GeneralTracker] = []
    if importlib.util.find_spec("tensorboard"):
        trackers.append(TensorBoardTracker("tensorboard", folder, purge_step=step))
    if wandb:
        identity = folder / "wandb-id.txt"  # identifies a resumed run to W&B
        if not identity.exists():
            write_text(identity, uuid4().hex[:12] + "\n")
        known = {"id": identity.read_text(encoding="utf-8").strip(), "resume": "allow"}
        trackers.append(WandBTracker(PROJECT, name=config.name, dir=str(folder), config=asdict(config), **known))
    accelerator.log_with = trackers
    try:
        accelerator.init_trackers(PROJECT)
    except Exception as error:
        if not wandb or not isinstance(error, importlib.import_module("wandb.errors").Error):
            raise
        line = str(error).partition("\n")[0]
        raise UserError(f"W&B: {line}; `wandb login`, or WANDB_MODE=offline to keep the run here") from error


def check_wandb() -> None:
    """Raise UserError if Weights & Biases is not installed."""
    if not importlib.util.find_spec("wandb"):
        raise UserError("--wandb needs Weights & Biases: pip install 'icf-avs[wandb]'")


def log_text(accelerator: Accelerator, name: str, values: dict) -> None:
    """Show a dictionary as JSON on TensorBoard's text page. W&B stores the recipe as the run's configuration."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log({name: f"```\n{json.dumps(values, indent=1)}\n```"})


def log_images(accelerator: Accelerator, name: str, images: Sequence[np.ndarray], step: int) -> None:
    """Log images, uint8 [H, W, 3] of equal size, to every tracker."""
    for tracker in accelerator.trackers:
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: np.stack(images)}, step=step, **layout)


def end_trackers(accelerator: Accelerator, failed: bool) -> None:
    """Flush and close the trackers; W&B marks a failed run."""
    for tracker in accelerator.trackers:
        if failed and tracker.name == "wandb":
            tracker.tracker.finish(exit_code=1)
        else:
            tracker.finish()
    accelerator.trackers = []
