"""A network with what the rest of the project needs to know of it: names of classes, clip specification,
calibration.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from icf_avs.config import ModelConfig
from icf_avs.contracts import ClipSpec, Missing, Prediction
from icf_avs.networks.base import Network, NetworkOutput


class SegmentationModel(nn.Module):
    """config, spec: what the network was built from and how clips are cut for it. Its methods are those of the guided
    network (model/icf.py), so that training, scoring and segmentation take either.
    """

    implicit_text = counterfactual = shared_space = yardstick = None  # parts of the guided network alone

    def __init__(self, config: ModelConfig, spec: ClipSpec, network: Network) -> None:
        super().__init__()
        self.config, self.spec, self.classes, self.network = config, spec, config.classes, network
        self.register_buffer("offset", torch.zeros(()))  # of all mask logits, set by calibration

    @property
    def visual(self) -> nn.Module:
        return self.network.visual

    @property
    def audio(self) -> nn.Module:
        return self.network.audio

    @property
    def semantic(self) -> bool | None:
        """True with a class head, else None."""
        return self.config.semantic or None

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Parts of the encoders that could not be had."""
        return getattr(self.visual, "missing", ())

    @property
    def device(self) -> torch.device:
        """Where the weights are. `see_clip` and `predict` move what they are given."""
        return self.offset.device

    def forward(self, frames: Tensor | list[Tensor], sound: Tensor, valid: Tensor) -> NetworkOutput:
        """As `Network.forward`, with calibrated logits."""
        output = self.network(frames, sound, valid)
        output.logits = output.logits + self.offset
        return output

    def decode(self, pyramid: Sequence[Tensor], audio: Tensor, valid: Tensor) -> NetworkOutput:
        """As `Network.decode`, with calibrated logits."""
        output = self.network.decode(pyramid, audio, valid)
        output.logits = output.logits + self.offset
        return output

    def look(self, frames: Tensor) -> list[Tensor]:
        """uint8 [B,T,S,S,3] -> maps [B,T,C_l,h_l,w_l]."""
        return self.network.encode_frames(frames)

    def hear(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """[B,T,...] -> tokens [B,T,D] and their parts in time [B,T,L,D]."""
        token, parts = self.audio(sound.flatten(0, 1))
        return token.unflatten(0, sound.shape[:2]), parts.unflatten(0, sound.shape[:2])

    def see(self, frames: Tensor, pyramid: list[Tensor] | None = None) -> list[Tensor]:
        """What `mark` needs of frames uint8 [B,T,S,S,3]; pyramid: their maps, where they are known."""
        return self.look(frames) if pyramid is None else pyramid

    def mark(self, maps: list[Tensor], sound: Tensor, valid: Tensor) -> NetworkOutput:
        """Masks of frames of which `see` is known, under a sound [B,T,...]."""
        return self(maps, sound, valid)

    @torch.inference_mode()
    def see_clip(self, frames: Tensor) -> list[Tensor]:
        """What `predict` needs of frames uint8 [T,S,S,3], for those who ask it about several sounds."""
        self.eval()
        return self.see(frames[None].to(self.device))

    @torch.inference_mode()
    def predict(self, frames: Tensor, waves: Tensor, looks: list[Tensor] | None = None) -> Prediction:
        """One clip: frames uint8 [T,S,S,3], waveforms [T,N] at spec.sample_rate -> Prediction, on the CPU."""
        self.eval()
        maps = self.see_clip(frames) if looks is None else looks
        valid = torch.ones(1, len(frames), dtype=torch.bool, device=self.device)
        output = self.mark(maps, waves[None].to(self.device), valid)
        logits, nothing = output.logits[0].float().cpu(), torch.zeros(len(frames), 0)
        if output.classes is None:
            return Prediction(logits, nothing, ())
        return Prediction(logits, nothing, (), output.classes[0].float().cpu(), ("background", *self.classes))
