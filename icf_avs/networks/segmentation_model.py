"""A network with the metadata of its checkpoint: class names, clip specification, calibration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from icf_avs.config import ModelConfig
from icf_avs.networks.base import Network
from icf_avs.types import AudioFeatures, ClipSpec, Missing, NetworkOutput, VisualFeatures

# Key prefixes of checkpoints that were written before the guided network was wrapped in a SegmentationModel.
_OLD_PREFIXES = {
    "offset": "offset",
    "yardstick.share": "relative_threshold",
    "pixels.": "network.pixel_decoder.",
    "shared_space.": "network.joint_embedding.",
    "nameless.": "network.name_dropout.",
    "prior.evidence.": "network.prior.classifier.",
    "prior.things.": "network.prior.segmenter.",
    "prior.weigh_things": "network.prior.weigh_objects",
    "": "network.",
}
# Keys whose last part was renamed some time later.
_RENAMED = {
    "network.counterfactual.alone": "network.counterfactual.class_means",
    "network.counterfactual.met": "network.counterfactual.seen_classes",
    "network.semantic.kinds": "network.semantic.class_embeddings",
}


def current_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of any version to the keys of this version."""

    def in_network(key: str) -> str:
        prefix = next(prefix for prefix in _OLD_PREFIXES if key.startswith(prefix))
        return _OLD_PREFIXES[prefix] + key.removeprefix(prefix)

    if not any(key.startswith("network.") for key in state):
        state = {in_network(key): value for key, value in state.items()}
    return {_RENAMED.get(key, key): value for key, value in state.items()}


class SegmentationModel(nn.Module):
    """config: what the network was built from; spec: how clips are cut. inference/predictor.py makes masks with it."""

    offset: Tensor
    relative_threshold: Tensor | None

    def __init__(self, config: ModelConfig, spec: ClipSpec, network: Network) -> None:
        super().__init__()
        self.config, self.spec, self.classes, self.network = config, spec, config.classes, network
        self.digest: str | None = None  # SHA-256 of the checkpoint that it was loaded from
        # Set by calibration: an offset added to all mask logits, and the share of inference/relative_threshold.py.
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("relative_threshold", torch.zeros(()) if config.evidence else None)

    @property
    def visual(self) -> nn.Module:
        return self.network.visual

    @property
    def audio(self) -> nn.Module:
        return self.network.audio

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Parts of the encoders that are unavailable."""
        return self.network.missing

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.offset.device

    def forward(
        self, frames: Tensor | VisualFeatures, sound: Tensor | AudioFeatures, valid: Tensor, **training: Any
    ) -> NetworkOutput:
        """As `Network.forward`, with the calibrated offset."""
        return self._calibrated(self.network(frames, sound, valid, **training))

    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        """As `Network.decode`, with the calibrated offset."""
        return self._calibrated(self.network.decode(visual, audio, valid))

    def _calibrated(self, output: NetworkOutput) -> NetworkOutput:
        output.add_to_logits(self.offset)
        return output
