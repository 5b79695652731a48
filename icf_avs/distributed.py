"""A batch shared by the processes of a run: clip i of process p of P is clip i P + p of the whole batch.

Losses are means over the whole batch, and a clip may be compared with clips of other processes. With one process no
function here communicates; with several, all processes must make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch import distributed as dist


def processes() -> int:
    """Return the number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_slice() -> slice:
    """Return the slice of the whole batch that holds the clips of this process."""
    return slice(dist.get_rank() if processes() > 1 else 0, None, processes())


def total(values: Tensor) -> Tensor:
    """Sum over the processes, without gradient."""
    values = values.detach().clone()
    if processes() > 1:
        dist.all_reduce(values)
    return values


def rand_for_batch(clips: int, each: int, device: torch.device) -> Tensor:
    """Draw uniform random numbers for the whole batch, and return those of this process's clips [clips * each]."""
    count = clips if processes() == 1 else int(total(torch.tensor(clips, device=device)))
    return torch.rand(count, each, device=device)[local_slice()].flatten()


def draw_for_batch(rows: Tensor, draw: Callable[..., Tensor]) -> Tensor:
    """Draw random numbers for the whole batch, and return those of this process's clips, with the shape [b,...] of
    rows. draw: torch.rand or torch.randn.
    """
    count = len(rows) if processes() == 1 else int(total(torch.tensor(len(rows), device=rows.device)))
    return draw(count, *rows.shape[1:], device=rows.device)[local_slice()].to(rows.dtype)


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """Return the mean of `values` over the whole batch where `where` is True, or with `where` as weights (broadcast);
    zero, with a gradient path, if nothing is selected. Weights that sum to less than 1 give less than the mean.

    Each process returns its part of the mean times the number of processes. Gradients and logged values are averaged
    over the processes, so both are those of the whole batch.
    """
    weights = where.to(values.dtype).expand_as(values)
    return (values * weights).sum() * (processes() / total(weights.sum()).clamp(min=1))


def all_gather_clips(rows: Tensor) -> Tensor:
    """Gather the clips [b,...] of all processes in order -> [B,...]. The gradient goes back to their processes."""
    if processes() == 1:
        return rows
    clips = int(total(torch.tensor(len(rows), device=rows.device)))
    whole = rows.new_zeros(clips, *rows.shape[1:], dtype=torch.uint8 if rows.dtype == torch.bool else rows.dtype)
    whole[local_slice()] = rows
    return all_reduce(whole).to(rows.dtype)


def all_reduce(values: Tensor) -> Tensor:
    """Sum over the processes; its gradient is also summed over them."""
    return _Sum.apply(values) if processes() > 1 else values


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)
