"""What all metrics share: their counts and sums stay exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, cast

from torch import Tensor
from torchmetrics import Metric


class ExactMetric(Metric):
    """A metric that moves between devices, but whose states keep their types: `set_dtype`, and `to` or `half` of a
    module that holds it, would round counts of pixels to a precision that cannot hold them.
    """

    is_differentiable = False
    higher_is_better = True

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        return cast(Self, super()._apply(lambda state: state.to(fn(state).device), exclude_state))
