"""Network interface: frames and audio in, masks out, and the features that ICF trains the network through.

A network is all that runs at test. It contains nothing of ICF, except a part of MIT in the readings "refined" and
"text". The features are returned by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from icf_avs.icf.channel_time import FeatureRefinement
from icf_avs.types import AudioFeatures, Encoded, FeatureSpec, Missing, NetworkOutput, VisualFeatures


class Network(nn.Module, ABC):
    """visual: encoder, frames uint8 [N,H,W,3] -> levels [N,C_l,h_l,w_l] with strides 4, 8, 16, 32; it has `channels`.
    audio: encoder, sound [N,...] -> (token [N,D], tokens in time [N,L,D]), for a tagger also tags [N,C].
    train_visual: whether the visual encoder is trained. Then ICF reads its maps, otherwise the first trained maps
    after it, returned by `decode`. refinement: of the coarsest map before decoding, in MIT's reading "refined".
    """

    visual: Any
    audio: Any
    refinement: FeatureRefinement | None
    batches_frames = False  # whether the visual encoder splits frames into batches itself, for speed on a CPU
    second_scale: float | None = None  # relative side of a second copy to segment; both then get the guided filter

    def __init__(self, visual: nn.Module, audio: nn.Module, train_visual: bool) -> None:
        super().__init__()
        self.visual, self.audio, self.train_visual, self.refinement = visual, audio, train_visual, None

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Parts of the encoders that are unavailable."""
        return ()

    @property
    @abstractmethod
    def feature_spec(self) -> FeatureSpec:
        """Widths of the features that `forward` returns."""

    def _spec(self, visual: Sequence[int], audio: int) -> FeatureSpec:
        """Return the spec of `forward`, from the widths of the features that `decode` returns."""
        return FeatureSpec(tuple(self.visual.channels if self.train_visual else visual), audio)

    def encode_visual(self, visual: VisualFeatures) -> VisualFeatures:
        """Compute the audio-independent part of decoding, which all sounds of the frames share. Returns maps [B,T,...]
        specific to the network, in place of the pyramid.
        """
        return visual

    @abstractmethod
    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        """visual: from `encode_visual`, B clips of T frames; valid [B,T] -> masks; features: the first trained maps."""

    def forward(
        self, frames: Tensor | VisualFeatures, sound: Tensor | AudioFeatures, valid: Tensor, **training: Any
    ) -> NetworkOutput:
        """frames: uint8 [B,T,H,W,3] or their features; sound: waveforms [B,T,N], log-mel [B,T,96,64] or their features;
        valid [B,T] bool, False on padding; training: further arguments of `decode`, for networks with special losses.
        """
        visual, levels = self.encode_frames(frames) if isinstance(frames, Tensor) else frames, None
        if self.refinement is not None:
            refined, levels = self.refinement(visual.pyramid[-1], valid)
            visual = visual._replace(pyramid=[*visual.pyramid[:-1], refined])
        audio = self.encode_audio(sound) if isinstance(sound, Tensor) else sound
        encoded = Encoded(self.encode_visual(visual), audio)
        output = self.decode(*encoded, valid, **training)
        output.encoded, output.features.levels = encoded, levels
        if self.train_visual:
            output.features.visual = tuple(visual.pyramid)
        return output

    def encode_frames(self, frames: Tensor) -> VisualFeatures:
        """uint8 [B,T,H,W,3] -> maps [B,T,C_l,h_l,w_l]; with gradients only if the encoder is trained."""
        if self.train_visual and hasattr(self.visual, "set_clip_length"):
            self.visual.set_clip_length(frames.shape[1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_visual):
            levels = self.visual(frames.flatten(0, 1))
        return VisualFeatures([level.unflatten(0, frames.shape[:2]) for level in levels])

    def encode_audio(self, sound: Tensor, tags: bool = False) -> AudioFeatures:
        """sound [B,T,...] -> tokens [B,T,D], parts in time [B,T,L,D] and, for a tagger, tags [B,T,C]. tags: whether
        `sound` is tags [B,T,C] in place of waveforms.
        """
        encode = self.audio.encode_tags if tags else self.audio
        return AudioFeatures(*encode(sound.flatten(0, 1))).map(lambda x: x.unflatten(0, sound.shape[:2]))
