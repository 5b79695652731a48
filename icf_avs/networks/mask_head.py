"""Shared output layers: the convolutional head of TPAVI and AVSegFormer, and mask logits from class logits.

UpsamplingHead: [N,D,h,w] -> [N,outputs,s*h,s*w]
"""

from __future__ import annotations

from torch import Tensor, nn


class UpsamplingHead(nn.Sequential):
    """Convolutions around one bilinear upsampling by `scale`."""

    def __init__(self, dim: int, outputs: int, scale: int, bias: bool) -> None:
        super().__init__(
            nn.Conv2d(dim, dim // 2, 3, padding=1),
            nn.Upsample(scale_factor=scale, mode="bilinear"),
            nn.Conv2d(dim // 2, dim // 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim // 8, outputs, 1, bias=bias),
        )


def split_class_logits(maps: Tensor, classes: int | None) -> tuple[Tensor, Tensor | None]:
    """The maps [B,T,classes or 1,h,w] of a head -> mask logits [B,T,h,w], class logits or None.

    With classes (background first), the mask logit is that of all other classes together against the background.
    """
    if classes is None:
        return maps[:, :, 0], None
    return maps[:, :, 1:].logsumexp(2) - maps[:, :, 0], maps
