"""What ends a run, as one line: full disk, vanished data, no memory, Ctrl-C. The last checkpoint stays."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from icf_avs.errors import UserError
from icf_avs.signals import Interrupted

if TYPE_CHECKING:
    from icf_avs.training.trainer import Trainer

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "ALLOC_FAILED")  # in the words of a RuntimeError


@contextmanager
def as_user_errors(trainer: Trainer, go_on: str) -> Iterator[None]:
    """Raise UserError in place of OSError and of an allocation that failed: what happened at which step, what to do.
    Interrupted says so, too. go_on: the command that resumes the run.
    """
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(stop.number, _stopped(trainer, go_on)) from None
    except BrokenPipeError:  # nobody reads what is printed: no fault of the run
        raise
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        fix = "make room" if error.errno in _FULL else "check that the data and the run folder exist"
        raise UserError(f"{what}, at step {trainer.step}; {fix}, and {_go_on(trainer)}") from error
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        said = str(error).partition("\n")[0].partition(" Tried")[0].rstrip(".") or "none is left"
        raise UserError(
            f"out of memory at step {trainer.step} ({said[:160]}); end other programs, or share the batch among more "
            f"processes (accelerate launch), and {_go_on(trainer)}"
        ) from error


def _stopped(trainer: Trainer, go_on: str) -> str:
    last = trainer.folder / "last.pt"
    if not last.exists():
        return "stopped before the first step; nothing is kept"
    return f"stopped; {last} has step {trainer.step} of {trainer.total}; go on with: {go_on}"


def _is_memory(error: Exception) -> bool:
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(words in str(error) for words in _NO_MEMORY)


def _go_on(trainer: Trainer) -> str:
    last = trainer.folder / "last.pt"
    return f"go on from {last} with --resume" if last.exists() else "start anew: no checkpoint had been kept yet"
