"""The guided network, our own variant: implicit text and a joint space guide the mask decoder, also at test.

pyramid -> pixels                                       once for each image
audio token a -> semantic z = a + text(a)               once for each sound
z, pixels -> implicit text -> prior, decoder -> mask    for the true sound and, in training, its counterfactuals
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from icf_avs.config import ModelConfig
from icf_avs.extensions.intervention_losses import previous_clip
from icf_avs.networks.base import Network
from icf_avs.networks.guided_parts.counterfactual import GuidedCounterfactuals, GuidedCounterfactualSampler
from icf_avs.networks.guided_parts.decoder import MaskDecoder, PixelDecoder, PixelFeatures, SemanticHead
from icf_avs.networks.guided_parts.implicit_text import GuidedImplicitText
from icf_avs.networks.guided_parts.joint_embedding import JointEmbedding
from icf_avs.networks.guided_parts.localization_prior import LocalizationPrior
from icf_avs.networks.guided_parts.vocabulary import Vocabulary
from icf_avs.types import AudioFeatures, FeatureSpec, NetworkFeatures, NetworkOutput, VisualFeatures

_LOGITS = (
    "logits", "counterfactual_logits", "source_removal_logits", "visual_counterfactual_logits", "extra_logits",
)  # fmt: skip


@dataclass(kw_only=True)
class GuidedOutput(NetworkOutput):
    """Everything the losses read, by name. None (or empty) if the part is absent, or outside training.

    prior [B,T,h',w'] | reading [B,T,M] logits in the vocabulary | pixel_reading [B,T,M,h',w'] | text: level -> tokens
    semantic [B,T,D] z | parts [B,T,L,D] z over time within its frame | patches [B,T,h'w',D]
    counterfactuals | counterfactual_logits [K,B,T,h,w] | counterfactual_text [K,B,T,n,D]
    source_removal_logits [B,T,h,w]: these frames under their sound without one of its classes
    visual_counterfactual_logits [B,T,h,w]: these frames under the sound of the previous clip of the batch
    extra_logits [Q,B,T,h,w]: these frames under other sounds
    synonyms [C,C] bool: words of an open vocabulary that may mean the same
    """

    semantic: Tensor
    parts: Tensor
    patches: Tensor
    prior: Tensor | None = None
    reading: Tensor | None = None
    pixel_reading: Tensor | None = None
    text: dict[str, Tensor] = field(default_factory=dict)
    counterfactuals: GuidedCounterfactuals | None = None
    counterfactual_logits: Tensor | None = None
    counterfactual_text: Tensor | None = None
    source_removal_logits: Tensor | None = None
    visual_counterfactual_logits: Tensor | None = None
    extra_logits: Tensor | None = None
    synonyms: Tensor | None = None

    @property
    def word_probs(self) -> Tensor | None:
        return None if self.reading is None else self.reading.softmax(-1)

    def add_to_logits(self, offset: Tensor) -> None:
        for name in _LOGITS:
            if (logits := getattr(self, name)) is not None:
                setattr(self, name, logits + offset)


class SoundTokens(NamedTuple):
    """R sounds for the frames of B clips. semantic: z [R,B,T,D]; parts [R,B,T,L,D]: change over time within the frame,
    added to z; tag_probs: [B,T,C] for each sound, None for a sound without tags.
    """

    semantic: Tensor
    parts: Tensor
    tag_probs: list[Tensor | None]


class DecoderOutput(NamedTuple):
    """Output for R sounds over N = B*T images. logits: masks [R,N,h,w]; query [R,N,D]: the query of the sound after
    decoding; prior [R,N,h',w']; pixel_reading [N,M,h',w']; segmenter [R,N,2,h'',w'']: open vocabulary only; text:
    level -> [R,B,...,n,D].
    """

    logits: Tensor
    query: Tensor
    prior: Tensor | None = None
    pixel_reading: Tensor | None = None
    segmenter: Tensor | None = None
    text: dict[str, Tensor] | None = None


class GuidedNetwork(Network):
    """config: the parts that are built, and their widths; names: text embeddings [C,E] of config.classes; visual,
    audio: see `Network`. Raises ValueError if the numbers of names and classes differ.
    """

    implicit_text: GuidedImplicitText | None
    prior: LocalizationPrior | None

    def __init__(self, config: ModelConfig, visual: nn.Module, audio: nn.Module, names: Tensor) -> None:
        super().__init__(visual, audio, config.train_visual)
        classes, dim, text = len(config.classes), config.dim, config.implicit_text
        if len(names) != classes:
            raise ValueError(f"{len(names)} name embeddings for {classes} classes")
        self.widths = config.pixel_dim, dim
        self.pixel_decoder = PixelDecoder(self.visual.channels, dim, config.pixel_dim)
        self.implicit_text = None
        if text:
            vocabulary = Vocabulary(names, text.free_words, dim)
            self.implicit_text = GuidedImplicitText(vocabulary, dim, config.heads, text.tokens, text.segment)
        self._add_prior(config)
        queries, counterfactual, contrast = 1 + (text.tokens if text else 0), config.counterfactual, config.contrastive
        guided = text is not None or contrast is not None
        self.decoder = MaskDecoder(dim, config.pixel_dim, config.heads, config.layers, queries, prior=guided)
        self.semantic = SemanticHead(classes, dim, config.pixel_dim) if config.semantic else None
        self.counterfactual = self.joint_embedding = None
        if counterfactual:
            self.counterfactual = GuidedCounterfactualSampler(
                dim, classes, counterfactual.count, bool(text and classes)
            )
        if contrast:
            start = contrast.floor, contrast.temperature
            self.joint_embedding = JointEmbedding(dim, contrast.dim, *start, text is not None)

    def _add_prior(self, config: ModelConfig) -> None:
        """Build the prior. Called in the middle of __init__, because new weights are drawn in this order."""
        self.prior = LocalizationPrior(config.dim) if config.implicit_text else None

    @property
    def feature_spec(self) -> FeatureSpec:
        return self._spec(self.widths, self.widths[1])

    def decode(
        self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor, sounding: Tensor | None = None,
        extra_audio: AudioFeatures | None = None, known: Tensor | None = None,
    ) -> GuidedOutput:  # fmt: skip
        """Arguments for training only: sounding [B,T,C] bool, classes known to sound, enables SC; extra_audio
        [B,Q,T,...], more sounds for the same frames; known [B,T] bool, frames in which `sounding` is complete (see
        `GuidedCounterfactualSampler`).
        """
        pixels = self.pixel_decoder([level.flatten(0, 1) for level in visual.pyramid])
        parts = audio.token[:, :, None] if audio.parts is None else audio.parts
        semantic, part_offsets = self.semantic_of(audio.token), parts - audio.token[:, :, None]
        sounds, counterfactuals = SoundTokens(semantic[None], part_offsets[None], [audio.tag_probs]), None
        synonyms = None if sounding is None else self.synonyms()
        if sounding is not None and self.counterfactual is not None:
            vocabulary = None if self.implicit_text is None else self.implicit_text.vocabulary
            counterfactuals = self.counterfactual(semantic, sounding, valid, vocabulary, synonyms, known)
            sounds = self._with_counterfactuals(sounds, semantic, part_offsets, counterfactuals)
        if extra_audio is not None:
            sounds = self._with_extra(sounds, extra_audio)
        decoded = self.decode_sounds(pixels, sounds, valid, visual)

        logits = decoded.logits.unflatten(1, valid.shape)
        fine, tokens = (maps.unflatten(0, valid.shape) for maps in (pixels.fine, pixels.tokens))
        output = GuidedOutput(
            logits[0], NetworkFeatures((fine, tokens), audio.token), semantic=semantic,
            parts=semantic[:, :, None] + part_offsets, patches=tokens.flatten(3).transpose(2, 3),
            text={name: level[0] for name, level in (decoded.text or {}).items()}, synonyms=synonyms,
        )  # fmt: skip
        if decoded.prior is not None:
            output.prior = decoded.prior[0].unflatten(0, valid.shape)
        if decoded.segmenter is not None:
            output.segmenter = decoded.segmenter[0].unflatten(0, valid.shape)
        if self.implicit_text is not None:
            output.reading = self.implicit_text.vocabulary.similarity(audio.token)
        if self.semantic is not None:
            output.classes = self.semantic(decoded.query[0], pixels.fine).unflatten(0, valid.shape)
        if sounding is not None:
            self._add_training(output, decoded, logits, counterfactuals)
        return output

    def _add_training(
        self, output: GuidedOutput, decoded: DecoderOutput, logits: Tensor, drawn: GuidedCounterfactuals | None
    ) -> None:
        """Add what only the losses read. logits [R,B,T,h,w], in this order: the true sound, K counterfactuals, the true
        sound without one of its classes, the sound of the previous clip, and Q extra sounds.
        """
        if decoded.pixel_reading is not None:
            output.pixel_reading = decoded.pixel_reading.unflatten(0, logits.shape[1:3])
        output.counterfactuals, first_extra = drawn, 1
        if drawn is not None:
            removal = 1 + len(drawn.sounds)
            output.counterfactual_logits, output.source_removal_logits = logits[1:removal], logits[removal]
            output.visual_counterfactual_logits = logits[removal + 1]
            output.counterfactual_text = decoded.text["frame"][1:removal] if decoded.text else None
            first_extra = removal + 2
        output.extra_logits = logits[first_extra:] if len(logits) > first_extra else None

    def semantic_of(self, audio: Tensor) -> Tensor:
        """Return z: the audio token [...,D], with MIT plus its text in the vocabulary. All later parts read z."""
        return audio if self.implicit_text is None else audio + self.implicit_text.vocabulary.read(audio)

    def synonyms(self) -> Tensor | None:
        """Return [C,C] bool: classes whose names may mean the same, or None if there are no synonyms."""
        return None

    @staticmethod
    def _with_counterfactuals(
        sounds: SoundTokens, semantic: Tensor, part_offsets: Tensor, drawn: GuidedCounterfactuals
    ) -> SoundTokens:
        """Append to the true sound its counterfactuals, and the sound of the previous clip: each clip's frames meet the
        sound of another clip, and each clip's sound the frames of another.
        """
        generated, (tags,) = len(drawn.sounds) + 1, sounds.tag_probs
        return SoundTokens(
            torch.cat([sounds.semantic, drawn.sounds, drawn.removal.sound[None], previous_clip(semantic)[None]]),
            torch.cat([sounds.parts.expand(1 + generated, -1, -1, -1, -1), previous_clip(part_offsets)[None]]),
            [tags, *[None] * generated, None if tags is None else previous_clip(tags)],
        )

    def _with_extra(self, sounds: SoundTokens, extra: AudioFeatures) -> SoundTokens:
        """Append the extra sounds [B,Q,T,...]."""
        flat, lead = extra.map(lambda x: x.flatten(0, 1)), extra.token.shape[:2]
        part_offsets, semantic = cast(Tensor, flat.parts) - flat.token[:, :, None], self.semantic_of(flat.token)
        tags = [None] * lead[1] if extra.tag_probs is None else extra.tag_probs.unbind(1)
        return SoundTokens(
            torch.cat([sounds.semantic, semantic.unflatten(0, lead).transpose(0, 1)]),
            torch.cat([sounds.parts, part_offsets.unflatten(0, lead).transpose(0, 1)]),
            [*sounds.tag_probs, *tags],
        )

    def decode_sounds(
        self, pixels: PixelFeatures, sounds: SoundTokens, valid: Tensor, visual: VisualFeatures
    ) -> DecoderOutput:
        """Decode masks of the same frames under each of R sounds. visual: the features of the frames."""
        repeats, clips, frames, _ = sounds.semantic.shape
        if self.implicit_text is None:
            return self._decode_guided(pixels, sounds, None, visual)
        pooled = pixels.pooled.unflatten(0, (clips, frames))  # the same under every sound
        text = self.implicit_text(sounds.semantic.flatten(0, 1), pooled, valid.repeat(repeats, 1))
        text = {name: level.unflatten(0, (repeats, clips)) for name, level in text.items()}
        return self._decode_guided(pixels, sounds, text["frame"].flatten(1, 2), visual)._replace(text=text)

    def _decode_guided(
        self, pixels: PixelFeatures, sounds: SoundTokens, text: Tensor | None, visual: VisualFeatures
    ) -> DecoderOutput:
        """Decode masks, guided by the text [R,N,n,D] of the frames, its prior, and CDCL's match."""
        prior, reading = None, None
        if text is not None and self.prior is not None and self.implicit_text is not None:
            localization = self.prior(pixels.tokens, sounds.semantic.flatten(1, 2), text, self.implicit_text.vocabulary)
            prior, reading = localization.prior, localization.pixel_reading
        if self.joint_embedding is not None:
            match = self._match(pixels, sounds)
            prior = match if prior is None else prior + match
        decoded = self.decoder(pixels, sounds.semantic.flatten(1, 2), text, prior)
        return DecoderOutput(decoded.logits, decoded.query, prior, reading)

    def _match(self, pixels: PixelFeatures, sounds: SoundTokens) -> Tensor:
        """Return [R,N,h,w]: the proximity of positions and sounds in CDCL's joint space."""
        parts = (sounds.semantic[:, :, :, None] + sounds.parts).flatten(1, 2)
        return cast(JointEmbedding, self.joint_embedding).match(parts, pixels.tokens)
