"""Callbacks during training: trackers, images of a few clips, scores, and the best checkpoint so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from icf_avs.atomic_io import replaced_file
from icf_avs.checkpoint.serialization import read_recipe, save_checkpoint
from icf_avs.config import TrainConfig
from icf_avs.config_dict import from_dict
from icf_avs.errors import UserError
from icf_avs.inference.predictor import Predictor
from icf_avs.output.overlay import Overlay
from icf_avs.training.calibrate import calibration_buffers
from icf_avs.training.loggers import end_trackers, log_images, log_text, start_trackers

if TYPE_CHECKING:
    from icf_avs.networks.segmentation_model import SegmentationModel
    from icf_avs.training.data_protocol import Sample
    from icf_avs.training.trainer import Trainer


class Callbacks:
    """Callbacks of the writing process, as a context manager around the training. They do not affect what is learnt.

    recipe: maps scores to the metadata of a checkpoint. Validation clips are rendered or loaded on construction. Raises
    UserError if W&B is requested and unavailable, or if the validation clips are missing.
    """

    def __init__(self, trainer: Trainer, recipe: Callable[[dict[str, float]], dict[str, Any]], wandb: bool) -> None:
        self.trainer, self.recipe = trainer, recipe
        self.evaluate, self.samples = trainer.data.evaluator(), trainer.data.samples(CLIPS)
        self.images, self.best = trainer.folder / "samples", trainer.folder / "best.safetensors"
        self.best_score = self._score_before()
        self.accelerator = trainer.accelerator
        start_trackers(self.accelerator, trainer.folder, trainer.config, trainer.step, wandb)
        log_text(self.accelerator, "recipe", recipe({}))

    def on_step(self, step: int, stage: str, values: dict[str, float]) -> None:
        """Log the loss terms of a step, prefixed by its stage."""
        self.accelerator.log({f"{stage}/{name}": value for name, value in values.items()}, step=step)

    def on_checkpoint(self, step: int) -> dict[str, float]:
        """Score the model after `step`, save images of its masks, and save it if it is the best. Returns the scores."""
        trainer, model = self.trainer, self.trainer.model
        before, spec = [constant.clone() for constant in calibration_buffers(model)], model.spec
        model.spec = trainer.config.final_spec
        try:
            scores = self.evaluate(model.eval())
            self.accelerator.log({f"validation/{name}": value for name, value in scores.items()}, step=step)
            if self.samples:
                sheet = sample_sheet(model, self.samples)
                self.images.mkdir(exist_ok=True)
                with replaced_file(self.images / f"{step + 1:06d}.png") as new:
                    Image.fromarray(sheet).save(new, "PNG", compress_level=1)
                log_images(self.accelerator, "samples", [sheet], step)
            if scores.get("score", -1.0) > self.best_score:
                self.best_score = scores["score"]
                save_checkpoint(model, self.best, self.recipe(scores) | {"step": trainer.step})
        finally:
            for constant, value in zip(calibration_buffers(model), before, strict=True):
                constant.copy_(value)
            model.spec = spec
        return scores

    def __enter__(self) -> Callbacks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        end_trackers(self.accelerator, failed=kind is not None)

    def _score_before(self) -> float:
        """Return the score of best.safetensors if an earlier part of this run wrote it, else -1."""
        try:
            recipe, current = read_recipe(self.best), self.trainer.config
            earlier = replace(from_dict(TrainConfig, recipe["config"]), steps=current.steps)  # it may be lengthened
            return float(recipe["validation"]["score"]) if earlier == current else -1.0
        except (UserError, KeyError, TypeError, ValueError):
            return -1.0


CLIPS, COLUMNS, SIDE, GAP = 4, 5, 112, 4  # of a sheet; SIDE and GAP in pixels


def sample_sheet(model: SegmentationModel, samples: list[Sample]) -> np.ndarray:
    """Return a sheet uint8 [H, W, 3]: up to five frames of each clip, with ground truth and predicted mask below. Sets
    the model to evaluation mode.
    """
    line, size = SIDE + GAP, (SIDE, SIDE)
    sheet = np.full((len(samples) * (3 * line + 2 * GAP), COLUMNS * line, 3), 24, np.uint8)
    for row, sample in enumerate(samples):
        maps = (sample.masks - 0.5, _mask_logits(model, sample))
        truth, predicted = ((F.interpolate(x.float()[None], size, mode="bilinear")[0] > 0).numpy() for x in maps)
        shown = np.linspace(0, len(sample.frames) - 1, min(COLUMNS, len(sample.frames))).round().astype(int)
        for column, frame in enumerate(shown):
            image = Image.fromarray(sample.frames[frame].numpy()).resize(size, Image.Resampling.BILINEAR)
            for number, mask in enumerate((np.zeros_like(truth[frame]), truth[frame], predicted[frame])):
                tile = np.array(image)
                Overlay(mask).draw_rgb(tile)
                top, left = row * (3 * line + 2 * GAP) + number * line, column * line
                sheet[top : top + SIDE, left : left + SIDE] = tile
    return sheet


@torch.inference_mode()
def _mask_logits(model: SegmentationModel, sample: Sample) -> Tensor:
    """Mask logits [T,h,w] on the CPU."""
    predictor = Predictor(model)
    audio = model.eval().network.encode_audio(sample.sound[None].to(model.device), sample.has_tags)
    valid = torch.ones(audio.token.shape[:2], dtype=torch.bool, device=model.device)
    return predictor.segment(predictor.encode(sample.frames[None]), audio, valid).logits[0].cpu()
