"""All computing calls on a simulated second device: no tensor on a wrong device, and the results of the CPU.

python benchmarks/device_calls.py     counts the calls that fail
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from clip_maker import make_clip, tone
from fake_device import pretended
from safetensors.torch import load_file
from small_guided import random_batch, small_host, small_model
from small_training import TINY, frozen_encoder, stand_ins, tiny_data

import icf_avs
from icf_avs.checkpoint.serialization import load_checkpoint, save_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.config import ModelConfig, PlugInConfig, TrainConfig
from icf_avs.datasets.layouts import class_names, read_set
from icf_avs.encoders import voc_segmenter
from icf_avs.encoders.efficientnet_lite import EfficientNetLite0
from icf_avs.evaluation.evaluate import evaluate_each
from icf_avs.evaluation.evaluate_semantic import evaluate_semantic
from icf_avs.evaluation.robustness.runner import evaluate_robustness
from icf_avs.export.graphs import WaveformGraph
from icf_avs.icf import CDCL, MIT, SC
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.networks.build import build_model
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference
from icf_avs.settings import InterventionSettings
from icf_avs.training import trainer as trainer_module
from icf_avs.training.calibrate import calibrate
from icf_avs.training.callbacks import sample_sheet
from icf_avs.training.data_protocol import Sample
from icf_avs.training.run import train
from icf_avs.training.train_module import build_train_module
from icf_avs.types import Batch, ClipSpec, VisualFeatures
from research.scoring import score, test_clips
from research.word_scores import _answers, _Question

test_clips.__test__ = False
CPU = torch.device("cpu")
PLUG_IN = PlugInConfig(MIT(dim=32, width=16), SC(width=32, blocks=1, jumps=2, draws=4, keep=2), CDCL(dim=16))
INTERVENTIONS = InterventionSettings(other_sound=0.3)


@dataclass(frozen=True)
class Given:
    """Device of a call, output folder, Stamps sets, and a video of two seconds."""

    device: torch.device
    folder: Path
    sets: Path
    video: Path


def small(model: SegmentationModel) -> SegmentationModel:
    model.spec = replace(model.spec, image_size=64)
    return model


@lru_cache
def stamps() -> SegmentationModel:
    return small(load_checkpoint(find_checkpoint("stamps")[0]))


@lru_cache
def natural() -> SegmentationModel:
    """With random frozen encoders, which respond to any input."""
    torch.manual_seed(0)
    return small(load_checkpoint(find_checkpoint("natural")[0], without_frozen_weights=True))


@lru_cache
def semantic(names: tuple[str, ...] = ("bell", "cat")) -> SegmentationModel:
    torch.manual_seed(0)
    config = ModelConfig(names, dim=32, pixel_dim=16, semantic=True)
    return build_model(config, ClipSpec(image_size=64), EfficientNetLite0(), torch.randn(len(names), 24)).eval()


def on(device: torch.device, model: SegmentationModel) -> SegmentationModel:
    return copy.deepcopy(model).to(device)


def clip_of(model: SegmentationModel, frames: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator, size = torch.Generator().manual_seed(0), model.spec.image_size
    pictures = torch.randint(0, 256, (frames, size, size, 3), dtype=torch.uint8, generator=generator)
    return pictures, 0.1 * torch.randn(frames, model.spec.window, generator=generator)


def predicted(given: Given, model: SegmentationModel) -> Any:
    prediction = Predictor(on(given.device, model)).predict(*clip_of(model))
    return [value for value in vars(prediction).values() if torch.is_tensor(value)]


def predicted_each(given: Given, model: SegmentationModel) -> Any:
    predictor, (pictures, waves) = Predictor(on(given.device, model)), clip_of(model)
    return [found.logits for found in predictor.predict_each(pictures, [waves, torch.zeros_like(waves)])]


def predicted_in_silence(given: Given) -> Any:
    """No word is selected, so nothing is heard."""
    model = on(given.device, natural())
    prediction = Predictor(model, torch.zeros(len(model.classes), dtype=torch.bool)).predict(*clip_of(model))
    return prediction.logits, prediction.heard


def words_batch(model: SegmentationModel, clips: int = 3) -> Batch:
    """Batch as in recipe `natural`: words instead of sounds, and extra sounds for the same frames."""
    generator, side, count = torch.Generator().manual_seed(0), 64, len(model.classes)
    pictures = torch.randint(0, 256, (clips, 1, side, side, 3), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        visual = model.network.encode_frames(pictures)
    sounding = torch.zeros(clips, 1, count, dtype=torch.bool)
    sounding[torch.arange(clips), 0, torch.arange(clips)] = True
    masks = torch.zeros(clips, 1, side // 4, side // 4)
    masks[..., :5, :7] = 1
    every = torch.ones(clips, 1, dtype=torch.bool)
    heard, others = sounding.float() * 0.6, sounding.roll(1, 0).float()[:, None]
    return Batch(
        visual.pyramid, heard.new_zeros(clips, 1, 0), masks, masks.long(), every, every, sounding, sounding[:, 0],
        others, masks[:, None], pictures, None, visual.class_scores, visual.object_probs, heard,
    )  # fmt: skip


def learnt(given: Given, model: SegmentationModel, batch: Batch, stage="train", config: TrainConfig = TINY) -> Any:
    """One training step: loss terms and gradient norm, then optimizer and running means. config: plug-ins."""
    torch.manual_seed(0)
    train_module = build_train_module(config, copy.deepcopy(model)).to(given.device).train()
    terms = train_module(batch.to(given.device), stage)
    terms["loss"].backward()
    parameters = [p for p in train_module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    torch.optim.AdamW(parameters, fused=True).step()
    train_module.update_running_means()
    return {name: float(value.detach()) for name, value in terms.items()} | {"norm": float(norm)}


def trained(given: Given) -> Any:
    """Weights of a run of `icf train` with sample sheets, validation and best checkpoint."""
    folder = given.folder / given.device.type
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(tiny_data(), patch)
        patch.setattr(trainer_module, "build_visual", lambda *_, **__: copy.deepcopy(frozen_encoder()))
        patch.delenv("LOCAL_RANK", raising=False)
        patch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # accelerate sets it; undone afterwards
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            config = replace(TINY, audio_pretrain_steps=1, steps=1, checkpoint_every=2)
            path = train(config, folder, device=str(given.device))
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
    assert (folder / "best.safetensors").exists() and list((folder / "samples").iterdir())
    return load_file(path)


def calibrated(given: Given, model: SegmentationModel, batch: Batch) -> Any:
    model = on(given.device, model)
    found = calibrate(model, [batch])
    return [*vars(found).values(), float(model.offset)]


def sheet(given: Given) -> Any:
    model = on(given.device, stamps())
    pictures, waves = clip_of(model)
    return torch.from_numpy(sample_sheet(model, [Sample(pictures, waves, torch.rand(2, 80, 80))])).float().mean()


def evaluated(given: Given) -> Any:
    return evaluate_each(Predictor(on(given.device, stamps())), read_set(given.sets / "Single-source", "test"), clips=1)


def evaluated_by_class(given: Given) -> Any:
    root = given.sets / "AVSS"
    names = class_names(root)
    predictor = Predictor(on(given.device, semantic(names)))
    return evaluate_semantic(predictor, read_set(root, "test"), ("background", *names), clips=1)


def probed(given: Given) -> Any:
    records = read_set(given.sets / "Multi-sources", "test")
    found = evaluate_robustness(Predictor(on(given.device, stamps())), records, clips=1)
    return {str(key): values for key, values in found.scores.items()}


def segmented(given: Given, semantic_head: bool = False) -> Any:
    predictor = Predictor(on(given.device, semantic() if semantic_head else stamps()))
    result = segment_video(predictor, given.video, given.folder / given.device.type, fps=2, semantic=semantic_head)
    return [list(result.scores), list(result.areas), (result.folder / "overlay.mp4").is_file()]


def listened_for(given: Given) -> Any:
    predictor = Predictor(on(given.device, natural())).with_words("dog, violin")
    return predictor.predict(*clip_of(predictor.model, 1)).heard


def loaded(given: Given) -> Any:
    result = icf_avs.load("stamps", device=str(given.device)).segment(given.video)
    return list(result.scores)


def answered(given: Given) -> Any:
    store = given.folder / f"page-{given.device.type}"
    store.mkdir()
    segmenter = Segmenter(Predictor(on(given.device, stamps())), "stamps")
    return run_inference(segmenter, given.video, store, Limits()).summary.encode()


def exported(given: Given) -> Any:
    """Outputs of the export graph, which stays on the CPU."""
    graph = WaveformGraph(on(given.device, semantic()))
    return list(graph(*graph.example(1, 2)))


def saved(given: Given) -> Any:
    path = given.folder / f"{given.device.type}.safetensors"
    save_checkpoint(on(given.device, stamps()), path, {"name": "test"})
    return load_file(path)


def of_the_study(given: Given) -> Any:
    model = on(given.device, stamps())
    clips = test_clips(given.sets, model.visual, model.spec, clips=1)
    return list(score(model, clips).values())


def words_scored(given: Given) -> Any:
    model, batch = on(given.device, natural()), words_batch(natural(), 2)
    features = SceneFeatures(batch)
    heard = np.zeros((6, len(model.classes)), np.float32)
    heard[range(5), range(5)] = 0.7
    return _answers(model, features, np.arange(2), [_Question(number, (0,), heard) for number in range(2)])


@dataclass
class SceneFeatures:
    """The part of `OpenVocabFeatures` that its scores need, of random frames."""

    batch: Batch

    def visual(self, numbers: np.ndarray) -> VisualFeatures:
        return self.batch.visual.map(lambda maps: maps[numbers])

    @property
    def images(self) -> np.ndarray:
        return self.batch.frames.numpy()

    @property
    def stamp_maps(self) -> np.ndarray:
        return np.zeros((2, 1, 32, 32), np.uint8)


class Classes:
    """Stand-in for `ClassSimilarity`, whose texts take long to embed."""

    def top_classes(self, words: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        values, index = (words @ torch.eye(words.shape[1])).topk(count, dim=1)
        return index, values, values


def names_learnt(given: Given) -> Any:
    model = on(given.device, natural())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voc_segmenter, "embed_with_minilm", lambda names: torch.eye(len(names), 384))
        model.network.init_from_names(Classes())
    return [value.float().cpu() for value in (model.network.prior.classifier.gates, model.network.prior.segmenter.fit)]


CALLS: dict[str, Callable[[Given], Any]] = {
    "predict, stamps": lambda given: predicted(given, stamps()),
    "predict, classes": lambda given: predicted(given, semantic()),
    "predict, natural": lambda given: predicted(given, natural()),
    "predict, several sounds, stamps": lambda given: predicted_each(given, stamps()),
    "predict, several sounds, natural": lambda given: predicted_each(given, natural()),
    "predict, nothing heard": predicted_in_silence,
    "load": loaded,
    "segment": segmented,
    "segment, classes": lambda given: segmented(given, True),
    "segment, words": listened_for,
    "serve": answered,
    "evaluate": evaluated,
    "evaluate, classes": evaluated_by_class,
    "probe": probed,
    "export": exported,
    "save": saved,
    "train": trained,
    "train, samples": sheet,
    "train, a step": lambda given: learnt(given, small_model(semantic=True), random_batch()),
    "train, a step of naming": lambda given: learnt(given, small_model(), random_batch(), "pretrain"),
    "train, a step of a network with ICF and interventions": lambda given: learnt(
        given, small_host("query"), random_batch(), config=replace(TINY, icf=PLUG_IN, interventions=INTERVENTIONS)
    ),
    "train, a step of words": lambda given: learnt(given, natural(), words_batch(natural())),
    "train, names of an open vocabulary": names_learnt,
    "calibrate": lambda given: calibrated(given, small_model(), random_batch()),
    "calibrate, words": lambda given: calibrated(given, natural(), words_batch(natural())),
    "study, scores": of_the_study,
    "study, scores of words": words_scored,
}


ON_MPS = (  # calls that meet the limits of mps
    "predict, classes", "predict, natural", "evaluate, classes", "train, a step", "train, a step of words", "calibrate"
)  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, stamps_sets: Path) -> Given:
    folder = tmp_path_factory.mktemp("devices")
    return Given(CPU, folder, stamps_sets, make_clip(folder / "clip.mp4", sound=tone(2.0)))


FIRST = (
    "predict, stamps", "predict, natural", "segment", "evaluate", "probe", "train, a step",
    "train, a step of a network with ICF and interventions", "calibrate",
)  # fmt: skip
ELSEWHERE = [*(("cuda:0", name) for name in CALLS if name not in FIRST), *(("mps", name) for name in ON_MPS)]


@pytest.mark.parametrize(
    ("device", "name"),
    [*(("cuda:0", name) for name in FIRST), *(pytest.param(*pair, marks=pytest.mark.full) for pair in ELSEWHERE)],
)
def test_call(name: str, device: str, given: Given) -> None:
    expected = on_the_cpu(name, given)
    with pretended(device) as place:
        found = CALLS[name](replace(given, device=place))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3, equal_nan=True)


@lru_cache
def on_the_cpu(name: str, given: Given) -> Any:
    return CALLS[name](given)
