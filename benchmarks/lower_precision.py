"""Inference on a GPU in bf16 and compiled, against plain float32, and as a share of the GPU's peak.

The peak is measured by a large bf16 matrix product in turn with the model. PyTorch counts the model's FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import PVT, RESNET, Encoder, batch, build
from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import Batch

SIDE = 8192  # of the square matrices


def lower_precision(
    machine: Machine, encoders: Sequence[Encoder] = (PVT, RESNET), clips: int = 8, size: int = 224, side: int = SIDE
) -> Iterator[Row]:
    """Yield rows bf16-NAME, bf16-compiled-NAME, bf16-peak-NAME."""
    device = torch.device(machine.device)
    given = batch(clips, size=size).to(device)
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for encoder in encoders:
        model = build("query-light", encoder).to(device)

        programs = _programs(model, given)
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:
                programs[0]()
            full, half, fast, product = seconds(machine, *programs, lambda: matrix @ matrix)
        name, unit = encoder.name, f"s/{clips} clips"
        yield row(f"bf16-{name}", half, full, "float32", machine, unit)
        yield row(f"bf16-compiled-{name}", fast, half, "bf16, not compiled", machine, unit)
        rates = [[counter.get_total_flops() / spent / 1e12 for spent in fast], [2e-12 * side**3 / s for s in product]]
        yield row(f"bf16-peak-{name}", *rates, "product of matrices", machine, "TFLOP/s", more_is_better=True)


def _programs(model: SegmentationModel, given: Batch) -> list[Callable[[], Tensor]]:
    """Return programs for the same clips in float32, in bf16, and in bf16 compiled."""

    def plain() -> Tensor:
        return model(given.frames, given.waveforms, given.valid).logits

    compiled = torch.compile(plain)

    def lower(program: Callable[[], Tensor]) -> Tensor:
        with torch.autocast(given.valid.device.type, torch.bfloat16):
            return program()

    return [plain, lambda: lower(plain), lambda: lower(compiled)]
