"""Validation of the features that ICF receives: mistakes in a custom network are reported in one sentence."""

from __future__ import annotations

import torch

from icf_avs.types import Batch, FeatureSpec, NetworkFeatures


class FeatureCheck:
    """Checks features against a FeatureSpec. spec: widths that ICF was built for; level: visual level that ICF reads;
    gradient: whether ICF trains the network through these features. Raises ValueError if the spec has no such level.
    """

    def __init__(self, spec: FeatureSpec, level: int, gradient: bool) -> None:
        self.spec, self.level, self.gradient, self.first = spec, level, gradient, True
        if not -len(spec.visual) <= level < len(spec.visual):
            raise ValueError(f"level is {level}, and FeatureSpec has {len(spec.visual)} visual levels, from 0 (finest)")

    def __call__(self, features: NetworkFeatures, batch: Batch, training: bool) -> None:
        """Raise ValueError for features whose shape disagrees with the spec or batch.valid, for features without
        gradient in a training step, and for padding before valid frames (checked in the first batch only).
        """
        levels, (clips, frames) = len(features.visual), batch.valid.shape
        if levels != len(self.spec.visual):
            raise ValueError(f"features.visual has {levels} levels; want the {len(self.spec.visual)} of FeatureSpec")
        visual = f"visual[{self.level}]", features.visual[self.level], self.spec.visual[self.level], ", h, w"
        for name, tensor, width, rest in (visual, ("audio", features.audio, self.spec.audio, "")):
            if tensor.shape[:3] != (clips, frames, width) or tensor.dim() != 3 + rest.count(","):
                raise ValueError(
                    f"features.{name} has shape {[*tensor.shape]}; want [{clips}, {frames}, {width}{rest}]: clips and "
                    "frames of batch.valid, width of FeatureSpec"
                )
            if self.gradient and training and torch.is_grad_enabled() and not tensor.requires_grad:
                raise ValueError(f"features.{name} has no gradient; want the output of a layer that is trained")
        if self.first and (batch.valid[:, 1:] & ~batch.valid[:, :-1]).any():
            raise ValueError("batch.valid has padding before a valid frame; want the valid frames of a clip first")
        self.first = False
