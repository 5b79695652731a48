"""Score the class head of a model on AVSS, frame by frame at 224x224 (PROTOCOLS section 2).

Two rules turn its logits into class ids. `argmax` is the protocol's: the likeliest of background and all classes.
`masked` is that of `icf segment --semantic` (class_labels.py): the mask head says where, the class head says what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.avsbench.pictures import SIZE
from icf_avs.class_labels import class_labels
from icf_avs.data.resize import resized
from icf_avs.data.windows import windows
from icf_avs.errors import UserError
from icf_avs.metrics.semantic import SemanticMetric
from icf_avs.segment import check_class_head

if TYPE_CHECKING:
    from icf_avs.avsbench.record import ClipRecord
    from icf_avs.contracts import Prediction
    from icf_avs.segment import Model


def evaluate_semantic(
    model: Model,
    records: Sequence[ClipRecord],
    names: Sequence[str],
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Scores of `SemanticMetric` on the labelled frames of `records`: {"argmax": {...}, "masked": {...}}.

    names     of the set's class ids, background first (`avsbench.names.read_labels`); those of the model are matched to
              them by name, in whatever order they are
    clips     score only the first so many
    progress  called after each clip

    Every update of the metric is one clip. Raises UserError for a model without a class head or with other classes
    than the set's, and for a set without class ids.
    """
    check_class_head(model, "the checkpoint")
    order = torch.tensor(class_order(model.classes, names))
    metrics = {rule: SemanticMetric(len(names), sync_on_compute=False) for rule in ("argmax", "masked")}
    for record in records[:clips]:
        if record.layout != "AVSS":
            raise UserError(f"clip {record.name} is of an {record.layout} set, whose masks tell no classes; give AVSS")
        clip = record.load()
        labelled = torch.from_numpy(clip.labelled)
        truth = torch.from_numpy(clip.masks)[labelled]
        parts = [(found.logits, found.classes) for found in _predictions(model, clip.frames, clip.wave)]
        logits, classes = (torch.cat(tensors)[labelled].float().cpu() for tensors in zip(*parts, strict=True))
        classes = classes[:, order]
        masks = _enlarged(logits[:, None])[:, 0].sigmoid() > 0.5
        # Logits, not ids: the reference's softmax makes ties that have to be decided as it does.
        metrics["argmax"].update(_enlarged(classes), truth)
        ids = [class_labels(frame, (SIZE, SIZE), mask) for frame, mask in zip(classes, masks, strict=True)]
        metrics["masked"].update(torch.stack(ids), truth)
        progress()
    return {rule: metric.compute() for rule, metric in metrics.items()}


def class_order(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """For each class id of the set the index among (background, *classes) of the model.

    Raises UserError unless both have the same names.
    """
    own = ["background", *classes]
    if sorted(own) != sorted(names):
        raise UserError(
            f"the classes do not match: the checkpoint has {len(own)} with background, the set has {len(names)}"
            f"{_only('the checkpoint', own, names)}{_only('the set', names, own)}; "
            "evaluate on the kind of set that the checkpoint was trained on"
        )
    return [own.index(name) for name in names]


def _only(whose: str, names: Sequence[str], others: Sequence[str]) -> str:
    lone = [name for name in names if name not in set(others)]
    more = ", ..." if len(lone) > 3 else ""
    return f", only {whose} has {', '.join(lone[:3])}{more}" if lone else ""


def _predictions(model: Model, frames: np.ndarray, wave: np.ndarray) -> Iterator[Prediction]:
    """Pictures uint8 [T, H, W, 3] and their sound through the model, in clips of `spec.frames`."""
    spec = model.spec
    pictures = resized(torch.from_numpy(frames), spec.image_size)
    waves = torch.from_numpy(windows(wave, spec, len(frames)))
    with torch.inference_mode():
        for start in range(0, len(frames), spec.frames):
            part = slice(start, start + spec.frames)
            yield model.predict(pictures[part], waves[part])


def _enlarged(maps: Tensor) -> Tensor:
    return F.interpolate(maps, (SIZE, SIZE), mode="bilinear", align_corners=False)
