"""The processes of a run (`accelerate launch` starts several), and who goes first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState

PATIENCE = timedelta(hours=2)  # that the others wait while the first renders scenes, downloads, or scores


def processes() -> PartialState:
    """This process among those of the run; the first call lets them meet."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process enters, then the first of every other machine, then all: what one puts into a cache the
    others find there, whether or not machines share it.
    """
    state = processes()
    with state.main_process_first(), state.local_main_process_first():
        yield
