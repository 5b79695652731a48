"""Shape legend, and the types that the packages of the project exchange.

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

RATE = 16_000  # Hz, of the waveforms of clips
MAP_STRIDE = 2  # class maps and images of cached scenes are stored at half the size of the frames
MASK_STRIDE = 4  # pixels of an image per cell of the masks in a Batch


@dataclass(frozen=True)
class ClipSpec:
    """Timing of the masks of a clip. Mask i covers the interval [i/fps, (i+1)/fps) seconds.

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
        """Time in seconds at which the image of mask `index` is taken."""
        return (index + self.phase) / self.fps

    def window_start(self, index: int) -> int:
        """Index of the first audio sample of mask `index`; may be negative at the start of a video (pad with zeros)."""
        return round((index + 0.5) / self.fps * self.sample_rate - self.window / 2)

    @property
    def delay(self) -> float:
        """Seconds from the frame of a mask to the end of its sound: the minimum latency of a prediction."""
        return (self.window_start(0) + self.window) / self.sample_rate - self.frame_time(0)

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)


class Missing(NamedTuple):
    """A part of a model whose weights are unavailable, and the effect of its absence."""

    part: str
    effect: str

    def __str__(self) -> str:
        return f"without {self.part}: {self.effect}"


class VisualFeatures(NamedTuple):
    """Visual features of frames [B,T] or [N]. pyramid: maps [...,C_l,h_l,w_l] at strides 4, 8, 16, 32. For the open
    vocabulary also class_scores [...,1000,h,w], z-scores of the ImageNet classes, and object_probs [...,20,h',w'] of
    the PASCAL VOC classes.
    """

    pyramid: list[Tensor]
    class_scores: Tensor | None = None
    object_probs: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> VisualFeatures:
        """Apply `change` to every tensor."""
        rest = (None if value is None else change(value) for value in self[1:])
        return VisualFeatures([change(level) for level in self.pyramid], *rest)


class AudioFeatures(NamedTuple):
    """Audio features of frames [B,T]. token [...,D]; parts [...,L,D]: tokens in time, None if only the token is known;
    for a tagger also tag_probs [...,C]: confidence that each class sounds.
    """

    token: Tensor
    parts: Tensor | None = None
    tag_probs: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> AudioFeatures:
        """Apply `change` to every tensor."""
        return AudioFeatures(*(None if value is None else change(value) for value in self))


@dataclass(frozen=True)
class FeatureSpec:
    """Widths of the features that a network returns: channels of each visual level, fine to coarse, and of audio."""

    visual: tuple[int, ...]
    audio: int


class Texts(NamedTuple):
    """Implicit texts (icf/implicit_text.py). visual l^v and audio l^a [B,T,d], 0 on padding; sound: l^a minus the mean
    text of its bank, used to compare clips; pull: loss term, a scalar; revised: l^v and l^a [B,R,T,d] from texts of the
    banks other than the best matches, without gradient, if requested.
    """

    visual: Tensor
    audio: Tensor
    sound: Tensor
    pull: Tensor
    revised: tuple[Tensor, Tensor] | None = None


class Windows(NamedTuple):
    """S windows of up to L frames. frames [B,S,L] long: frame indices of each window; frame_mask [B,S,L] bool: which of
    them are valid; window_of_frame [B,T] long: index of the window that each frame belongs to.
    """

    frames: Tensor
    frame_mask: Tensor
    window_of_frame: Tensor

    @property
    def valid(self) -> Tensor:
        """[B,S] bool: the windows that have valid frames."""
        return self.frame_mask.any(-1)


class LevelFeatures(NamedTuple):
    """The attended maps of one level [B,S,L,width,P]."""

    maps: Tensor
    windows: Windows

    @property
    def mean(self) -> Tensor:
        """Mean over the frames and positions of each window [B,S,width]; 0 for a window without frames."""
        weight = self.windows.frame_mask[..., None, None].to(self.maps.dtype)
        return (self.maps * weight).sum((2, 4)) / (weight.sum((2, 4)).clamp(min=1) * self.maps.shape[-1])


