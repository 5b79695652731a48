"""Shape legend, and the types that pass between the rooms of the project.

B clips | T frames of a clip | H, W pixels | D channels | S segments of a clip
M words in the implicit vocabulary | K counterfactuals | C classes (of sound) | N audio samples of a window
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RATE = 16_000  # samples a second of the waveforms of clips
MAP_STRIDE = 2  # maps and images of cached scenes are kept at half the size of the frames
MASK_STRIDE = 4  # pixels of an image per cell of the masks in a Batch


@dataclass(frozen=True)
class ClipSpec:
    """All arithmetic of time. Mask i of a clip stands for the interval [i/fps, (i+1)/fps) seconds.

    Its sound is the window of `window` samples centred on that interval; its image is the video frame at
    `phase` of the interval (AVSBench cut its frames at 15/16 of each second, see PROTOCOLS).
    """

    frames: int = 5
    fps: float = 1.0
    image_size: int = 224
    sample_rate: int = 16_000
    window: int = 15_600  # 96 log-mel frames of 25 ms every 10 ms
    phase: float = 0.5

    def __post_init__(self) -> None:
        if self.frames < 1 or self.image_size < 32 or self.sample_rate < 1 or self.window < 400 or not self.fps > 0:
            raise ValueError(f"not a usable clip specification: {self}")
        if not 0 <= self.phase < 1:
            raise ValueError(f"phase is {self.phase}; it is a share of an interval, in [0, 1)")

    def frame_time(self, index: int) -> float:
        """Seconds at which the image of mask `index` is taken."""
        return (index + self.phase) / self.fps

    def window_start(self, index: int) -> int:
        """First audio sample of mask `index`; may be negative at the start of a video (pad with zeros)."""
        return round((index + 0.5) / self.fps * self.sample_rate - self.window / 2)

    @property
    def delay(self) -> float:
        """Seconds from the frame of a mask to the end of its sound: no answer comes earlier."""
        return (self.window_start(0) + self.window) / self.sample_rate - self.frame_time(0)

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)


class Missing(NamedTuple):
    """A part of a model whose weights are unavailable, and what is worse without it."""

    part: str
    effect: str

    def __str__(self) -> str:
        return f"without {self.part}: {self.effect}"


class VisualFeatures(NamedTuple):
    """Of frames [B,T] or [N]. pyramid: maps [...,C_l,h_l,w_l] at strides 4, 8, 16, 32. Of the open vocabulary also
    class_scores, z-scores [...,1000,h,w] of ImageNet's classes, and object_probs [...,20,h',w'] of PASCAL VOC's
    objects.
    """

    pyramid: list[Tensor]
    class_scores: Tensor | None = None
    object_probs: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> VisualFeatures:
        """The same of every tensor."""
        rest = (None if value is None else change(value) for value in self[1:])
        return VisualFeatures([change(level) for level in self.pyramid], *rest)


class AudioFeatures(NamedTuple):
    """Of the sound of frames [B,T]. token [...,D]; parts [...,L,D], tokens in time, None where only the token is known;
    of a tagger also tag_probs [...,C], how surely each class sounds.
    """

    token: Tensor
    parts: Tensor | None = None
    tag_probs: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> AudioFeatures:
        """The same of every tensor."""
        return AudioFeatures(*(None if value is None else change(value) for value in self))


@dataclass(frozen=True)
class FeatureSpec:
    """Widths of the features that a network returns: channels of each visual level, fine to coarse, and of audio."""

    visual: tuple[int, ...]
    audio: int


class Texts(NamedTuple):
    """Implicit texts (icf/implicit_text.py). visual l^v and audio l^a [B,T,d], 0 on padding; sound: l^a without what
    all texts of its bank share, by which clips are distinguished; pull: term of the loss, a number; revised: l^v and
    l^a [B,R,T,d] of other texts of the banks than those that match best, without gradient, where asked for.
    """

    visual: Tensor
    audio: Tensor
    sound: Tensor
    pull: Tensor
    revised: tuple[Tensor, Tensor] | None = None


class Windows(NamedTuple):
    """frames [B,S,L] long: the frames of each window. frame_mask [B,S,L] bool: which of them exist. of_frame [B,T]
    long: the window that each frame belongs to.
    """

    frames: Tensor
    frame_mask: Tensor
    of_frame: Tensor

    @property
    def valid(self) -> Tensor:
        """[B,S] bool: the windows that have frames."""
        return self.frame_mask.any(-1)


class LevelFeatures(NamedTuple):
    """The attended maps of one level [B,S,L,width,P]."""

    maps: Tensor
    windows: Windows

    @property
    def mean(self) -> Tensor:
        """Mean over the frames and positions of each window [B,S,width]; 0 of one without frames."""
        weight = self.windows.frame_mask[..., None, None].to(self.maps.dtype)
        return (self.maps * weight).sum((2, 4)) / (weight.sum((2, 4)).clamp(min=1) * self.maps.shape[-1])


@dataclass
class NetworkFeatures:
    """visual: multi-scale maps [B,T,C_l,h_l,w_l], fine to coarse. audio: one token a frame [B,T,D]. levels, texts: what
    of MIT the network itself computes, in the readings "refined" and "text".
    """

    visual: tuple[Tensor, ...]
    audio: Tensor
    levels: dict[str, LevelFeatures] | None = None
    texts: Texts | None = None


class Encoded(NamedTuple):
    """What `decode` takes of frames and sound."""

    visual: VisualFeatures
    audio: AudioFeatures


@dataclass
class NetworkOutput:
    """logits: mask logits [B,T,h,w]. classes: class logits [B,T,C,h,w], background first, or None without a class head.
    auxiliary: further terms that the network itself is trained by, by name: mask logits [B,T,h',w'] of early layers.
    encoded: what it was decoded from, for losses that decode again with another sound (icf_avs/extensions).
    segmenter: of the open vocabulary, what a segmenter says of the sound's words [B,T,2,h',w'] (inference/postprocess).
    """

    logits: Tensor
    features: NetworkFeatures
    classes: Tensor | None = None
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    encoded: Encoded | None = None
    segmenter: Tensor | None = None

    @property
    def word_probs(self) -> Tensor | None:
        """[B,T,M], how present each word of the network's vocabulary is in the sound, the classes first; None without
        a vocabulary.
        """
        return None

    def add_to_logits(self, offset: Tensor) -> None:
        """Add a constant to all mask logits."""
        self.logits = self.logits + offset


@dataclass
class Batch:
    """What a training step sees.

    pyramid: levels [B,T,c,h,w] of the frozen visual encoder; class_scores, object_probs: as in VisualFeatures.
    waveforms: [B,T,N] float32, one window a frame.
    masks: [B,T,h,w] float in [0,1] at stride 4, share of each cell that sounds.  class_map: [B,T,H,W] long, finer than
    the masks, class id of the sounding pixel, 0 for background and where the class is unknown.  labelled, valid: [B,T]
    bool (a padding frame is not valid).  sounding: [B,T,C] bool, classes known to sound in each frame.  onscreen: [B,C]
    bool, classes that are in the image at all, or None where nobody knows (public benchmarks label what sounds, not
    what is silent); where it is known, so is all that sounds.
    tag_probs: [B,T,C] where tags stand for sounds.  other_sounds [B,Q,T,...], other_masks [B,Q,T,h,w]: Q more sounds of
    the same images, in the form of `sound`, and the mask of each, or None.
    frames: uint8 [B,T,S,S,3] where the pyramid is left empty, for the model's encoder to make, or where masks are to
    follow their colours.  log_mel: [B,T,96,64] where the set releases that in place of waveforms.
    """

    pyramid: list[Tensor]
    waveforms: Tensor
    masks: Tensor
    class_map: Tensor
    labelled: Tensor
    valid: Tensor
    sounding: Tensor
    onscreen: Tensor | None = None
    other_sounds: Tensor | None = None
    other_masks: Tensor | None = None
    frames: Tensor | None = None
    log_mel: Tensor | None = None
    class_scores: Tensor | None = None
    object_probs: Tensor | None = None
    tag_probs: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """[B,T] bool: frames of which it is known which classes sound, or that none does. What is marked without a
        class may be of any, and so may a frame without label and class.
        """
        if self.onscreen is not None:
            return self.valid.new_ones(self.valid.shape)
        return self.sounding.any(-1) | (self.labelled & ~(self.masks > 0).flatten(2).any(-1))

    @property
    def visual(self) -> VisualFeatures | None:
        """What the visual encoder makes of the frames, where it is known."""
        return VisualFeatures(self.pyramid, self.class_scores, self.object_probs) if self.pyramid else None

    @property
    def sound(self) -> Tensor:
        """Tags where these stand for sounds, log-mel where there is one, waveforms else."""
        return next(form for form in (self.tag_probs, self.log_mel, self.waveforms) if form is not None)

    @property
    def has_tags(self) -> bool:
        """Whether tags stand for sounds."""
        return self.tag_probs is not None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""

        def moved(value: Any) -> Any:
            return [moved(level) for level in value] if isinstance(value, list) else value.to(device)

        return Batch(**{name: value if value is None else moved(value) for name, value in vars(self).items()})


@dataclass
class Prediction:
    """What the model says of one clip of T frames.

    logits: [T, h, w] float, mask logits at the model's own resolution (upsample, then sigmoid > 0.5).
    heard:  [T, M'] float in [0, 1], how present each word of `words` is in the sound of each frame.
    words:  the M' words, in that order.
    classes: [T, C+1, h, w] float, class logits, background first; None without a class head
        (output/class_labels.py).
    class_names: the C+1 names in that order, the first is "background"; empty without a class head.
    """

    logits: Tensor
    heard: Tensor
    words: tuple[str, ...]
    classes: Tensor | None = None
    class_names: tuple[str, ...] = ()
