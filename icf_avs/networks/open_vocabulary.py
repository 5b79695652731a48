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
from icf_avs.encoders.open_vocab_encoder import ClassSimilarity
from icf_avs.encoders.voc_segmenter import voc_similarity
from icf_avs.networks.guided import DecoderOutput, GuidedNetwork, SoundTokens
from icf_avs.networks.guided_parts.decoder import PixelFeatures
from icf_avs.networks.guided_parts.implicit_text import GuidedImplicitText
from icf_avs.networks.open_vocabulary_parts.classifier_prior import ClassifierPrior
from icf_avs.networks.open_vocabulary_parts.combined_prior import EvidencePrior
from icf_avs.networks.open_vocabulary_parts.segmenter_prior import SegmenterPrior
from icf_avs.types import AudioFeatures, Missing, VisualFeatures


class ConditioningDropout(nn.Module):
    """Conditioning dropout: masks without the name of a sound, because knowledge of trained words misleads on new ones.

    The evidence for the words of a sound stays. All else that the decoder gets from the sound (the sound itself, its
    text, their comparison with positions in the prior and CDCL's space) is removed; learnt tokens replace sound and
    text. In training a share of the clips is segmented this way, so the decoder learns to turn evidence into a mask for
    any word. At test both masks are decoded, and the larger logit counts at each position. Not from the paper.

    tokens: number of implicit text tokens of a frame.
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
        evidence, names = cast(EvidenceConfig, config.evidence), len(config.classes)
        self.second_scale, self.synonym_threshold = evidence.second_scale, evidence.synonym_threshold
        classifier = ClassifierPrior(names, evidence.words, evidence.classes)
        self.prior = EvidencePrior(config.dim, classifier, SegmenterPrior(names, evidence.words))
        tokens = cast(ImplicitTextConfig, config.implicit_text).tokens
        self.name_dropout = ConditioningDropout(config.dim, tokens, evidence.name_dropout)

    @property
    def missing(self) -> tuple[Missing, ...]:
        return self.visual.missing

    @torch.no_grad()
    def init_from_names(self, classes: ClassSimilarity) -> None:
        """Initialise before training: relate names to classes of classifier and segmenter, and start the projections
        of sound and text from the same principal axes of the names. Raises ValueError for more axes than names.
        """
        vocabulary = self.implicit_text.vocabulary
        names = vocabulary.names.cpu()  # the device of the classes and the text encoder
        self.prior.classifier.init_from_names(classes, names)
        self.prior.segmenter.init_from_names(*voc_similarity(names))
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
        prior_output = self.prior(pixels.tokens, sounds.semantic.flatten(1, 2), text, vocabulary, *evidence, tags)
        name_prior = prior_output.text_prior
        if self.joint_embedding is not None:
            name_prior = name_prior + self._match(pixels, sounds)
        semantic, (clips, frames) = sounds.semantic.flatten(1, 2), sounds.semantic.shape[1:3]
        all_frames = torch.ones(clips * frames, dtype=torch.bool, device=semantic.device)
        decoded = []
        for keep_names in [self.name_dropout.draw(clips, frames)] if self.training else [all_frames, ~all_frames]:
            prior = prior_output.evidence + name_prior * keep_names[:, None, None]
            decoded.append(
                (self.decoder(pixels, *self.name_dropout.drop_names(semantic, text, keep_names), prior), prior)
            )
        first, prior = decoded[0]
        logits = torch.stack([masks.logits for masks, _ in decoded]).amax(0)
        logits = logits - F.softplus(-prior_output.present)[..., None, None]  # no mask for absent objects
        return DecoderOutput(logits, first.query, prior, prior_output.pixel_reading, prior_output.segmenter)
