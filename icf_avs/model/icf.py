"""ICF, the whole method, top to bottom.

pyramid -> pixels                                   once per picture
wave -> audio token a -> semantic z = a + text(a)   once per sound
z, pixels -> implicit text -> decoder -> mask       for the factual sound and, in training, its rivals
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.backbones.audio import AudioEncoder
from icf_avs.backbones.class_evidence import ClassWords
from icf_avs.backbones.thing_words import thing_bearing
from icf_avs.backbones.word_ear import WordEar
from icf_avs.config import ModelConfig
from icf_avs.contracts import ClipSpec, Missing, Prediction
from icf_avs.data.resize import resized
from icf_avs.extensions.intervention_losses import of_clip_before
from icf_avs.model.counterfactual import Rivals, SemanticCounterfactual
from icf_avs.model.decoder import Decoded, MaskDecoder, SemanticHead
from icf_avs.model.edges import follow_colours
from icf_avs.model.implicit_text import ImplicitText
from icf_avs.model.nameless import Nameless
from icf_avs.model.pixels import PixelDecoder, Pixels
from icf_avs.model.prior import Prior
from icf_avs.model.shared_space import SharedSpace
from icf_avs.model.thing_evidence import ThingEvidence, with_things
from icf_avs.model.two_looks import of_both_looks
from icf_avs.model.vocabulary import Vocabulary
from icf_avs.model.word_evidence import WordEvidence
from icf_avs.model.yardstick import Yardstick

_QUIET = -30.0  # logits where nothing is heard


@dataclass
class Output:
    """Everything the losses and probes read, by name. None (or empty) where the part is absent or not in training.

    logits [B,T,h,w] | prior [B,T,h',w'] | classes [B,T,C+1,h,w] | reading [B,T,M] logits in the vocabulary
    pixel_reading [B,T,M,h',w'] | text: level -> tokens
    sound [B,T,D] the semantic z | parts [B,T,L,D] z as it changes within its frame | patches [B,T,h'w',D]
    rivals | rival_logits [K,B,T,h,w] | rival_text [K,B,T,n,D]
    rest_logits [B,T,h,w]: the sound without one of its kinds
    foreign_logits [B,T,h,w]: this picture under the sound of the clip before it in the batch
    other_logits [Q,B,T,h,w]: the same pictures under other sounds
    akin [C,C] bool: words of an open vocabulary that may mean the same
    """

    logits: Tensor
    sound: Tensor
    parts: Tensor
    patches: Tensor
    prior: Tensor | None = None
    classes: Tensor | None = None
    reading: Tensor | None = None
    pixel_reading: Tensor | None = None
    text: dict[str, Tensor] = field(default_factory=dict)
    rivals: Rivals | None = None
    rival_logits: Tensor | None = None
    rival_text: Tensor | None = None
    rest_logits: Tensor | None = None
    foreign_logits: Tensor | None = None
    other_logits: Tensor | None = None
    akin: Tensor | None = None


class Look(NamedTuple):
    """Pictures at one size: pyramid of [B,T,c,h,w] and, where masks follow colours, pictures uint8 [B,T,s,s,3]."""

    pyramid: list[Tensor]
    pictures: Tensor | None

    def at(self, frames: Tensor) -> Look:
        """Those of some frames, bool [T]."""
        return Look(
            [level[:, frames] for level in self.pyramid], None if self.pictures is None else self.pictures[:, frames]
        )


class Answer(NamedTuple):
    """R sounds over N = B*T pictures. Of MIT: text, level -> [R,B,...,n,D], and seen [N,M,h,w], the reading of every
    position; of MIT and CDCL: prior [R,N,h,w].
    """

    decoded: Decoded
    text: dict[str, Tensor]
    prior: Tensor | None
    seen: Tensor | None


class ICF(nn.Module):
    """visual: encoder, frames uint8 [N,H,W,3] -> pyramid; names: [C,E] text embeddings of config.classes;
    audio: encoder, sound [N,...] -> (token [N,D], tokens [N,L,D]), None: the small one that is trained from scratch.
    """

    def __init__(
        self, config: ModelConfig, spec: ClipSpec, visual: nn.Module, names: Tensor, audio: nn.Module | None = None
    ) -> None:
        super().__init__()
        if len(names) != len(config.classes):
            raise ValueError(f"{len(names)} name embeddings for {len(config.classes)} classes")
        dim, text = config.dim, config.implicit_text
        self.config, self.spec, self.classes = config, spec, config.classes
        self.digest: str | None = None  # SHA-256 of the checkpoint that it was loaded from
        self.visual = visual
        self.audio = AudioEncoder(dim) if audio is None else audio
        self.pixels = PixelDecoder(visual.channels, dim, config.pixel_dim)
        vocabulary = Vocabulary(names, text.free_words, dim) if text else None
        self.implicit_text = ImplicitText(vocabulary, dim, config.heads, text.tokens, text.segment) if text else None
        search = config.evidence
        evidence = WordEvidence(len(names), search.words, search.classes) if search else None
        things = ThingEvidence(len(names), search.words) if search else None
        self.prior = Prior(dim, evidence, things) if text else None
        self.nameless = Nameless(dim, text.tokens, search.nameless) if search else None
        self.yardstick = Yardstick() if search else None
        self.register_buffer("offset", torch.zeros(()))  # of all mask logits, set by training/calibrate.py
        queries = 1 + (text.tokens if text else 0)
        guided = text is not None or config.contrastive is not None
        self.decoder = MaskDecoder(dim, config.pixel_dim, config.heads, config.layers, queries, prior=guided)
        self.semantic = SemanticHead(len(config.classes), dim, config.pixel_dim) if config.semantic else None
        rivals, contrast = config.counterfactual, config.contrastive
        words = text is not None and len(config.classes) > 0
        self.counterfactual = SemanticCounterfactual(dim, len(config.classes), rivals.count, words) if rivals else None
        self.shared_space = (
            SharedSpace(dim, contrast.dim, contrast.floor, contrast.temperature, text is not None) if contrast else None
        )

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Parts of the encoders that could not be had."""
        return getattr(self.visual, "missing", ())

    @property
    def device(self) -> torch.device:
        """Where the weights are, and what the model is given has to be. `see_clip` and `predict` see to that."""
        return self.offset.device

    def forward(
        self,
        pyramid: list[Tensor],
        sound: Tensor,
        valid: Tensor,
        sounding: Tensor | None = None,
        others: Tensor | None = None,
        pictures: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Output:
        """pyramid of [B,T,c,h,w], with evidence six levels; sound, waves [B,T,N] or log-mel [B,T,96,64]; valid [B,T]
        bool; sounding [B,T,C] bool, kinds known to sound, training only, switches SC on; others [B,Q,T,N], more sounds
        of the same pictures, training only; pictures uint8 [B,T,S,S,3], whose colours the masks then follow, with one
        sound and evidence only: logits are twice as fine; known [B,T]
        bool: frames of which `sounding` is all that sounds (see `SemanticCounterfactual`).
        """
        clips, frames = valid.shape
        levels = [level.flatten(0, 1) for level in pyramid]
        pixels, found = self.pixels(levels[:4]), tuple(levels[4:]) if self.config.evidence else ()
        search = self.config.evidence
        said: dict[int, Tensor] = {}  # words of sounds, by their numbers; a rival has none
        by_words = search is not None and isinstance(self.audio, WordEar)
        if by_words:
            said[0] = sound = self.audio.words_of(sound.flatten(0, 1)).unflatten(0, (clips, frames))
        audio, tokens = self.hear(sound)
        sound = self.semantic_of(audio)
        sounds, rivals = sound[None], None
        within = tokens - audio[:, :, None]
        parts = within[None]
        akin = self.implicit_text.vocabulary.akin(search.akin) if search and sounding is not None else None
        if sounding is not None and self.counterfactual is not None:
            vocabulary = self.implicit_text.vocabulary if self.implicit_text is not None else None
            rivals = self.counterfactual(sound, sounding, valid, vocabulary, akin, known)
            # do(vision): every picture under the sound of the clip before is every sound over the picture of the next.
            sounds = torch.cat([sounds, rivals.sounds, rivals.rest.sound[None], of_clip_before(sound)[None]])
            parts = torch.cat([parts.expand(len(sounds) - 1, -1, -1, -1, -1), of_clip_before(within)[None]])
            if by_words:
                said[len(sounds) - 1] = of_clip_before(said[0])
        asked = len(sounds)
        if others is not None:
            if by_words:
                said |= dict(enumerate(others.unbind(1), asked))
            more, within_more = self.hear(others.flatten(0, 1))
            within_more = within_more - more[:, :, None]
            sounds = torch.cat([sounds, self.semantic_of(more).unflatten(0, others.shape[:2]).transpose(0, 1)])
            parts = torch.cat([parts, within_more.unflatten(0, others.shape[:2]).transpose(0, 1)])
        decoded, text, prior, seen = self.answer(pixels, sounds, parts, valid, found, said)

        logits = decoded.logits
        if pictures is not None:
            logits = follow_colours(logits.flatten(0, 1), pictures.flatten(0, 1))[None]
        logits = logits.unflatten(1, (clips, frames)) + self.offset
        patches = pixels.tokens.flatten(2).transpose(1, 2).unflatten(0, (clips, frames))
        levels = {name: level[0] for name, level in text.items()}
        logits, other_logits = logits[:asked], logits[asked:]
        output = Output(logits[0], sound, sound[:, :, None] + within, patches, text=levels, akin=akin)
        if prior is not None:
            output.prior = prior[0].unflatten(0, (clips, frames))
        if self.implicit_text is not None:
            output.reading = self.implicit_text.vocabulary.similarity(audio)
        if self.semantic is not None:
            output.classes = self.semantic(decoded.query[0], pixels.fine).unflatten(0, (clips, frames))
        if sounding is None:
            return output
        output.other_logits = other_logits if others is not None else None
        if seen is not None:
            output.pixel_reading = seen.unflatten(0, (clips, frames))
        if rivals is not None:
            output.rivals, output.rival_logits = rivals, logits[1:-2]
            output.rest_logits, output.foreign_logits = logits[-2], logits[-1]
            output.rival_text = text["frame"][1 : asked - 2] if text else None
        return output

    @torch.no_grad()
    def open_vocabulary(self, classes: ClassWords) -> None:
        """Before training: tell how the names bear on a classifier's classes, and let sound and text begin with the
        same axes of the names' embeddings. Raises ValueError where there are more axes than names.
        """
        vocabulary = self.implicit_text.vocabulary
        names = vocabulary.names.cpu()  # where the classes and the text encoder are
        self.prior.evidence.learn_names(classes, names)
        self.prior.things.learn_names(*thing_bearing(names))
        axes = vocabulary.principal_axes()
        for part in (vocabulary.project, self.audio.project):
            if axes.shape != part.weight.shape:
                raise ValueError(f"{len(vocabulary.names)} names have no {len(part.weight)} axes: lower dim")
            part.weight.copy_(axes)
            part.bias.zero_()

    def look(self, frames: Tensor, things: Tensor | None = None) -> list[Tensor]:
        """frames uint8 [B,T,S,S,3] -> pyramid of [B,T,c,h,w]; with a gradient only where the encoder is trained. With
        evidence, things [B,T,20,h,w] are the last level, where they are known of the same pictures already.
        """
        if self.config.train_visual and hasattr(self.visual, "of_clips"):
            self.visual.of_clips(frames.shape[1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_visual):
            levels = self.visual(frames.flatten(0, 1), *([] if things is None else [things.flatten(0, 1)]))
        return [level.unflatten(0, frames.shape[:2]) for level in levels]

    def hear(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """waves [B,T,N] or log-mel [B,T,96,64] -> audio tokens a [B,T,D] and their parts in time [B,T,L,D]."""
        audio, tokens = self.audio(sound.flatten(0, 1))
        return audio.unflatten(0, sound.shape[:2]), tokens.unflatten(0, sound.shape[:2])

    def semantic_of(self, audio: Tensor) -> Tensor:
        """z: the audio token, with MIT joined by its reading in the vocabulary. It drives all that follows."""
        return audio if self.implicit_text is None else audio + self.implicit_text.vocabulary.read(audio)

    def answer(
        self,
        pixels: Pixels,
        sounds: Tensor,
        parts: Tensor,
        valid: Tensor,
        seen: tuple[Tensor, ...] = (),
        said: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> Answer:
        """What B*T pictures answer to R sounds [R,B,T,D]; parts [R,B,T,L,D]: how each changes in its frame; seen, where
        there is evidence: scores of the classes [B*T,K,h,w] and shares of the things [B*T,20,h',w']; said:
        number of a sound whose words are known -> their weights [B,T,C].
        """
        repeats, clips, frames, _ = sounds.shape
        levels, frame_text, found, match = {}, None, None, None
        if self.implicit_text is not None:
            pooled = pixels.pooled.unflatten(0, (clips, frames))  # the same under every sound
            levels = self.implicit_text(sounds.flatten(0, 1), pooled, valid.repeat(repeats, 1))
            levels = {name: level.unflatten(0, (repeats, clips)) for name, level in levels.items()}
            frame_text = levels["frame"].flatten(1, 2)
            vocabulary = self.implicit_text.vocabulary
            said = {number: words.flatten(0, 1) for number, words in said.items()}
            found = self.prior(pixels.tokens, sounds.flatten(1, 2), frame_text, vocabulary, *seen, said=said)
        if self.shared_space is not None:
            match = self.shared_space.match((sounds[:, :, :, None] + parts).flatten(1, 2), pixels.tokens)
        sound, read = sounds.flatten(1, 2), found.seen if found else None
        if self.nameless is None:
            guides = [guide for guide in (found.prior if found else None, match) if guide is not None]
            prior = sum(guides[1:], guides[0]) if guides else None
            return Answer(self.decoder(pixels, sound, frame_text, prior), levels, prior, read)
        every = torch.ones(clips * frames, dtype=torch.bool, device=sound.device)
        asked = [self.nameless.draw(clips, frames)] if self.training else [every, ~every]
        answers = []
        for named in asked:
            prior = found.evidence + (found.prior if match is None else found.prior + match) * named[:, None, None]
            answers.append((self.decoder(pixels, *self.nameless.hide(sound, frame_text, named), prior), prior))
        decoded, prior = answers[0]
        logits = torch.stack([answer.logits for answer, _ in answers]).amax(0)
        logits = logits - F.softplus(-found.present)[..., None, None]  # of what is nowhere, nothing is marked
        if not self.training:
            logits = with_things(logits, found.things)
        return Answer(decoded._replace(logits=logits), levels, prior, read)

    def see(self, pictures: Tensor, pyramid: list[Tensor] | None = None) -> tuple[Look, ...]:
        """What `mark` needs of pictures uint8 [B,T,S,S,3]: one look, with evidence also one at a smaller copy. pyramid:
        of the pictures at the model's own size, where it is known; then they may be as small as the copy.
        """
        search = self.config.evidence
        pyramid = self._looked(pictures) if pyramid is None else pyramid
        if not search:
            return (Look(pyramid, None),)
        side = _side(search.second * self.spec.image_size)
        small = resized(pictures.flatten(0, 1), side).unflatten(0, pictures.shape[:2])
        return Look(pyramid, small), Look(self._looked(small, pyramid[-1]), small)

    def mark(self, looks: tuple[Look, ...], sound: Tensor, valid: Tensor) -> Output:
        """What the looks at pictures answer to a sound (shapes: `forward`), the calibrated logits of both in one."""
        output, *smaller = (self(pyramid, sound, valid, pictures=pictures) for pyramid, pictures in looks)
        for small in smaller:
            output.logits = of_both_looks(output.logits, small.logits)
        if self.yardstick is not None:
            output.logits = self.yardstick(output.logits)
        return output

    def _looked(self, pictures: Tensor, *things: Tensor) -> list[Tensor]:
        """`look`, but on a CPU at one picture after the other, in the memory that one takes, unless the encoder knows
        better.
        """
        if pictures.device.type != "cpu" or getattr(self.visual, "takes_turns", False):
            return self.look(pictures, *things)
        each = zip(*(whole.flatten(0, 1).split(1) for whole in (pictures, *things)), strict=True)
        levels = zip(*(self.visual(*one) for one in each), strict=True)
        return [torch.cat(level).unflatten(0, pictures.shape[:2]) for level in levels]

    @torch.inference_mode()
    def see_clip(self, frames: Tensor) -> tuple[Look, ...]:
        """What `predict` needs of frames uint8 [T,S,S,3], for those who ask it about several sounds."""
        self.eval()
        return self.see(frames[None].to(self.device))

    @torch.inference_mode()
    def predict(self, frames: Tensor, waves: Tensor, looks: tuple[Look, ...] | None = None) -> Prediction:
        """One clip: frames uint8 [T,S,S,3], waves [T,N] at spec.sample_rate -> Prediction, on the CPU. Where sound
        enters by words, frames in which none is heard are not looked at: nothing is marked there. looks: `see_clip` of
        the frames, where it is known already.
        """
        self.eval()
        device, loud = self.device, torch.ones(len(frames), dtype=torch.bool)
        sound, heard, words = waves.to(device), torch.zeros(len(frames), 0), ()
        if isinstance(self.audio, WordEar):
            sound, words = self.audio.listen(sound), self.classes
            heard = sound[:, : len(words)].cpu()
            loud = (heard > 0).any(1)
        looked = loud.clone()
        looked[0] |= not loud.any()  # it says how large the answer is
        if looks is None:
            looks = self.see(frames[looked][None].to(device))
        elif not looked.all():
            looks = tuple(look.at(looked.to(device)) for look in looks)
        valid = torch.ones(1, int(looked.sum()), dtype=torch.bool, device=device)
        output = self.mark(looks, sound[looked.to(device)][None], valid)

        def of_all(answer: Tensor, quiet: float) -> Tensor:
            whole = torch.full((len(frames), *answer.shape[2:]), quiet)
            whole[loud] = answer[0].cpu()[loud[looked]]
            return whole

        logits = of_all(output.logits, _QUIET)
        if output.reading is not None and not words:
            heard, words = output.reading.softmax(-1)[0, :, : len(self.classes)].cpu(), self.classes
        if output.classes is None:
            return Prediction(logits, heard, words)
        return Prediction(logits, heard, words, of_all(output.classes, 0.0), ("background", *self.classes))


def _side(about: float) -> int:
    """The nearest side of a picture that every level of a pyramid divides."""
    return max(1, round(about / 32)) * 32
