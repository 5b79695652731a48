"""Score the class head of a model on AVSS, frame by frame at 224x224 (PROTOCOLS section 2).

Three rules give class ids. `argmax`, that of the protocol, takes the most likely of background and all classes.
`masked`, that of `icf segment --semantic` (output/class_labels.py), takes the location from the mask head and the class
from the class head. `argmax-padded` is `argmax` as the reference code counts: each clip is padded to ten frames with
blank ones, predicted as background and scored too, which raises the background score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.datasets.image_io import CLASS_ID_LAYOUTS
from icf_avs.errors import UserError
from icf_avs.evaluation.audio_input import predict_clips
from icf_avs.evaluation.metrics.semantic import SemanticMetric, likeliest
from icf_avs.mask_predictor import check_class_head
from icf_avs.output.class_labels import class_labels
from icf_avs.score_tables import DEFAULT_SETTINGS, Scores, ScoringSettings

if TYPE_CHECKING:
    from icf_avs.datasets.video_clip import ClipRecord
    from icf_avs.mask_predictor import MaskPredictor

PADDED = 10  # frames per clip in the data loader of the reference
Portion = list[Tensor]  # [prediction, truth] of one clip, class ids [n, H, W]


def evaluate_semantic(
    predictor: MaskPredictor,
    records: Sequence[ClipRecord],
    names: Sequence[str],
    clips: int | None = None,
    progress: Callable[[], None] = lambda: None,
    settings: ScoringSettings = DEFAULT_SETTINGS,
) -> dict[str, dict[str, float]]:
    """Return the scores of `SemanticMetric` on the labelled frames of `records`, by rule: argmax, argmax-padded and
    masked.

    names     class names of the set by id, background first; the model's classes are matched to them by name
    settings  size; mask threshold; batch size, the number of clips per metric update, like one batch of the reference

    clips, progress as in `evaluate`. Raises UserError if the model has no class head or other classes than the set, or
    if the set has no class ids; ValueError if `settings.size` is None, since clips of different sizes cannot form a
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
        parts = [
            (prediction.logits, prediction.classes)
            for (prediction,) in predict_clips(predictor, clip.frames, [clip.sound])
        ]
        logits, classes = (torch.cat(tensors)[labelled].float().cpu() for tensors in zip(*parts, strict=True))
        classes = classes[:, order]
        # frame by frame, since the 71 maps of one frame take 14 MB
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
    """Convert the scores of `evaluate_semantic` to protocols of the table (docs/PROTOCOLS.md). For argmax-padded only
    the first two are included, since the others equal those of argmax.
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
    """For each class id of the set, return its index in (background, *classes) of the model. Raises UserError unless
    the model and the set have the same class names.
    """
    model_names = ["background", *classes]
    if sorted(model_names) != sorted(names):
        differing = ""
        for whose, some, others in (("the checkpoint", model_names, names), ("the set", names, model_names)):
            if lone := [name for name in some if name not in set(others)]:
                differing += f", only {whose} has {', '.join(lone[:3])}{', ...' * (len(lone) > 3)}"
        raise UserError(
            f"the classes do not match: the checkpoint has {len(model_names)} with background, the set has {len(names)}"
            f"{differing}; evaluate on the kind of set that the checkpoint was trained on"
        )
    return [model_names.index(name) for name in names]


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
