"""Typed configuration of models and training runs.

A part that is None is not built: no parameters, no cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from icf_avs.config_dict import check_choices, reject_renamed_fields
from icf_avs.settings import CDCL, MIT, SC, InterventionSettings
from icf_avs.types import ClipSpec

HOSTS = ("tpavi", "avsegformer")  # published networks that the paper applies ICF to (table 3)
VGGISH_DIM = 128  # width of its embedding
SAMPLE_RATES = {  # Hz, of the waveforms that an audio encoder takes
    **dict.fromkeys(("log-mel", "vggish"), 16_000), **dict.fromkeys(("efficientat", "efficientat-mn10", "ast"), 32_000)
}  # fmt: skip


@dataclass(frozen=True)
class ImplicitTextConfig:
    """MIT: free words beside the class names, tokens per granularity, frames of a segment."""

    free_words: int = 16
    tokens: int = 2
    segment: int = 2

    def __post_init__(self) -> None:
        if min(self.free_words, self.tokens, self.segment) < 1:
            raise ValueError(f"free_words, tokens and segment must be at least 1: {self}")


@dataclass(frozen=True)
class CounterfactualConfig:
    """SC: K counterfactual sounds for every factual one."""

    count: int = 2

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}; without counterfactuals leave the part out (None)")


@dataclass(frozen=True)
class ContrastiveConfig:
    """CDCL: width of the shared space, floor of a standard deviation, temperature of all terms at the start."""

    dim: int = 64
    floor: float = 0.05
    temperature: float = 0.2


@reject_renamed_fields
@dataclass(frozen=True)
class EvidenceConfig:
    """Open vocabulary. words: number of words of a sound that are searched for; classes: classifier classes per word;
    synonym_threshold: cosine of text embeddings above which two words may mean the same; name_dropout: share of the
    training clips that are segmented by evidence alone (networks/open_vocabulary.py); second_scale: relative side of
    the smaller copy of a frame that is also segmented (inference/multiscale.py).
    """

    words: int = 6
    classes: int = 64
    synonym_threshold: float = 0.6
    name_dropout: float = 0.5
    second_scale: float = 0.5


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild the network. classes: class names; empty in a recipe, since the data determine them.
    visual, audio: names of encoders in encoders/registry.py. network: "guided" (networks/guided.py, with evidence
    networks/open_vocabulary.py), or one that ICF trains, by its name in networks/build.py; such a network has none of
    the last four parts. pixel_decoder: of the query network, "light" or "deformable". mit: settings of MIT in a reading
    that makes it a part of the network, not only of training.
    """

    classes: tuple[str, ...] = ()
    network: str = "guided"
    pixel_decoder: str = "light"
    visual: str = "efficientnet-lite0"
    train_visual: bool = False
    audio: str = "log-mel"
    dim: int = 128
    pixel_dim: int = 48
    heads: int = 4
    layers: int = 2
    semantic: bool = False
    mit: MIT | None = None
    implicit_text: ImplicitTextConfig | None = field(default_factory=ImplicitTextConfig)
    counterfactual: CounterfactualConfig | None = field(default_factory=CounterfactualConfig)
    contrastive: ContrastiveConfig | None = field(default_factory=ContrastiveConfig)
    evidence: EvidenceConfig | None = None  # needs implicit text, and a visual encoder that provides evidence

    def __post_init__(self) -> None:
        parts = (self.implicit_text, self.counterfactual, self.contrastive, self.evidence)
        if self.network != "guided" and any(parts):
            raise ValueError(f"network {self.network} has no parts of the guided network: set them to None")
        if self.mit and (self.network == "guided" or self.mit.reading == "plug-in"):
            raise ValueError(f"mit is a part of a network that ICF trains, in another reading than {self.mit.reading}")
        if self.mit and self.mit.reading == "text" and self.network != "query":
            raise ValueError(f"network {self.network} has no queries for text; the query network has")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.dim % 8 or self.pixel_dim % 8:
            raise ValueError(
                f"dim {self.dim} and pixel_dim {self.pixel_dim} must be multiples of 8, the groups of GroupNorm"
            )
        if self.implicit_text and self.implicit_text.tokens > 12:
            raise ValueError(f"{self.implicit_text.tokens} tokens a frame are too many for the mask head: at most 12")
        if self.evidence and not self.implicit_text:
            raise ValueError("evidence is asked for the words of a reading: it needs implicit_text")
        if self.counterfactual and self.counterfactual.count > self.dim - 1:
            raise ValueError(
                f"{self.counterfactual.count} counterfactuals cannot be orthogonal in {self.dim} dimensions"
            )

    @property
    def bare_audio(self) -> bool:
        """True if the network reads VGGish's embedding directly, as its public code does."""
        return self.audio == "vggish" and self.network in HOSTS

    @property
    def audio_dim(self) -> int:
        """Width of the audio encoder's token."""
        return VGGISH_DIM if self.bare_audio else self.dim


