"""Interventions: losses of masks under counterfactual sounds, and in frames that do not show the sounding objects.

    masks of V under u, frames V [B,T,...] and sound u [B,T,D], for R sounds u in one call of the network's decoder:
        K sounds of other clips, unchanged or orthogonal to the clip's sound    (counterfactual_sounds.py)
        the sound of the previous clip
        the clip's sound without one of its sources
    targets of these masks                                                      (intervention_losses.py)

A network that ignores the audio cannot satisfy them. Features that depend only on the frames are computed once, for the
factual masks, and reused. Frames of unknown classes have no target. Not from the paper: off in published recipes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from icf_avs.batch_norm import RunningState
from icf_avs.extensions.counterfactual_sounds import CounterfactualSoundSampler
from icf_avs.extensions.intervention_losses import (
    other_frames_loss,
    other_sound_loss,
    previous_clip,
    removed_source_loss,
)
from icf_avs.mask_losses import resize_logits
from icf_avs.settings import InterventionSettings
from icf_avs.types import AudioFeatures, Batch, NetworkOutput, VisualFeatures


class Decoder(Protocol):
    """Requirement for a network, beside `NetworkOutput.encoded`: it can decode the frames again with another sound."""

    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        """As `Network.decode`."""

    def modules(self) -> Iterator[nn.Module]:
        """As `nn.Module.modules`."""


class Interventions(nn.Module):
    """Intervention losses. audio: width of the audio tokens that the network's decoder takes; classes: number of
    classes of a batch, at least one.

    It has running means of these tokens and no parameters. A training loop calls `sounds.update_running_means` after
    each step. Raises ValueError without classes, because all targets are derived from known classes.
    """

    def __init__(self, settings: InterventionSettings, audio: int, classes: int) -> None:
        super().__init__()
        if not classes:
            raise ValueError("interventions claim nothing of sounds without classes; set them to None")
        self.settings = settings
        self.sounds = CounterfactualSoundSampler(audio, classes, settings.count)

    def forward(self, network: Decoder, output: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the unweighted loss terms, named as in the settings. output: the network's output for this batch.
        Raises ValueError if its `encoded` is None.
        """
        if output.encoded is None:
            raise ValueError("interventions decode once more: the network must return NetworkOutput.encoded")
        settings, visual, audio = self.settings, output.encoded.visual, output.encoded.audio.token
        known, frame_mask = batch.known & batch.valid, batch.labelled & batch.valid
        drawn, removal = self.sounds(audio, batch.sounding, batch.valid, known)
        sounds: dict[str, Tensor] = {}  # [R,B,T,D] of each kind
        if settings.other_sound:
            sounds["other_sound"] = drawn.proposals
        if settings.orthogonal_sound:
            sounds["orthogonal_sound"] = drawn.sounds
        if settings.other_frames:  # the previous clip's sound: each sound meets the frames of the next clip
            previous_sound, differs = previous_clip(audio), previous_clip(known)
            sounds["other_frames"] = torch.where(differs[..., None], previous_sound, self.sounds.mean.to(audio.dtype))[
                None
            ]
        if settings.removed_source:
            sounds["removed_source"] = removal.sound[None]
        logits = decode_sounds(network, visual, torch.cat(list(sounds.values())), batch)
        counts, terms = [len(each) for each in sounds.values()], {}
        with torch.autocast(audio.device.type, enabled=False):  # sums over many pixels need full precision
            for kind, kind_logits in zip(sounds, logits.float().split(counts), strict=True):
                if kind == "other_frames":
                    terms[kind] = other_frames_loss(kind_logits[0], batch, frame_mask)
                elif kind == "removed_source":
                    terms[kind] = removed_source_loss(kind_logits[0], removal.removed, removal.valid, batch, frame_mask)
                else:
                    compared_frames = frame_mask & drawn.differs
                    terms[kind] = other_sound_loss(kind_logits, drawn.classes, drawn.known, batch, compared_frames)
        return terms


def decode_sounds(network: Decoder, visual: VisualFeatures, sounds: Tensor, batch: Batch) -> Tensor:
    """Return logits [R,B,T,h,w] of the frames under R sounds [R,B,T,D], at the size of the masks."""
    count = len(sounds)
    repeated = visual.map(lambda maps: maps.expand(count, *maps.shape).flatten(0, 1))
    with running_statistics(network):
        logits = network.decode(repeated, AudioFeatures(sounds.flatten(0, 1)), batch.valid.repeat(count, 1)).logits
    return resize_logits(logits, batch.masks).unflatten(0, (count, -1))


@contextmanager
def running_statistics(network: Decoder) -> Iterator[None]:
    """Keep batch norm and pseudo-words in eval mode: counterfactual sounds update no statistics and count no step."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, RunningState)
    training = [module for module in network.modules() if isinstance(module, kinds) and module.training]
    for module in training:
        module.eval()
    try:
        yield
    finally:
        for module in training:
            module.train()
