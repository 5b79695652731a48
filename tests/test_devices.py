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

import pytest
import torch
from accelerate.state import AcceleratorState
from clip_maker import make_clip, tone
from fake_device import pretended
from safetensors.torch import load_file
from small_guided import random_batch, small_host, small_model
from small_training import TINY, frozen_encoder, stand_ins, tiny_data

from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.config import ModelConfig, PlugInConfig, TrainConfig
from icf_avs.datasets.layouts import class_names, read_set
from icf_avs.encoders.efficientnet_lite import EfficientNetLite0
from icf_avs.evaluation.evaluate import evaluate_each
from icf_avs.evaluation.evaluate_semantic import evaluate_semantic
from icf_avs.evaluation.robustness.runner import evaluate_robustness
from icf_avs.export.graphs import WaveformGraph
from icf_avs.icf import CDCL, MIT, SC
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import segment_video
from icf_avs.networks.build import build_model
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.settings import InterventionSettings
from icf_avs.training import trainer as trainer_module
from icf_avs.training.calibrate import calibrate
from icf_avs.training.run import train
from icf_avs.training.train_module import build_train_module
from icf_avs.types import Batch, ClipSpec

PLUG_IN = PlugInConfig(MIT(dim=32, width=16), SC(width=32, blocks=1, jumps=2, draws=4, keep=2), CDCL(dim=16))
INTERVENTIONS = InterventionSettings(other_sound=0.3)


@dataclass(frozen=True)
class Given:
    """Device of a call, output folder, Stamps sets, and a video of two seconds."""

    device: torch.device
    folder: Path
    sets: Path
    video: Path


@lru_cache
def shipped(name: str) -> SegmentationModel:
    """A shipped model for small frames, `natural` with random frozen encoders, which respond to any input."""
    torch.manual_seed(0)
    model = load_checkpoint(find_checkpoint(name)[0], without_frozen_weights=name == "natural")
    model.spec = replace(model.spec, image_size=64)
    return model


@lru_cache
def semantic(names: tuple[str, ...] = ("bell", "cat")) -> SegmentationModel:
    torch.manual_seed(0)
    config = ModelConfig(names, dim=32, pixel_dim=16, semantic=True)
    return build_model(config, ClipSpec(image_size=64), EfficientNetLite0(), torch.randn(len(names), 24)).eval()


def on(given: Given, model: SegmentationModel) -> SegmentationModel:
    return copy.deepcopy(model).to(given.device)


def predicted(given: Given, nothing: bool = False) -> Any:
    """By `natural`, of random frames. nothing: without any word that may be heard."""
    model, generator = on(given, shipped("natural")), torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=generator)
    waves = 0.1 * torch.randn(2, model.spec.window, generator=generator)
    prediction = Predictor(model, torch.zeros(len(model.classes)) > 0 if nothing else None).predict(pictures, waves)
    return [value for value in vars(prediction).values() if torch.is_tensor(value)]


def words_batch() -> Batch:
    """Batch as in recipe `natural`: words instead of sounds, and extra sounds for the same frames."""
    model, generator, clips, side = shipped("natural"), torch.Generator().manual_seed(0), 3, 64
    pictures = torch.randint(0, 256, (clips, 1, side, side, 3), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        visual = model.network.encode_frames(pictures)
    sounding = torch.eye(clips, len(model.classes), dtype=torch.bool)[:, None]
    masks = torch.zeros(clips, 1, side // 4, side // 4)
    masks[..., :5, :7] = 1
    every = torch.ones(clips, 1, dtype=torch.bool)
    heard, others = sounding.float() * 0.6, sounding.roll(1, 0).float()[:, None]
    return Batch(
        visual.pyramid, heard.new_zeros(clips, 1, 0), masks, masks.long(), every, every, sounding, sounding[:, 0],
        others, masks[:, None], pictures, None, visual.class_scores, visual.object_probs, heard,
    )  # fmt: skip


def learnt(given: Given, model: SegmentationModel, batch: Batch, config: TrainConfig = TINY) -> Any:
    """One training step: loss terms and gradient norm, then optimizer and running means. config: plug-ins."""
    torch.manual_seed(0)
    train_module = build_train_module(config, copy.deepcopy(model)).to(given.device).train()
    terms = train_module(batch.to(given.device), "train")
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


def calibrated(given: Given) -> Any:
    model = on(given, shipped("natural"))
    return [*vars(calibrate(model, [words_batch()])).values(), float(model.offset)]


def evaluated(given: Given) -> Any:
    records = read_set(given.sets / "Single-source", "test")
    return evaluate_each(Predictor(on(given, shipped("stamps"))), records, clips=1)


def evaluated_by_class(given: Given) -> Any:
    root = given.sets / "AVSS"
    names = class_names(root)
    predictor = Predictor(on(given, semantic(names)))
    return evaluate_semantic(predictor, read_set(root, "test"), ("background", *names), clips=1)


def probed(given: Given) -> Any:
    records = read_set(given.sets / "Multi-sources", "test")
    found = evaluate_robustness(Predictor(on(given, shipped("stamps"))), records, clips=1)
    return {str(key): values for key, values in found.scores.items()}


def segmented(given: Given) -> Any:
    predictor = Predictor(on(given, semantic()))
    result = segment_video(predictor, given.video, given.folder / given.device.type, fps=2, semantic=True)
    return [list(result.scores), list(result.areas), (result.folder / "overlay.mp4").is_file()]


def exported(given: Given) -> Any:
    """Outputs of the export graph, which stays on the CPU."""
    graph = WaveformGraph(on(given, semantic()))
    return list(graph(*graph.example(1, 2)))


CALLS: dict[str, Callable[[Given], Any]] = {
    "predict, natural": predicted,
    "predict, nothing heard": lambda given: predicted(given, nothing=True),
    "segment": segmented,
    "evaluate": evaluated,
    "evaluate, classes": evaluated_by_class,
    "probe": probed,
    "export": exported,
    "train": trained,
    "train, a step": lambda given: learnt(given, small_model(semantic=True), random_batch()),
    "train, a step of a network with ICF and interventions": lambda given: learnt(
        given, small_host("query"), random_batch(), config=replace(TINY, icf=PLUG_IN, interventions=INTERVENTIONS)
    ),
    "train, a step of words": lambda given: learnt(given, shipped("natural"), words_batch()),
    "calibrate": calibrated,
}
ON_MPS = (  # calls that meet the limits of mps
    "predict, natural", "evaluate, classes", "train, a step", "train, a step of words", "calibrate"
)  # fmt: skip
FIRST = ("predict, natural", "segment", "evaluate", "train, a step",
         "train, a step of a network with ICF and interventions")  # fmt: skip
ELSEWHERE = [*(("cuda:0", name) for name in CALLS if name not in FIRST), *(("mps", name) for name in ON_MPS)]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, stamps_sets: Path) -> Given:
    folder = tmp_path_factory.mktemp("devices")
    return Given(torch.device("cpu"), folder, stamps_sets, make_clip(folder / "clip.mp4", sound=tone(2.0)))


@lru_cache
def on_the_cpu(name: str, given: Given) -> Any:
    return CALLS[name](given)


@pytest.mark.parametrize(
    ("device", "name"),
    [*(("cuda:0", name) for name in FIRST), *(pytest.param(*pair, marks=pytest.mark.full) for pair in ELSEWHERE)],
)
def test_call(name: str, device: str, given: Given) -> None:
    expected = on_the_cpu(name, given)
    with pretended(device) as place:
        found = CALLS[name](replace(given, device=place))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3, equal_nan=True)
