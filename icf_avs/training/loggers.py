"""Where the curves and images of a run go beside its folder: TensorBoard if installed, Weights & Biases if asked.

TensorBoard writes files. W&B sends the run to its host, and nothing here loads it unless `wandb` is True; no other
tracker of accelerate's is ever chosen, whatever is installed or set in the environment.
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
    """Give `accelerator` the trackers of a run that begins or goes on at `step`; call it in the writing process.

    TensorBoard's files are in folder/tensorboard, W&B's in folder/wandb. A run that goes on hides what TensorBoard has
    of steps from `step` on, and stays the same run of W&B. Raises UserError when W&B is wanted and unavailable.
    """
    found: list[GeneralTracker] = []
    if importlib.util.find_spec("tensorboard"):
        found.append(TensorBoardTracker("tensorboard", folder, purge_step=step))
    if wandb:
        identity = folder / "wandb-id.txt"  # by which W&B knows a resumed run again
        if not identity.exists():
            write_text(identity, uuid4().hex[:12] + "\n")
        known = {"id": identity.read_text(encoding="utf-8").strip(), "resume": "allow"}
        found.append(WandBTracker(PROJECT, name=config.name, dir=str(folder), config=asdict(config), **known))
    accelerator.log_with = found
    try:
        accelerator.init_trackers(PROJECT)
    except Exception as error:
        if not wandb or not isinstance(error, importlib.import_module("wandb.errors").Error):
            raise
        line = str(error).partition("\n")[0]
        raise UserError(f"W&B: {line}; `wandb login`, or WANDB_MODE=offline to keep the run here") from error


def check_wandb() -> None:
    """Raise UserError where Weights & Biases is not installed."""
    if not importlib.util.find_spec("wandb"):
        raise UserError("--wandb needs Weights & Biases: pip install 'icf-avs[wandb]'")


def log_text(accelerator: Accelerator, name: str, values: dict) -> None:
    """Show a dictionary, as JSON, on TensorBoard's page of texts. W&B has the recipe as the run's configuration."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log({name: f"```\n{json.dumps(values, indent=1)}\n```"})


def log_images(accelerator: Accelerator, name: str, images: Sequence[np.ndarray], step: int) -> None:
    """Show images, uint8 [H, W, 3] of one size, in every tracker."""
    for tracker in accelerator.trackers:
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: np.stack(images)}, step=step, **layout)


def end_trackers(accelerator: Accelerator, failed: bool) -> None:
    """Let the trackers write what is left; W&B marks a run that failed."""
    for tracker in accelerator.trackers:
        if failed and tracker.name == "wandb":
            tracker.tracker.finish(exit_code=1)
        else:
            tracker.finish()
    accelerator.trackers = []
