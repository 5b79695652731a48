"""Forward pass and losses as one module, to be wrapped for several GPUs and run at lower precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn

from icf_avs.config import PlugInConfig, TrainConfig
from icf_avs.distributed import masked_mean
from icf_avs.errors import UserError
from icf_avs.extensions.interventions import Interventions
from icf_avs.icf.icf import ICF as PlugIn
from icf_avs.icf.losses import ICFLossWeights, segmentation_losses, weighted_sum
from icf_avs.networks.guided import GuidedNetwork
from icf_avs.networks.guided_parts.losses import HIGHRES_WEIGHTS, GuidedLossWeights, guided_loss, sound_reading_loss
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.settings import InterventionSettings
from icf_avs.types import Batch, NetworkFeatures


class TrainModule(nn.Module):
    """A guided network with its losses, and the classifier that pretrains its audio encoder. The classifier is not part
    of checkpoints.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model
        self.audio_classifier = nn.Linear(model.config.audio_dim, len(model.classes) + 1)
        self.weights = {"train": GuidedLossWeights(), "highres": HIGHRES_WEIGHTS}
        self.icf: PlugIn | None = None
        self.interventions: Interventions | None = None

    def forward(self, batch: Batch, stage: str) -> dict[str, Tensor]:
        """Return the loss terms of a stage ("pretrain", "train", "highres"), and "loss", their weighted sum."""
        return self._pretrain_audio(batch) if stage == "pretrain" else self._train_masks(batch, stage)

    def update_running_means(self, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        """Update the running means of counterfactual sounds after a step. total: sums over the processes of a run."""
        if self.model.network.counterfactual is not None:
            self.model.network.counterfactual.update_running_means(total)

    def _pretrain_audio(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.audio_classifier(self.model.network.encode_audio(batch.sound).token).float()
        loss = sound_reading_loss(logits, batch.sounding, batch.valid & batch.known)
        guess = logits[..., :-1].argmax(-1, keepdim=True)
        heard = batch.sounding.any(-1)
        right = masked_mean(batch.sounding.gather(-1, guess)[..., 0].float(), heard)
        return {"naming": loss, "top1": right, "loss": loss}

    def _train_masks(self, batch: Batch, stage: str) -> dict[str, Tensor]:
        network, extra = self.model.network, None
        audio = network.encode_audio(batch.sound, batch.has_tags)
        if batch.other_sounds is not None:
            extra = network.encode_audio(batch.other_sounds.flatten(0, 1), batch.has_tags)
            extra = extra.map(lambda x: x.unflatten(0, batch.other_sounds.shape[:2]))
        output = self.model(
            batch.visual or batch.frames, audio, batch.valid, sounding=batch.sounding, extra_audio=extra,
            known=batch.known,
        )  # fmt: skip
        with torch.autocast(batch.masks.device.type, enabled=False):  # sums over many pixels need float32
            whole = {field.name: convert_to_fp32(getattr(output, field.name)) for field in fields(output)}
            return guided_loss(replace(output, **whole), batch, self.model.network.joint_embedding, self.weights[stage])


class PlugInTrainModule(TrainModule):
    """A network trained with ICF and interventions around it; without both, by its mask losses alone."""

    def __init__(
        self, model: SegmentationModel, icf: PlugInConfig | None, interventions: InterventionSettings | None = None
    ) -> None:
        super().__init__(model)
        self.weights = ICFLossWeights()
        if icf is not None:
            self.icf = PlugIn(model.network.feature_spec, icf.mit, icf.sc, icf.cdcl, self.weights)
        if interventions is not None:
            self.interventions = Interventions(interventions, model.config.audio_dim, len(model.classes))

    def update_running_means(self, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        if self.interventions is not None:
            self.interventions.sounds.update_running_means(total)

    def _train_masks(self, batch: Batch, stage: str) -> dict[str, Tensor]:
        output = self.model(batch.visual or batch.frames, batch.sound, batch.valid)
        with torch.autocast(batch.masks.device.type, enabled=False):  # sums over many pixels need float32
            output.logits, output.classes = convert_to_fp32(output.logits), convert_to_fp32(output.classes)
            output.auxiliary = convert_to_fp32(output.auxiliary)
            losses = segmentation_losses(output, batch)
            total = weighted_sum(losses, self.weights)
            if self.icf is not None:
                features = {name: convert_to_fp32(value) for name, value in vars(output.features).items()}
                extra = self.icf(NetworkFeatures(**features), batch)
                losses, total = losses | extra.terms | extra.diagnostics, total + extra.total
        if self.interventions is not None:
            terms = self.interventions(self.model, output, batch)
            losses, total = losses | terms, total + weighted_sum(terms, self.interventions.settings)
        return losses | {"loss": total}


def build_train_module(config: TrainConfig, model: SegmentationModel) -> TrainModule:
    """Wrap a model for training. Raises UserError for ICF or interventions that the network or the data cannot use."""
    if config.interventions and not model.classes:
        raise UserError(f"recipe {config.name} intervenes by classes, of which these data have no names")
    if not isinstance(model.network, GuidedNetwork):
        return PlugInTrainModule(model, config.icf, config.interventions)
    if config.icf or config.interventions:
        raise UserError("the guided network has parts of its own in place of ICF and interventions; set both to None")
    return TrainModule(model)
