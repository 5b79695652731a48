"""The one way from frames and sound to masks: segmentation, scores, the page and training's own checks all take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from icf_avs.errors import UserError
from icf_avs.inference.postprocess import ScaleMasks, postprocess
from icf_avs.media.images import resize_frames
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import AudioFeatures, ClipSpec, Missing, NetworkOutput, Prediction, VisualFeatures

if TYPE_CHECKING:
    from icf_avs.encoders.tagger_encoder import TaggerEncoder

_INACTIVE = -30.0  # logits of frames in which nothing sounds


class MaskPredictor:
    """What segmentation and scores ask of whatever makes masks; `Predictor` is that of our models.

    encoders: names of the encoders, "visual" and "audio"; semantic: whether there is a class head; missing: parts whose
    weights are unavailable; digest: SHA-256 of the checkpoint.
    """

    spec: ClipSpec
    classes: tuple[str, ...] = ()
    encoders: Mapping[str, str] = MappingProxyType({})
    semantic: bool = False
    missing: tuple[Missing, ...] = ()
    digest: str | None = None

    @property
    def only_words(self) -> tuple[str, ...] | None:
        """The classes that `set_words` chose, None for all."""
        return None

    def predict(self, frames: Tensor, sound: Tensor) -> Prediction:
        """One clip of T frames, uint8 [T,S,S,3], T at most spec.frames; sound, waveforms [T,window] or log-mel
        [T,96,64] -> Prediction, on the CPU.
        """
        raise NotImplementedError

    def predict_each(self, frames: Tensor, sounds: Sequence[Tensor]) -> list[Prediction]:
        """The same frames under each of several sounds."""
        return [self.predict(frames, sound) for sound in sounds]

    def set_words(self, words: str) -> None:
        """From now on predict only these tags, with commas between them. Raises UserError where it cannot."""
        raise UserError("--words needs a checkpoint with a sound tagger; take --checkpoint natural")


@dataclass(frozen=True)
class EncodedFrames:
    """Frames at one scale: their features, [B,T,...], and the frames themselves where masks follow their colours."""

    visual: VisualFeatures
    frames: Tensor | None = None

    def at(self, frames: Tensor) -> EncodedFrames:
        """Those of some frames, bool [T]."""
        colours = None if self.frames is None else self.frames[:, frames]
        return EncodedFrames(self.visual.map(lambda x: x[:, frames]), colours)


class Predictor(MaskPredictor):
    """Masks by a model. It handles device, evaluation mode, scales and post-processing, and that frames in which no tag
    is active are not processed.
    """

    def __init__(self, model: SegmentationModel) -> None:
        self.model, self.spec, self.classes = model, model.spec, model.classes
        self.digest, self.missing = model.digest, model.missing
        self.encoders = {"visual": model.config.visual, "audio": model.config.audio}
        self.semantic = model.config.semantic

    @property
    def only_words(self) -> tuple[str, ...] | None:
        chosen = self.model.network.chosen_tags
        return None if chosen is None else tuple(self.classes[index] for index in chosen)

    def set_words(self, words: str) -> None:
        from icf_avs.inference.word_prompts import prompted_words

        chosen = prompted_words(self.model, words)
        cast("TaggerEncoder", self.model.audio).restrict_to(chosen)

    @torch.inference_mode()
    def predict(self, frames: Tensor, sound: Tensor) -> Prediction:
        audio, active, processed = self._encode_audio(sound)
        return self._prediction(self.encode(frames[processed][None]), audio, active, processed)

    @torch.inference_mode()
    def predict_each(self, frames: Tensor, sounds: Sequence[Tensor]) -> list[Prediction]:
        if len(sounds) == 1:
            return [self.predict(frames, sounds[0])]
        scales, found = self.encode(frames[None]), []
        for sound in sounds:
            audio, active, processed = self._encode_audio(sound)
            where = processed.to(self.model.device)
            some = scales if processed.all() else [scale.at(where) for scale in scales]
            found.append(self._prediction(some, audio, active, processed))
        return found

    def encode(self, frames: Tensor | None, visual: VisualFeatures | None = None) -> list[EncodedFrames]:
        """Frames uint8 [B,T,S,S,3] at every scale that the network segments, the largest first. visual: their features
        at the model's own size, where these are known; then frames may be as small as the second scale, and None where
        there is none.
        """
        frames, second = None if frames is None else frames.to(self.model.device), self.model.network.second_scale
        if visual is None:
            assert frames is not None  # one of the two is given
            visual = self._encode_frames(frames)
        if second is None:
            return [EncodedFrames(visual)]
        assert frames is not None  # as there is a second scale
        side = max(1, round(second * self.spec.image_size / 32)) * 32  # which every level of a pyramid divides
        small = resize_frames(frames.flatten(0, 1), side).unflatten(0, frames.shape[:2])
        return [EncodedFrames(visual, small), EncodedFrames(self._encode_frames(small, visual.object_probs), small)]

    def segment(self, scales: Sequence[EncodedFrames], audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        """The network's output at the first scale, with the mask logits of all scales, post-processed; valid [B,T]."""
        self.model.eval()
        outputs = [self.model.network(scale.visual, audio, valid) for scale in scales]
        masks = [
            ScaleMasks(output.logits, scale.frames, output.segmenter)
            for output, scale in zip(outputs, scales, strict=True)
        ]
        return replace(outputs[0], logits=postprocess(masks, self.model))

    def _encode_frames(self, frames: Tensor, object_probs: Tensor | None = None) -> VisualFeatures:
        """On a CPU one frame after the other, in the memory that one takes, unless the encoder knows better."""
        network, known = self.model.eval().network, {} if object_probs is None else {"object_probs": object_probs}
        if network.batches_frames or frames.device.type != "cpu":
            return network.encode_frames(frames, **known)
        levels = zip(*map(network.visual, frames.flatten(0, 1).split(1)), strict=True)
        return VisualFeatures([torch.cat(level).unflatten(0, frames.shape[:2]) for level in levels])

    def _encode_audio(self, sound: Tensor) -> tuple[AudioFeatures, Tensor, Tensor]:
        """Features [1,T,...]; the frames in which anything sounds, and those to process, bool [T]: of a silent clip
        the first is, for it says how large a mask is.
        """
        audio = self.model.eval().network.encode_audio(sound[None].to(self.model.device))
        active = torch.ones(len(sound), dtype=torch.bool)
        if audio.tag_probs is not None:
            active = (audio.tag_probs[0] > 0).any(1).cpu()
        processed = active.clone()
        processed[0] |= not active.any()
        return audio, active, processed

    def _prediction(
        self, scales: Sequence[EncodedFrames], audio: AudioFeatures, active: Tensor, processed: Tensor
    ) -> Prediction:
        where = processed.to(self.model.device)
        valid = torch.ones(1, int(processed.sum()), dtype=torch.bool, device=self.model.device)
        output = self.segment(scales, audio.map(lambda x: x[:, where]), valid)

        def of_all(found: Tensor, inactive: float) -> Tensor:
            whole = torch.full((len(active), *found.shape[2:]), inactive)
            whole[active] = found[0].float().cpu()[active[processed]]
            return whole

        logits = of_all(output.logits, _INACTIVE)
        words = output.word_probs if audio.tag_probs is None else audio.tag_probs
        heard = torch.zeros(len(active), 0) if words is None else words[0, :, : len(self.classes)].float().cpu()
        names = () if words is None else self.classes
        if output.classes is None:
            return Prediction(logits, heard, names)
        return Prediction(logits, heard, names, of_all(output.classes, 0.0), ("background", *self.classes))
