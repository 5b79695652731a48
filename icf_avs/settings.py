"""Settings of the parts of ICF and of the extensions. A part whose settings are None is not built and costs nothing.

Where the paper leaves a point open, the default is this project's choice; docs/METHOD.md gives the reason for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from icf_avs.config_dict import check_choices, reject_renamed_fields

Granularity = Literal["video", "segment", "frame"]
Contrast = Literal["vision-audio", "vision-text", "audio-text"]
Reading = Literal["plug-in", "refined", "text"]
Strategy = Literal["diffusion", "vqvae", "pair-swap", "audio-swap", "text-revision", "feature-noise"]


@dataclass(frozen=True)
class MIT:
    """Multi-granularity implicit text (eq. 1-5). reading: "plug-in" acts only in training; the others put a part of MIT
    into the network, also at test: eq. 2 refines the map that it decodes ("refined"), or its queries attend to l^v and
    l^a ("text").
    """

    reading: Reading = "plug-in"
    levels: tuple[Granularity, ...] = ("video", "segment", "frame")
    windows: int = 2  # a segment is ceil(T / windows) frames
    width: int = 128  # channels of the channel-time attention, after a projection
    dim: int = 256  # of the implicit texts and of the factual text z
    prompts: int = 8  # number of texts in the bank of a level, each with separate pseudo-words
    pseudo_words: int = 2  # number per text, in the place of [ ] of a template
    chosen: int = 2  # k_t: number of texts of the bank that a window keeps
    batch_norm: bool = True  # of the matched features: otherwise their common component decides the selection
    selection: Literal["straight-through", "softmax"] = "straight-through"
    selection_temperature: float = 0.07
    gates: int = 3  # gMLP blocks for each of vision and audio
    most_frames: int = 10  # of a clip: the spatial gate of a gMLP has a weight for each pair of frames
    encoders: Literal["published", "minilm"] = "minilm"  # X-CLIP, CLIP and CLAP; or MiniLM for all
    encode_every: int = 4  # training steps from one encoding of the pseudo-words to the next

    def __post_init__(self) -> None:
        check_choices(self)
        if min(len(self.levels), self.windows, self.prompts, self.pseudo_words, self.chosen, self.encode_every) < 1:
            raise ValueError(f"levels and numbers of MIT must be at least 1: {self}")


@reject_renamed_fields
@dataclass(frozen=True)
class SC:
    """Semantic counterfactual of the factual text (eq. 6-12). strategy: the paper's, or one that its table 2 compares
    it with. "feature-noise", "pair-swap", "audio-swap" and "text-revision" learn nothing: the first uses draws, keep
    and alpha, the others only keep.
    """

    strategy: Strategy = "diffusion"
    chain: int = 1000  # steps of the diffusion
    depth: int = 200  # step at which a state is made orthogonal; closer to noise, orthogonality means less
    draws: int = 16  # counterfactuals generated for each factual text
    keep: int = 8  # K: number of nearest ones that are kept
    alpha: tuple[float, float] = (0.7, 0.8)  # range; drawn for each counterfactual
    bounds: tuple[float, float] = (0.5, 1.0)  # of m and s
    orthogonal: Literal["both", "samples", "features"] = "both"  # m, s, or their product
    jumps: int = 8  # DDIM steps of the reverse process
    width: int = 256  # of the denoiser, or of encoder and decoder of the VQ-VAE
    blocks: int = 3  # of the denoiser
    parts: int = 8  # of the VQ-VAE's latent vector, each with a codebook
    codes: int = 64  # in each codebook
    conditioned: bool = True  # on the visual features; without them z* returns to z less
    lambda_z: float = 2.0  # of eq. 10; at 1 or less, the loss is minimal for z'_t = z_t: no counterfactual
    lambda_ortho: float = 1.0  # of eq. 11

    def __post_init__(self) -> None:
        check_choices(self)
        if self.depth > self.chain:
            raise ValueError(f"depth is {self.depth}, a step of a chain of {self.chain}; give {self.chain} at most")


@dataclass(frozen=True)
class CDCL:
    """Collaborative distribution-aware contrastive learning (eq. 13-17)."""

    contrasts: tuple[Contrast, ...] = ("vision-audio", "vision-text", "audio-text")
    measure: Literal["distributions", "features", "prototypes"] = "distributions"
    dim: int = 64  # of the joint space
    temperature: float = 0.2
    gamma: float = 0.02  # weight of the entropies
    entropy: Literal["per dimension", "nats"] = "per dimension"
    shrinkage: float = 1e-3
    positives: Literal["text", "pairs"] = "text"  # by the audio text (eq. 16), or each clip with itself only
    positive_cosine: float = 0.95  # minimum between the audio texts of two clips that are positives
    vision: Literal["frame", "mask"] = "frame"  # region over which the visual features are pooled
    other_texts: bool = False  # not from the paper: texts of other clips are also negatives in eq. 17

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class InterventionSettings:
    """Weight of each kind of intervention in the loss (0: not computed); count: counterfactual sounds for each clip.

    other_sound: another clip's sound, unchanged; orthogonal_sound: made orthogonal to the clip's sound; other_frames:
    the clip's sound over another clip's frames; removed_source: the clip's sound without one of its sources.
    """

    other_sound: float = 0.0
    orthogonal_sound: float = 0.3
    other_frames: float = 0.3
    removed_source: float = 0.3
    count: int = 2

    def __post_init__(self) -> None:
        weights = (self.other_sound, self.orthogonal_sound, self.other_frames, self.removed_source)
        if min(weights) < 0 or not any(weights):
            raise ValueError(
                f"a weight is negative, or none is above 0: {self}; for no interventions, set them to None"
            )
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1")
