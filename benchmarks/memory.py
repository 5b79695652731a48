"""(g) Peak memory of inference and of a training step, each in a process of its own, beside TPAVI's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch

from benchmarks.models import PVT, RESNET, Encoder, batch, embedding, ours, tpavi
from benchmarks.processes import finished
from benchmarks.table import Row
from benchmarks.training_step import our_step, peer_step
from benchmarks.turns import Machine, row

ENCODERS = {encoder.name: encoder for encoder in (PVT, RESNET)}


def memory(machine: Machine, encoders: Sequence[Encoder] = (PVT, RESNET), turns: int = 1) -> Iterator[Row]:
    """Rows memory-inference-NAME and memory-training-NAME. What a process takes at most hardly changes from one turn to
    the next: one is enough.
    """
    for encoder in encoders:
        for task in ("inference", "training"):
            peaks = [
                [finished(machine, "-m", "benchmarks.memory", task, who, encoder.name).peak for _ in range(turns)]
                for who in ("ours", "tpavi")
            ]
            yield row(f"memory-{task}-{encoder.name}", *peaks, "TPAVI, same encoder", machine, "MB")


def once(task: str, who: str, encoder: Encoder, size: int = 224) -> None:
    """Do the task; a training step twice, as the second finds the optimizer's state in memory."""
    given = batch(size=size)
    if task == "training":
        step = our_step(encoder, given) if who == "ours" else peer_step(encoder, given)
    elif who == "ours":
        model = ours(encoder)
        step = torch.inference_mode()(lambda: model(given.frames, given.waveforms, given.valid))
    else:
        model, sound = tpavi(encoder), embedding(given)
        step = torch.inference_mode()(lambda: model(given.frames, sound))
    step()
    if task == "training":
        step()


if __name__ == "__main__":
    once(sys.argv[1], sys.argv[2], ENCODERS[sys.argv[3]])
