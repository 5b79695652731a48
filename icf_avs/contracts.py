"""Shape legend, and the types that pass between the rooms of the project.

B clips | T frames of a clip | H, W pixels | D channels | S segments of a clip
M words in the implicit vocabulary | K counterfactuals | C classes (kinds of sound) | N audio samples of a window
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MASK_STRIDE = 4  # pixels of a picture per cell of the masks in a Batch


@dataclass(frozen=True)
class ClipSpec:
    """All arithmetic of time. Mask i of a clip stands for the interval [i/fps, (i+1)/fps) seconds.

    Its sound is the window of `window` samples centred on that interval; its picture is the video frame at
    `phase` of the interval (AVSBench cut its frames at 15/16 of each second, see PROTOCOLS).
    """

    frames: int = 5
    fps: float = 1.0
    image_size: int = 224
    sample_rate: int = 16_000
    window: int = 15_600  # 96 log-mel frames of 25 ms every 10 ms
    phase: float = 0.5

    def __post_init__(self) -> None:
        if self.frames < 1 or self.image_size < 32 or self.sample_rate < 1 or self.window < 400:
            raise ValueError(f"not a usable clip specification: {self}")
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be positive")
        if not 0 <= self.phase < 1:
            raise ValueError(f"phase is {self.phase}; it is a share of an interval, in [0, 1)")

    def frame_time(self, index: int) -> float:
        """Seconds at which the picture of mask `index` is taken."""
        return (index + self.phase) / self.fps

    def window_start(self, index: int) -> int:
        """First audio sample of mask `index`; may be negative at the start of a video (pad with zeros)."""
        middle = (index + 0.5) / self.fps * self.sample_rate
        return round(middle - self.window / 2)

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


@dataclass
class Batch:
    """What a training step sees.

    pyramid: levels [B,T,c,h,w] of the frozen visual encoder.  waves: [B,T,N] float32, one window a frame.
    masks: [B,T,h,w] float in [0,1] at stride 4, share of each cell that sounds.  kinds_map: [B,T,H,W] long, finer than
    the masks, class id of the sounding pixel, 0 for background and where the class is unknown.  labelled, valid: [B,T]
    bool (a padding frame is not valid).  sounding: [B,T,C] bool, classes known to sound in each frame.  onscreen: [B,C]
    bool, classes that are in the picture at all, or None where nobody knows (public benchmarks label what sounds, not
    what is silent); where it is known, so is all that sounds.
    other_waves [B,Q,T,N], other_masks [B,Q,T,h,w]: Q more sounds of the same pictures and what each marks, where that
    is known, or None.
    frames: uint8 [B,T,S,S,3] where the pyramid is left empty, for the model's encoder to make, or where masks are to
    follow their colours.  log_mel: [B,T,96,64] where the set releases that in place of waves.
    """

    pyramid: list[Tensor]
    waves: Tensor
    masks: Tensor
    kinds_map: Tensor
    labelled: Tensor
    valid: Tensor
    sounding: Tensor
    onscreen: Tensor | None = None
    other_waves: Tensor | None = None
    other_masks: Tensor | None = None
    frames: Tensor | None = None
    log_mel: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """[B,T] bool: frames of which it is known which classes sound, or that none does. What is marked without a
        class may be of any, and so may a frame without label and class.
        """
        if self.onscreen is not None:
            return self.valid.new_ones(self.valid.shape)
        return self.sounding.any(-1) | (self.labelled & ~(self.masks > 0).flatten(2).any(-1))

    @property
    def sound(self) -> Tensor:
        """What the audio encoder takes: log-mel where there is one, waves else."""
        return self.waves if self.log_mel is None else self.log_mel

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""

        def moved(value: Any) -> Any:
            return [moved(level) for level in value] if isinstance(value, list) else value.to(device)

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: value if value is None else moved(value) for name, value in values.items()})


@dataclass
class Prediction:
    """What the model says of one clip of T frames.

    logits: [T, h, w] float, mask logits at the model's own resolution (upsample, then sigmoid > 0.5).
    heard:  [T, M'] float in [0, 1], how present each word of `words` is in the sound of each frame.
    words:  the M' words, in that order.
    classes: [T, C+1, h, w] float, class logits, background first; None without a class head (see class_labels.py).
    class_names: the C+1 names in that order, the first is "background"; empty without a class head.
    """

    logits: Tensor
    heard: Tensor
    words: tuple[str, ...]
    classes: Tensor | None = None
    class_names: tuple[str, ...] = ()
