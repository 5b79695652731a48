"""(g) Peak memory of inference on one clip, each network in a separate process, against TPAVI as published."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch

from benchmarks.models import ENCODERS, NETWORKS, PUBLISHED, Encoder, batch, build
from benchmarks.processes import finished
from benchmarks.table import Row
from benchmarks.turns import Machine, row


def memory(machine: Machine, encoders: Sequence[Encoder] = tuple(ENCODERS.values())) -> Iterator[Row]:
    """Yield rows memory-inference-ENCODER-NETWORK. One turn is enough, since the peak memory of a process hardly varies
    between turns.
    """
    for encoder in encoders:
        peaks = {name: finished(machine, "-m", "benchmarks.memory", name, encoder.name).peak for name in NETWORKS}
        for name in NETWORKS[1:]:
            label = f"memory-inference-{encoder.name}-{name}"
            yield row(label, [peaks[name]], [peaks[PUBLISHED]], PUBLISHED, machine, "MB")


@torch.inference_mode()
def once(network: str, encoder: Encoder, size: int = 224) -> None:
    """Segment one clip."""
    given, model = batch(size=size), build(network, encoder)
    model(given.frames, given.waveforms, given.valid)


if __name__ == "__main__":
    once(sys.argv[1], ENCODERS[sys.argv[2]])
