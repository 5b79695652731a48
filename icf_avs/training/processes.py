"""The processes of a run (`accelerate launch` starts several), and who goes first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState

from icf_avs.config import TrainConfig
from icf_avs.errors import UserError

PATIENCE = timedelta(hours=2)  # that the others wait while the first renders scenes, downloads, or scores


def processes() -> PartialState:
    """This process among those of the run; the first call lets them meet."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def check_processes(config: TrainConfig) -> None:
    """Raise UserError where a batch has not a clip for every process (and turn) of the run."""
    parts = processes().num_processes * (config.benchmark.accumulate if config.benchmark else 1)
    if parts > config.fewest_clips:
        raise UserError(
            f"recipe {config.name} has steps of {config.fewest_clips} clips, which cannot be shared among {parts} "
            f"processes{' and turns' * (parts > processes().num_processes)}; start at most {config.fewest_clips}"
        )


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process enters, then the first of every other machine, then all: what one puts into a cache the
    others find there, whether or not machines share it.
    """
    state = processes()
    with state.main_process_first(), state.local_main_process_first():
        yield
