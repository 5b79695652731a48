"""Score the class head of a model on AVSS, frame by frame at 224x224 (PROTOCOLS section 2).

Two rules turn its logits into class ids. `argmax` is the protocol's: the likeliest of background and all classes.
`masked` is that of `icf segment --semantic` (output/class_labels.py): the mask head says where, the class head what.
`argmax-padded` is `argmax` as the reference itself counts: it fills every clip up to ten frames with blank ones, on
which its model is made to answer background, and scores them too. That raises the score of the background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.datasets.image_io import CLASS_ID_LAYOUTS
from icf_avs.errors import UserError
from icf_avs.evaluation.audio_input import predictions
from icf_avs.evaluation.metrics.semantic import SemanticMetric, likeliest
from icf_avs.mask_predictor import check_class_head
from icf_avs.output.class_labels import class_labels
from icf_avs.score_tables import DEFAULT_SETTINGS, Scores, Settings

if TYPE_CHECKING:
    from icf_avs.datasets.video_clip import ClipRecord
    from icf_avs.mask_predictor import MaskPredictor

PADDED = 10  # frames of a clip in the reference's loader
Portion = list[Tensor]  # [prediction, truth] of one clip, class ids [n, H, W]


def evaluate_semantic(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    names: Sequence[str],
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
    settings: Settings = DEFAULT_SETTINGS,
) -> dict[str, dict[str, float]]:
    """Scores of `SemanticMetric` on the labelled frames of `records`, by rule: argmax, argmax-padded and masked.

    names     of the set's class ids, background first; those of the model are matched to them by name
    settings  size; threshold of the mask; clips that make one update of the metric, as one batch of the reference

    clips, progress as in `evaluate`. Raises UserError for a model without a class head or with other classes than the
    set's, and for a set without class ids; ValueError for `settings.size` None, since clips of several sizes make no
    batch.
    """
    if settings.size is None:
        raise ValueError("classes are scored at one size")
    check_class_head(predictor, "the checkpoint")
    order = torch.tensor(class_order(predictor.classes, names))
    size = settings.size, settings.size
    batches: dict[str, list[Portion]] = {rule: [] for rule in ("argmax", "argmax-padded", "masked")}
    metrics = {rule: SemanticMetric(len(names), sync_on_compute=False) for rule in batches}
    shown = records[:clips]
    for number, record in enumerate(shown, 1):
        if record.layout not in CLASS_ID_LAYOUTS:
            raise UserError(f"clip {record.name} is of an {record.layout} set, whose masks have no classes; give AVSS")
        clip = record.load(settings.size)
        labelled = torch.from_numpy(clip.labelled)
        truth = torch.from_numpy(clip.masks)[labelled].long()
        parts = [(found.logits, found.classes) for (found,) in predictions(predictor, clip.frames, [clip.sound])]
        logits, classes = (torch.cat(tensors)[labelled].float().cpu() for tensors in zip(*parts, strict=True))
        classes = classes[:, order]
        # frame by frame: 71 maps of one are 14 MB
        argmax = torch.cat([likeliest(_enlarged(frame[None], size)) for frame in classes])
        masks = _enlarged(logits[:, None], size)[:, 0].sigmoid() > settings.threshold
        pairs = zip(classes, masks, strict=True)
        masked = torch.stack([class_labels(frame, size, mask) for frame, mask in pairs]).long()
        blank = torch.zeros(max(PADDED - len(clip.frames), 0), *size, dtype=torch.long)
        batches["argmax"].append([argmax, truth])
        batches["argmax-padded"].append([torch.cat([argmax, blank]), torch.cat([truth, blank])])
        batches["masked"].append([masked, truth])
        if number % settings.batch_size == 0 or number == len(shown):
            for rule, portions in batches.items():
                metrics[rule].update(*(torch.cat(ids) for ids in zip(*portions, strict=True)))
                portions.clear()
        progress()
    return {rule: metric.compute() for rule, metric in metrics.items()}


def class_protocols(scores: Scores) -> Scores:
    """The scores of `evaluate_semantic` as protocols of the table (docs/PROTOCOLS.md). Of the padded rule only the
    first two differ from the unpadded one.
    """
    averages = {
        "": ("miou", "f"),
        "-reference-nobg": ("miou_reference_nobg", "f_reference_nobg"),
        "-nobg": ("miou_nobg", "f_nobg"),
        "-strict": ("miou_strict", "f_strict"),
        "-dataset": ("dataset_miou", "dataset_f"),
        "-dataset-all": ("dataset_miou_all", "dataset_f"),
    }
    return {
        f"classes-{rule}{name}": {"miou": values[miou], "f": values[f], "fpr": float("nan")}
        for rule, values in scores.items()
        for name, (miou, f) in averages.items()
        if rule != "argmax-padded" or name in ("", "-reference-nobg")
    }


def class_order(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """For each class id of the set the index among (background, *classes) of the model. Raises UserError unless both
    have the same names.
    """
    own = ["background", *classes]
    if sorted(own) != sorted(names):
        differing = ""
        for whose, some, others in (("the checkpoint", own, names), ("the set", names, own)):
            if lone := [name for name in some if name not in set(others)]:
                differing += f", only {whose} has {', '.join(lone[:3])}{', ...' * (len(lone) > 3)}"
        raise UserError(
            f"the classes do not match: the checkpoint has {len(own)} with background, the set has {len(names)}"
            f"{differing}; evaluate on the kind of set that the checkpoint was trained on"
        )
    return [own.index(name) for name in names]


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
