"""One batch that the processes of a run share: clip i of process p of P is clip i P + p of the whole.

Losses are means over the whole batch, and what one clip is compared with may lie in another process. With one process
every function here returns what it is given; with several, all of them must make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F


def processes() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_slice() -> slice:
    """The clips of this process among those of the whole batch."""
    return slice(dist.get_rank() if processes() > 1 else 0, None, processes())


def total(values: Tensor) -> Tensor:
    """Sum over the processes; it carries no gradient."""
    values = values.detach().clone()
    if processes() > 1:
        dist.all_reduce(values)
    return values


def rand_for_batch(clips: int, each: int, device: torch.device) -> Tensor:
    """[clips * each] uniform random numbers for the clips of this process, drawn for those of the whole batch."""
    count = clips if processes() == 1 else int(total(torch.tensor(clips, device=device)))
    return torch.rand(count, each, device=device)[local_slice()].flatten()


def draw_for_batch(rows: Tensor, draw: Callable[..., Tensor]) -> Tensor:
    """Random numbers of the shape [b,...] of rows for the clips of this process, drawn for those of the whole batch.
    draw: torch.rand or torch.randn.
    """
    count = len(rows) if processes() == 1 else int(total(torch.tensor(len(rows), device=rows.device)))
    return draw(count, *rows.shape[1:], device=rows.device)[local_slice()].to(rows.dtype)


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over the places of the whole batch where `where` is true, or by it as weights (broadcast); zero,
    with a gradient path, when there are none.

    Every process returns its own part of the mean times their number: as gradients and logged values are averaged over
    the processes, both are those of the whole batch.
    """
    weights = where.to(values.dtype).expand_as(values)
    return (values * weights).sum() * (processes() / total(weights.sum()).clamp(min=1))


def all_gather_clips(rows: Tensor) -> Tensor:
    """The clips of all processes in order: [b,...] of each -> [B,...]. The gradient goes back to their processes."""
    if processes() == 1:
        return rows
    clips = int(total(torch.tensor(len(rows), device=rows.device)))
    values = rows.byte() if rows.dtype == torch.bool else rows
    gathered = _Gather.apply(values, -(-clips // processes()))
    return gathered.flatten(0, 1)[:clips].to(rows.dtype)


class _Gather(torch.autograd.Function):
    """rows [b,...] -> [most,P,...], with zeros where a process has fewer than `most`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, most: int) -> Tensor:
        ctx.clips = len(rows)
        padded = F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, most - len(rows))).contiguous()
        gathered = [torch.empty_like(padded) for _ in range(processes())]
        dist.all_gather(gathered, padded)
        return torch.stack(gathered, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[: ctx.clips, dist.get_rank()], None