@dataclass
class NetworkFeatures:
    """visual: multi-scale maps [B,T,C_l,h_l,w_l], fine to coarse. audio: one token a frame [B,T,D]. levels, texts: the
    parts of MIT that the network computes itself, in the readings "refined" and "text".
    """

    visual: tuple[Tensor, ...]
    audio: Tensor
    levels: dict[str, LevelFeatures] | None = None
    texts: Texts | None = None


class Encoded(NamedTuple):
    """Encoded frames and sound, the input of `decode`."""

    visual: VisualFeatures
    audio: AudioFeatures


@dataclass
class NetworkOutput:
    """logits: mask logits [B,T,h,w]. classes: class logits [B,T,C,h,w], background first, or None without a class head.
    auxiliary: by name, mask logits [B,T,h',w'] of early layers for further loss terms of the network.
    encoded: the input of the decoder, for losses that decode again with another sound (icf_avs/extensions).
    segmenter [B,T,2,h',w']: open vocabulary only, maps of a segmenter for the sound's words (inference/postprocess).
    """

    logits: Tensor
    features: NetworkFeatures
    classes: Tensor | None = None
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    encoded: Encoded | None = None
    segmenter: Tensor | None = None

    @property
    def word_probs(self) -> Tensor | None:
        """Confidence [B,T,M] that each word of the network's vocabulary is in the sound, classes first; None without a
        vocabulary.
        """
        return None

    def add_to_logits(self, offset: Tensor) -> None:
        """Add a constant to all mask logits."""
        self.logits = self.logits + offset


@dataclass
class Batch:
    """Inputs and targets of a training step.

    pyramid: levels [B,T,c,h,w] of the frozen visual encoder; class_scores, object_probs: as in VisualFeatures.
    waveforms: [B,T,N] float32, one window a frame.
    masks: [B,T,h,w] float in [0,1] at stride 4, share of each cell that sounds.  class_map: [B,T,H,W] long, finer than
    the masks, class id of the sounding pixel, 0 for background and where the class is unknown.  labelled, valid: [B,T]
    bool (a padding frame is not valid).  sounding: [B,T,C] bool, classes known to sound in each frame.  onscreen: [B,C]
    bool, classes that are visible, sounding or silent, or None if unknown (public benchmarks do not label silent
    objects); if it is known, all sounding classes are known too.
    tag_probs: [B,T,C] if tags replace sounds.  other_sounds [B,Q,T,...], other_masks [B,Q,T,h,w]: Q more sounds for the
    same images, in the form of `sound`, and the mask of each, or None.
    frames: uint8 [B,T,S,S,3] if the model's encoder must compute the pyramid, which is then empty, or if masks are
    refined by colours.  log_mel: [B,T,96,64] if the set releases that in place of waveforms.
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
        """[B,T] bool: frames for which it is known which classes sound, or that none does. A mask without a class may
        be of any class, and a frame without label and class may have any.
        """
        if self.onscreen is not None:
            return self.valid.new_ones(self.valid.shape)
        return self.sounding.any(-1) | (self.labelled & ~(self.masks > 0).flatten(2).any(-1))

    @property
    def visual(self) -> VisualFeatures | None:
        """Visual features of the frames, or None if the encoder has yet to compute them."""
        return VisualFeatures(self.pyramid, self.class_scores, self.object_probs) if self.pyramid else None

    @property
    def sound(self) -> Tensor:
        """Tags if they replace sounds, else log-mel if there is one, else waveforms."""
        return next(form for form in (self.tag_probs, self.log_mel, self.waveforms) if form is not None)

    @property
    def has_tags(self) -> bool:
        """True if tags replace sounds."""
        return self.tag_probs is not None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""

        def moved(value: Any) -> Any:
            return [moved(level) for level in value] if isinstance(value, list) else value.to(device)

        return Batch(**{name: value if value is None else moved(value) for name, value in vars(self).items()})


@dataclass
class Prediction:
    """Prediction of a model for one clip of T frames.

    logits: [T, h, w] float, mask logits at the model's own resolution (upsample, then sigmoid > 0.5).
    heard:  [T, M'] float in [0, 1], confidence that each word of `words` is in the sound of each frame.
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
