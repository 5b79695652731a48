"""Processes of a run (`accelerate launch` starts several): their device, and which of them goes first."""

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

TIMEOUT = timedelta(hours=2)  # longest wait for the first process, which renders scenes, downloads and scores


def processes(device: str = "auto") -> PartialState:
    """Return the state of this process in the run. The first call connects the processes and sets their device: that
    of `find_device`; under `accelerate launch`, one GPU per process, or the CPU for all.

    Raises UserError if the device is unavailable, or differs from that of an earlier call.
    """
    if PartialState._shared_state and device == "auto":
        return PartialState()
    target = _device(device)
    state = PartialState(cpu=target.type == "cpu", timeout=TIMEOUT)
    if target.index is not None and state.device == torch.device("cuda"):
        torch.cuda.set_device(target)
        state.device = target
    if state.device.type != target.type or target.index not in (None, state.device.index):
        raise UserError(f"device {device!r}: this process trains on {state.device} already; start another for it")
    return state


def _device(device: str) -> torch.device:
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
    """Raise UserError if a batch has too few clips for all processes and gradient accumulation steps."""
    accumulation_steps, max_parts = config.benchmark.grad_accum_steps if config.benchmark else 1, config.min_batch_size
    parts = processes().num_processes * accumulation_steps
    if parts > max_parts:
        raise UserError(
            f"recipe {config.name} has steps of {max_parts} clips, which cannot be shared among {parts} "
            f"processes{' and turns' * (accumulation_steps > 1)}; start at most {max_parts}"
        )


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the first process, then in the first process of every other machine, then in all others. They
    find what the first one put into a cache, whether or not the machines share it.
    """
    state = processes()
    with state.main_process_first(), state.local_main_process_first():
        yield
