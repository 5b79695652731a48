"""The processes of a run (`accelerate launch` starts several), what they compute on, and who goes first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from icf_avs.config import TrainConfig
from icf_avs.device import find_device
from icf_avs.errors import UserError

PATIENCE = timedelta(hours=2)  # that the others wait while the first renders scenes, downloads, or scores


def processes(device: str = "auto") -> PartialState:
    """This process among those of the run. The first call lets them meet and settles their device: what `find_device`
    says; under `accelerate launch` a GPU for each, or the CPU for all.

    Raises UserError for a device that is not here, and for another one than that of an earlier call.
    """
    if PartialState._shared_state and device == "auto":
        return PartialState()
    place = _place(device)
    state = PartialState(cpu=place.type == "cpu", timeout=PATIENCE)
    if place.index is not None and state.device == torch.device("cuda"):
        torch.cuda.set_device(place)
        state.device = place
    if state.device.type != place.type or place.index not in (None, state.device.index):
        raise UserError(f"device {device!r}: this process trains on {state.device} already; start another for it")
    return state


def _place(device: str) -> torch.device:
    if device == "auto" and parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.device("cpu")
    if "LOCAL_RANK" not in os.environ:
        return find_device(device)
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"device {device!r}: under `accelerate launch` each process has a GPU of its own; choose cuda or cpu, and "
            "the GPUs by its --gpu_ids"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return find_device(device)


def check_processes(config: TrainConfig) -> None:
    """Raise UserError where a batch has not a clip for every process (and turn) of the run."""
    turns, most = config.benchmark.grad_accum_steps if config.benchmark else 1, config.min_batch_size
    parts = processes().num_processes * turns
    if parts > most:
        raise UserError(
            f"recipe {config.name} has steps of {most} clips, which cannot be shared among {parts} "
            f"processes{' and turns' * (turns > 1)}; start at most {most}"
        )


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process enters, then the first of every other machine, then all: what one puts into a cache the
    others find there, whether or not machines share it.
    """
    state = processes()
    with state.main_process_first(), state.local_main_process_first():
        yield
