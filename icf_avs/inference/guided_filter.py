"""Edge refinement by the guided filter: in each window, the logits are replaced by their linear fit to the colours.

    a, b = argmin sum over a window  (a . I(x) + b - logit(x))^2 + eps |a|^2          logit(p) <- mean a . I(p) + mean b

The guided filter (He, Sun and Tang, ECCV 2010), in its fast form (He and Sun, arXiv 1505.00996): fitted at 1/4 of the
frame size, the resolution of the decoder, and applied at 1/2. The decoder gets edges only from features of a frozen
encoder, so masks of unseen objects are blurred; the colours are sharp. No parameters, not used in training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.networks.pooling import grid_means

_WINDOW = 16  # half the window is 1/_WINDOW of the longer side of the frame
_EPS = 1e-5  # regularisation, for colours in [0, 1]
_SURE = 6.0  # logits are clamped to +-_SURE, so that extreme values do not dominate the fit


def guided_filter(logits: Tensor, pictures: Tensor) -> Tensor:
    """Refine mask logits [N,h,w] by frames uint8 [N,H,W,3] of at least 2h x 2w -> [N,2h,2w]."""
    high, wide = logits.shape[-2:]
    colours = _pooled(pictures, 2 * high, 2 * wide) / 255 - 0.5
    coarse, reach = F.avg_pool2d(colours, 2), max(1, round(max(high, wide) / _WINDOW))
    fit = _mean(torch.cat(_fit(coarse, logits[:, None].clamp(-_SURE, _SURE), reach), dim=1), reach)
    slopes, level = F.interpolate(fit, scale_factor=2, mode="bilinear", align_corners=False).split((3, 1), dim=1)
    return ((slopes * colours).sum(1, keepdim=True) + level)[:, 0]


def _pooled(pictures: Tensor, high: int, wide: int) -> Tensor:
    """Average-pool frames: uint8 [N,H,W,3] -> float [N,3,high,wide]."""
    whole, size = pictures.float(), pictures.shape[1:3]
    if size == (2 * high, 2 * wide):  # five times as fast as the general case
        rows = whole[:, ::2] + whole[:, 1::2]
        whole = (rows[:, :, ::2] + rows[:, :, 1::2]) / 4
    elif size != (high, wide):
        return grid_means(whole.permute(0, 3, 1, 2), (high, wide))
    return whole.permute(0, 3, 1, 2).contiguous()


def _fit(colours: Tensor, values: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Fit values [N,1,h,w] by colours [N,3,h,w] in each window; return slopes [N,3,h,w] and intercepts [N,1,h,w]."""
    r, g, b = colours.split(1, dim=1)
    products = torch.cat([r * r, r * g, r * b, g * g, g * b, b * b, colours * values], dim=1)
    centre, value, means = _mean(torch.cat([colours, values, products], dim=1), reach).split((3, 1, 9), dim=1)
    r, g, b = centre.split(1, dim=1)
    spread = means - torch.cat([r * r, r * g, r * b, g * g, g * b, b * b, centre * value], dim=1)
    rr, rg, rb, gg, gb, bb, x, y, z = spread.split(1, dim=1)
    rr, gg, bb = rr + _EPS, gg + _EPS, bb + _EPS
    # Invert the symmetric 3 x 3 matrix by cofactors.
    c00, c01, c02 = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c11, c12, c22 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    rows = (c00 * x + c01 * y + c02 * z, c01 * x + c11 * y + c12 * z, c02 * x + c12 * y + c22 * z)
    slopes = torch.cat(rows, dim=1) / (rr * c00 + rg * c01 + rb * c02)
    return slopes, value - (slopes * centre).sum(1, keepdim=True)


def _mean(x: Tensor, reach: int) -> Tensor:
    """Mean over windows clipped at the border. By cumulative sums, so the cost does not depend on the window size."""
    window = 2 * reach + 1
    for dim in (-2, -1):
        size = x.shape[dim]
        at = torch.arange(size, device=x.device)
        counts = (at + reach + 1).clamp(max=size) - (at - reach).clamp(min=0)
        sums = x.cumsum(dim)
        before, after = torch.zeros_like(sums.narrow(dim, 0, 1)), sums.narrow(dim, size - 1, 1)
        sums = torch.cat([*[before] * (reach + 1), sums, *[after] * reach], dim)
        x = (sums.narrow(dim, window, size) - sums.narrow(dim, 0, size)) / counts.view(-1, *[1] * (-1 - dim))
    return x