@reject_renamed_fields
@dataclass(frozen=True)
class DataConfig:
    """Composed training scenes. Images are rendered once and their features cached; audio is mixed anew each time."""

    images: int = 8_000  # scenes of one frame
    clips: int = 1_000  # scenes of five frames
    highres_images: int = 1_600  # the same for the last stage, at its image size
    highres_clips: int = 300
    validation: int = 96  # balanced scenes of five frames, for the calibration after training
    seed: int | None = None  # of the training scenes; None: the run's
    hard_fraction: float = 0.0  # hard scenes added to each of the first four, as a share of its number
    audio_augment: bool = False  # whether training audio is augmented far beyond the recordings


@reject_renamed_fields
@dataclass(frozen=True)
class WordDataConfig:
    """Open-vocabulary scenes (synthetic/open_vocab_sampler.py): words and tagger predictions replace sounds."""

    images: int = 4_000  # scenes of one frame
    clips: int = 240  # scenes of five frames
    validation: int = 96  # scenes of one frame, for the calibration after training
    held_out: bool = False  # whether some classes are held out of training, for testing (synthetic/catalog.py)
    seed: int | None = None  # of the training scenes; None: the run's


@reject_renamed_fields
@dataclass(frozen=True)
class BenchmarkConfig:
    """A public set to train on. layout: "S4", "MS3", "AVSS" or "own" (docs/OWN_DATA.md), the layout of the folder given
    with --data.
    """

    layout: str
    audio_source: Literal["auto", "wav", "video", "log_mel"] = "auto"  # auto: the first form that all clips have
    grad_accum_steps: int = 1  # parts into which a process splits its batch
    bf16: bool = True  # if there is a GPU


@dataclass(frozen=True)
class PlugInConfig:
    """ICF as published, around a network that is not guided; a part that is None is not built. In a reading other than
    "plug-in", MIT is also a part of the network.
    """

    mit: MIT | None = field(default_factory=MIT)
    sc: SC | None = field(default_factory=SC)
    cdcl: CDCL | None = field(default_factory=CDCL)


@reject_renamed_fields
@dataclass(frozen=True)
class TrainConfig:
    """One complete training run: on word scenes (`words`), on a public set (`benchmark`), or else on composed scenes
    with sound (`data`).
    """

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)  # without classes, which the data determine
    data: DataConfig = field(default_factory=DataConfig)
    benchmark: BenchmarkConfig | None = None
    words: WordDataConfig | None = None
    icf: PlugInConfig | None = None  # for a network that is not guided; None: no ICF losses
    interventions: InterventionSettings | None = None  # for such a network, with ICF or without
    text_encoder: Literal["minilm", "clip"] = "minilm"  # embeds the class names
    starts_from: str = ""  # run whose checkpoint must be given as a start; "": none is required
    estimate: str = ""  # expected time and hardware, if not yet measured
    spec: ClipSpec = field(default_factory=ClipSpec)
    audio_pretrain_steps: int = 1_200  # the audio encoder learns to classify the sounds
    audio_pretrain_batch: int = 64
    audio_pretrain_patience: int = 400  # steps without progress after which it ends (training/optimizer.py); 0: never
    steps: int = 2_600
    batch: int = 32  # frames per step: this many images, or a fifth as many clips
    clip_share: float = 0.25  # share of the steps that use clips of five frames
    highres_steps: int = 1_000  # steps after these, at half the learning rate, on larger images
    highres_size: int = 320  # image size there and at test: above its training size, a network sees larger objects
    highres_clip_share: float = 0.5
    learning_rate: float = 1e-3
    audio_rate: float = 0.6  # share of learning_rate for the audio encoder
    visual_rate: float = 0.1  # the same for a pretrained visual encoder
    weight_decay: float = 0.02
    warmup: int = 100
    clip_norm: float = 1.0
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)

    def model_config(self, classes: tuple[str, ...]) -> ModelConfig:
        """Return the model configuration of the run. Raises ValueError for incompatible settings."""
        mit = self.icf.mit if self.icf else None
        return replace(self.model, classes=classes, mit=mit if mit and mit.reading != "plug-in" else None)

    def stage(self, step: int) -> str:
        """Return the stage of a step: "pretrain", "train" or "highres"."""
        if step < self.audio_pretrain_steps:
            return "pretrain"
        return "highres" if self.highres_steps and step >= self.audio_pretrain_steps + self.steps else "train"

    def clips_of(self, frames: int) -> int:
        """Return the batch size in clips of `frames` frames, after pretraining; at least 2 on composed scenes."""
        return max(1 if self.benchmark else 2, self.batch // frames)

    @property
    def min_batch_size(self) -> int:
        """Number of clips in the smallest batch of any step, and so of the parts that it can be split into."""
        found = [self.clips_of(self.spec.frames)]
        if not self.benchmark:
            scenes = self.words or self.data
            found += [scenes.images, scenes.clips]
            if self.highres_steps and not self.words:
                found += [scenes.highres_images, scenes.highres_clips]
        return min(found + [self.audio_pretrain_batch] * bool(self.audio_pretrain_steps and not self.benchmark))

    @property
    def scene_seed(self) -> int:
        """Seed of the composed training scenes."""
        seed = (self.words or self.data).seed
        return self.seed if seed is None else seed

    @property
    def final_spec(self) -> ClipSpec:
        """The clip specification of the finished model."""
        return replace(self.spec, image_size=self.highres_size) if self.highres_steps else self.spec
