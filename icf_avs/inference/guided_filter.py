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
_MAX_LOGIT = 6.0  # logits are clamped to +-_MAX_LOGIT, so that extreme values do not dominate the fit


def guided_filter(logits: Tensor, frames: Tensor) -> Tensor:
    """Refine mask logits [N,h,w] by frames uint8 [N,H,W,3] of at least 2h x 2w -> [N,2h,2w]."""
    height, width = logits.shape[-2:]
    colours = _resize_by_mean(frames, 2 * height, 2 * width) / 255 - 0.5
    coarse, radius = F.avg_pool2d(colours, 2), max(1, round(max(height, width) / _WINDOW))
    fit = _box_mean(torch.cat(_fit(coarse, logits[:, None].clamp(-_MAX_LOGIT, _MAX_LOGIT), radius), dim=1), radius)
    slopes, intercept = F.interpolate(fit, scale_factor=2, mode="bilinear", align_corners=False).split((3, 1), dim=1)
    return ((slopes * colours).sum(1, keepdim=True) + intercept)[:, 0]


def _resize_by_mean(frames: Tensor, height: int, width: int) -> Tensor:
    """Average-pool frames: uint8 [N,H,W,3] -> float [N,3,height,width]."""
    pooled, size = frames.float(), frames.shape[1:3]
    if size == (2 * height, 2 * width):  # five times as fast as the general case
        rows = pooled[:, ::2] + pooled[:, 1::2]
        pooled = (rows[:, :, ::2] + rows[:, :, 1::2]) / 4
    elif size != (height, width):
        return grid_means(pooled.permute(0, 3, 1, 2), (height, width))
    return pooled.permute(0, 3, 1, 2).contiguous()


def _fit(colours: Tensor, values: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Fit values [N,1,h,w] by colours [N,3,h,w] in each window; return slopes [N,3,h,w] and intercepts [N,1,h,w]."""
    r, g, b = colours.split(1, dim=1)
    products = torch.cat([r * r, r * g, r * b, g * g, g * b, b * b, colours * values], dim=1)
    means = _box_mean(torch.cat([colours, values, products], dim=1), radius)
    mean_colour, mean_value, mean_products = means.split((3, 1, 9), dim=1)
    r, g, b = mean_colour.split(1, dim=1)
    covariance = mean_products - torch.cat([r * r, r * g, r * b, g * g, g * b, b * b, mean_colour * mean_value], dim=1)
    rr, rg, rb, gg, gb, bb, x, y, z = covariance.split(1, dim=1)
    rr, gg, bb = rr + _EPS, gg + _EPS, bb + _EPS
    # Invert the symmetric 3 x 3 matrix by cofactors.
    c00, c01, c02 = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c11, c12, c22 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    rows = (c00 * x + c01 * y + c02 * z, c01 * x + c11 * y + c12 * z, c02 * x + c12 * y + c22 * z)
    slopes = torch.cat(rows, dim=1) / (rr * c00 + rg * c01 + rb * c02)
    return slopes, mean_value - (slopes * mean_colour).sum(1, keepdim=True)


def _box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over windows clipped at the border. By cumulative sums, so the cost does not depend on the window size."""
    window = 2 * radius + 1
    for dim in (-2, -1):
        size = x.shape[dim]
        position = torch.arange(size, device=x.device)
        counts = (position + radius + 1).clamp(max=size) - (position - radius).clamp(min=0)
        sums = x.cumsum(dim)
        before, after = torch.zeros_like(sums.narrow(dim, 0, 1)), sums.narrow(dim, size - 1, 1)
        sums = torch.cat([*[before] * (radius + 1), sums, *[after] * radius], dim)
        x = (sums.narrow(dim, window, size) - sums.narrow(dim, 0, size)) / counts.view(-1, *[1] * (-1 - dim))
    return x
