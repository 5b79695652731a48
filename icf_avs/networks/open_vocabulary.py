"""The guided network with an open vocabulary, as in the checkpoint `natural`. Sounds are AudioSet tags, and the objects
that they name are localised by the dense evidence of an image classifier and an object segmenter.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.config import EvidenceConfig, ImplicitTextConfig, ModelConfig
from icf_avs.distributed import rand_for_batch
from icf_avs.networks.evidence_prior import EvidencePrior
from icf_avs.networks.guided import DecoderOutput, GuidedNetwork, SoundTokens
from icf_avs.networks.guided_parts.decoder import PixelFeatures
from icf_avs.networks.guided_parts.implicit_text import GuidedImplicitText
from icf_avs.types import AudioFeatures, Missing, VisualFeatures


class ConditioningDropout(nn.Module):
    """Conditioning dropout: masks without the name of a sound, because knowledge of trained words misleads on new ones.

    Of what the decoder gets from a sound only the evidence for its words stays; learnt tokens replace sound and text. A
    share of the training clips is segmented this way, so the decoder learns to turn evidence into a mask for any word.
    Not from the paper. tokens: number of implicit text tokens of a frame.
    """

    def __init__(self, dim: int, tokens: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.sound = nn.Parameter(torch.normal(0.0, 0.1, (dim,)))
        self.text = nn.Parameter(torch.normal(0.0, 0.1, (tokens, dim)))

    def draw(self, clips: int, frames: int) -> Tensor:
        """Draw for training the frames that keep their names, [clips * frames] bool: all or none of each clip."""
        return (rand_for_batch(clips, 1, self.sound.device) >= self.share).repeat_interleave(frames)

    def drop_names(self, sound: Tensor, text: Tensor, keep_names: Tensor) -> tuple[Tensor, Tensor]:
        """Replace sound [R,N,D] and text [R,N,n,D] by the learnt tokens where `keep_names` [N] is False."""
        keep = keep_names[None, :, None]
        return torch.where(keep, sound, self.sound), torch.where(keep[..., None], text, self.text)


class OpenVocabularyNetwork(GuidedNetwork):
    """Requires config.evidence and config.implicit_text. visual: OpenVocabEncoder; audio: TaggerEncoder."""

    batches_frames = True
    implicit_text: GuidedImplicitText
    prior: EvidencePrior

    def _add_prior(self, config: ModelConfig) -> None:
        evidence, text = cast(EvidenceConfig, config.evidence), cast(ImplicitTextConfig, config.implicit_text)
        self.second_scale, self.synonym_threshold = evidence.second_scale, evidence.synonym_threshold
        self.prior = EvidencePrior(config.dim, len(config.classes), evidence.words, evidence.classes)
        self.name_dropout = ConditioningDropout(config.dim, text.tokens, evidence.name_dropout)

    @property
    def missing(self) -> tuple[Missing, ...]:
        return self.visual.missing

    @torch.no_grad()
    def init_from_names(self) -> None:
        """Initialise before training: relate names to classes of classifier and segmenter, and start the projections
        of sound and text from the same principal axes of the names. Raises ValueError for more axes than names.
        """
        vocabulary = self.implicit_text.vocabulary
        self.prior.init_from_names(vocabulary.names.cpu())
        axes = vocabulary.principal_axes()
        for part in (vocabulary.project, self.audio.project):
            if axes.shape != part.weight.shape:
                raise ValueError(f"{len(vocabulary.names)} names have no {len(part.weight)} axes: lower dim")
            part.weight.copy_(axes)
            part.bias.zero_()

    def encode_frames(self, frames: Tensor, object_probs: Tensor | None = None) -> VisualFeatures:
        """Encode frames. object_probs [B,T,20,h,w]: those of the same frames at another size, if already computed."""
        flat_probs = None if object_probs is None else object_probs.flatten(0, 1)
        with torch.no_grad():
            features = self.visual.evidence(frames.flatten(0, 1), flat_probs)
        return features.map(lambda x: x.unflatten(0, frames.shape[:2]))

    def encode_audio(self, sound: Tensor, tags: bool = False) -> AudioFeatures:
        """As `Network.encode_audio`; the tagger gets all windows of a clip together."""
        return super().encode_audio(sound if tags else self.audio.heard(sound), tags=True)

    def synonyms(self) -> Tensor:
        return self.implicit_text.vocabulary.synonyms(self.synonym_threshold)

    def _decode_guided(
        self, pixels: PixelFeatures, sounds: SoundTokens, text: Tensor | None, visual: VisualFeatures
    ) -> DecoderOutput:
        """Decode masks with and without the names of sounds; the larger logit counts. In training one of the two."""
        text, vocabulary = cast(Tensor, text), self.implicit_text.vocabulary
        evidence = [cast(Tensor, maps).flatten(0, 1) for maps in (visual.class_scores, visual.object_probs)]
        tags = [None if probs is None else probs.flatten(0, 1) for probs in sounds.tag_probs]
        prior = self.prior(pixels.tokens, sounds.semantic.flatten(1, 2), text, vocabulary, *evidence, tags)
        name_prior = prior.comparison.similarity
        if self.joint_embedding is not None:
            name_prior = name_prior + self._match(pixels, sounds)
        semantic, (clips, frames) = sounds.semantic.flatten(1, 2), sounds.semantic.shape[1:3]
        all_frames = torch.ones(clips * frames, dtype=torch.bool, device=semantic.device)
        keep_names = [self.name_dropout.draw(clips, frames)] if self.training else [all_frames, ~all_frames]
        priors = [prior.evidence + name_prior * keep[:, None, None] for keep in keep_names]
        masks = [
            self.decoder(pixels, *self.name_dropout.drop_names(semantic, text, keep), each)
            for keep, each in zip(keep_names, priors, strict=True)
        ]
        logits = torch.stack([each.logits for each in masks]).amax(0)
        logits = logits - F.softplus(-prior.present)[..., None, None]  # no mask for absent objects
        return DecoderOutput(logits, masks[0].query, priors[0], prior.comparison.pixel_reading, prior.segmenter)
