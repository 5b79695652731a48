"""Predictor: frames and audio in, masks out. Segmentation, evaluation, the web page and validation all use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from icf_avs.inference.postprocess import ScaleMasks, postprocess
from icf_avs.mask_predictor import GrowingClip, MaskPredictor
from icf_avs.media.arrays import Array
from icf_avs.media.images import resize_frames
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import AudioFeatures, NetworkOutput, Prediction, VisualFeatures

if TYPE_CHECKING:
    from icf_avs.encoders.tagger_encoder import TaggerEncoder

_INACTIVE = -30.0  # logits of frames in which nothing sounds


@dataclass(frozen=True)
class EncodedFrames:
    """Features of frames at one scale, [B,T,...], and the frames themselves if edge refinement needs their colours."""

    visual: VisualFeatures
    frames: Tensor | None = None

    def select(self, frames: Tensor) -> EncodedFrames:
        """Select frames; frames: bool [T]."""
        colours = None if self.frames is None else self.frames[:, frames]
        return EncodedFrames(self.visual.map(lambda x: x[:, frames]), colours)

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedFrames]) -> EncodedFrames:
        """Concatenate parts [B,T,...] of the same clips along the time axis."""
        pyramids = zip(*(part.visual.pyramid for part in parts), strict=True)
        rest = zip(*((*part.visual[1:], part.frames) for part in parts), strict=True)
        scores, probs, frames = map(_concatenate_optional, rest)
        return cls(VisualFeatures([torch.cat(level, 1) for level in pyramids], scores, probs), frames)


class Predictor(MaskPredictor):
    """Predicts masks with a model. Handles device, evaluation mode, scales and post-processing, and skips frames
    without an active tag.
    """

    def __init__(self, model: SegmentationModel, active_words: Tensor | None = None) -> None:
        """active_words: classes to segment, bool [C]; None for all."""
        self.model, self.spec, self.classes = model, model.spec, model.classes
        self._active_words = None if active_words is None else active_words.to(model.device)
        if active_words is not None:
            self.only_words = tuple(self.classes[index] for index in active_words.nonzero()[:, 0].tolist())
        self.digest, self.missing = model.digest, model.missing
        self.encoders = {"visual": model.config.visual, "audio": model.config.audio}
        self.semantic = model.config.semantic

    def with_words(self, words: str) -> Predictor:
        from icf_avs.inference.word_prompts import prompted_words

        return Predictor(self.model, prompted_words(self.model, words))

    @torch.inference_mode()
    def prepare(self, frame: Tensor) -> list[EncodedFrames]:
        return self.encode(frame[None, None])

    def growing_clip(self) -> GrowingClip:
        return _EncodedClip(self)

    @torch.inference_mode()
    def predict(self, frames: Array, sound: Array) -> Prediction:
        frames, sound = torch.as_tensor(frames), torch.as_tensor(sound)
        audio = self._encode_audio(sound)
        return self._predict_encoded(lambda processed: self.encode(frames[processed][None]), audio)

    @torch.inference_mode()
    def predict_each(self, frames: Tensor, sounds: Sequence[Tensor]) -> list[Prediction]:
        if len(sounds) == 1:
            return [self.predict(frames, sounds[0])]
        scales, predictions = self.encode(frames[None]), []
        for sound in sounds:
            audio = self._encode_audio(sound)
            predictions.append(self._predict_encoded(partial(_select_frames, scales), audio))
        return predictions

    def encode(self, frames: Tensor | None, visual: VisualFeatures | None = None) -> list[EncodedFrames]:
        """Encode frames uint8 [B,T,S,S,3] at all scales of the network, largest first. visual: cached features at the
        model's image size; with these, frames may be as small as the second scale, or None if there is no second scale.
        """
        frames = None if frames is None else frames.to(self.model.device)
        if visual is None:
            assert frames is not None  # one of the two is given
            visual = self._encode_frames(frames)
        if self.model.network.second_scale is None:
            return [EncodedFrames(visual)]
        assert frames is not None  # as there is a second scale
        small = resize_frames(frames.flatten(0, 1), second_size(self.model)).unflatten(0, frames.shape[:2])
        return [EncodedFrames(visual, small), EncodedFrames(self._encode_frames(small, visual.object_probs), small)]

    def segment(self, scales: Sequence[EncodedFrames], audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        """Return the output at the first scale, its logits replaced by the post-processed ones of all scales; valid:
        bool [B,T].
        """
        self.model.eval()
        outputs = [self.model.network(scale.visual, audio, valid) for scale in scales]
        masks = [
            ScaleMasks(output.logits, scale.frames, output.segmenter)
            for output, scale in zip(outputs, scales, strict=True)
        ]
        return replace(outputs[0], logits=postprocess(masks, self.model))

    def _encode_frames(self, frames: Tensor, object_probs: Tensor | None = None) -> VisualFeatures:
        """Encode frames. On a CPU one by one to save memory, unless the network does its own batching."""
        network, kwargs = self.model.eval().network, {} if object_probs is None else {"object_probs": object_probs}
        if network.batches_frames or frames.device.type != "cpu":
            return network.encode_frames(frames, **kwargs)
        levels = zip(*map(network.visual, frames.flatten(0, 1).split(1)), strict=True)
        return VisualFeatures([torch.cat(level).unflatten(0, frames.shape[:2]) for level in levels])

    def _encode_audio(self, sound: Tensor) -> AudioFeatures:
        """Encode the audio of one clip -> features [1,T,...]."""
        network, sound = self.model.eval().network, sound[None].to(self.model.device)
        if self._active_words is None:
            return network.encode_audio(sound)
        tags = cast("TaggerEncoder", network.audio).heard(sound)
        return network.encode_audio(tags * self._active_words, tags=True)

    def _predict_encoded(
        self, encoded: Callable[[Tensor], Sequence[EncodedFrames]], audio: AudioFeatures
    ) -> Prediction:
        """Segment only the frames in which something sounds. encoded: maps the selection, bool [T], to these frames at
        all scales. Of a silent clip the first frame is processed, which gives the size of the masks.
        """
        active = torch.ones(audio.token.shape[1], dtype=torch.bool)
        if audio.tag_probs is not None:
            active = (audio.tag_probs[0] > 0).any(1).cpu()
        processed = active.clone()
        processed[0] |= not active.any()
        where = processed.to(self.model.device)
        valid = torch.ones(1, int(processed.sum()), dtype=torch.bool, device=self.model.device)
        output = self.segment(encoded(processed), audio.map(lambda x: x[:, where]), valid)

        def scatter_to_all(values: Tensor, inactive: float) -> Tensor:
            all_values = torch.full((len(active), *values.shape[2:]), inactive)
            all_values[active] = values[0].float().cpu()[active[processed]]
            return all_values

        logits = scatter_to_all(output.logits, _INACTIVE)
        words = output.word_probs if audio.tag_probs is None else audio.tag_probs
        heard = torch.zeros(len(active), 0) if words is None else words[0, :, : len(self.classes)].float().cpu()
        names = () if words is None else self.classes
        if output.classes is None:
            return Prediction(logits, heard, names)
        return Prediction(logits, heard, names, scatter_to_all(output.classes, 0.0), ("background", *self.classes))


def second_size(model: SegmentationModel) -> int:
    """Return the side of frames at the second scale in pixels, a multiple of 32 (the coarsest stride)."""
    return max(1, round(cast(float, model.network.second_scale) * model.spec.image_size / 32)) * 32


def _select_frames(scales: Sequence[EncodedFrames], frames: Tensor) -> Sequence[EncodedFrames]:
    """Select from encoded frames; frames: bool [T]."""
    where = frames.to(scales[0].visual.pyramid[0].device)
    return scales if frames.all() else [scale.select(where) for scale in scales]


def _concatenate_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate the parts that are not None, [B,T,...], along the time axis; None if there are none."""
    present = [part for part in parts if part is not None]
    return torch.cat(present, 1) if present else None


class _EncodedClip(GrowingClip):
    """Growing clip that encodes each frame only once."""

    @torch.inference_mode()
    def add(self, frame: list[EncodedFrames], sound: Tensor) -> Prediction:
        predictor = cast(Predictor, self._predictor)
        self._frames.append(frame)
        self._sounds.append(sound)
        scales = [EncodedFrames.concatenate(scale) for scale in zip(*self._frames, strict=True)]
        return predictor._predict_encoded(
            partial(_select_frames, scales), predictor._encode_audio(torch.stack(self._sounds))
        )
