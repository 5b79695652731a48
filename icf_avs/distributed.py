"""One batch that the processes of a run share: clip i of process p of P is clip i P + p of the whole.

Losses are means over the whole batch, and what one clip is compared with may lie in another process. With one process
every function here returns what it is given; with several, all of them must make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch import distributed as dist


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
    whole = rows.new_zeros(clips, *rows.shape[1:], dtype=torch.uint8 if rows.dtype == torch.bool else rows.dtype)
    whole[local_slice()] = rows
    return all_reduce(whole).to(rows.dtype)


def all_reduce(values: Tensor) -> Tensor:
    """Sum over the processes, and so its gradient."""
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
