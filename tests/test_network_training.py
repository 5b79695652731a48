"""Plug-in training of other networks end to end: a run, its checkpoint, segmentation and scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from avsbench_fixtures import NAMES, write_avss, write_ms3
from clip_maker import make_clip, tone
from safetensors.torch import load_file
from small_training import broken_off

from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.config import PlugInConfig, TrainConfig
from icf_avs.datasets.layouts import read_set
from icf_avs.encoders import text_encoders
from icf_avs.evaluation.evaluate import evaluate
from icf_avs.export.export_model import trace
from icf_avs.export.graphs import WaveformGraph
from icf_avs.icf import CDCL, MIT, SC
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.settings import InterventionSettings, Reading
from icf_avs.training.recipes import RECIPES, with_encoders
from icf_avs.training.run import train

SPLITS = ("train", "train", "train", "val", "test")
INTERVENTIONS = InterventionSettings()
PLUG_IN = PlugInConfig(MIT(dim=32, width=16), SC(width=32, blocks=1, jumps=2, draws=4, keep=2), CDCL(dim=16))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_ms3(root / "Multi-sources", [(f"many-{i:06d}", split) for i, split in enumerate(SPLITS)])
    rows = [(f"v{i}", f"v{i}_0_5000", 0, 0, NAMES[1 + i % 2], split, "v1m") for i, split in enumerate(SPLITS)]
    write_avss(root / "AVSS", rows, names=NAMES)
    return root


def tiny(name: str, layout: str = "ms3", icf=PLUG_IN, interventions=INTERVENTIONS) -> TrainConfig:
    """Configuration of two training steps of a small network on small encoders."""
    config = with_encoders(RECIPES[f"{layout}-pvt"](), "efficientnet-lite0", "log-mel", "minilm")
    absent = dict.fromkeys(("implicit_text", "counterfactual", "contrastive"))
    model = replace(config.model, **absent, network=name, dim=32, heads=4, layers=1)
    return replace(
        config, name=f"{layout}-{name}", model=model, icf=icf, interventions=interventions,
        audio_pretrain_steps=0, steps=2, spec=replace(config.spec, image_size=64), batch=2 * config.spec.frames,
        warmup=1, checkpoint_every=1,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["query", "tpavi", "avsegformer"])
def test_checkpoints_of_icf_training_hold_the_plain_network(name: str, sets: Path, tmp_path: Path) -> None:
    path = train(tiny(name), tmp_path / "run", source=sets / "Multi-sources")
    keys = load_file(path).keys()
    assert any(key.startswith("network.") for key in keys)
    foreign = ("icf", "implicit", "words", "visual.", "interventions", "sounds")
    assert not any(part in key for part in foreign for key in keys)
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    terms = {"bce", "dice", "focal", "pull", "noise", "ortho", "vision-audio", "vision-text", "audio-text"}
    terms |= {"orthogonal_sound", "other_frames", "removed_source"}
    assert terms | {"z cosine over clips", "z* of another class"} <= row.keys()
    model = load_checkpoint(path)
    video = make_clip(tmp_path / "clip.mp4", seconds=2, sound=tone(2))
    assert Segmenter(Predictor(model), name).segment(video).masks.shape == (2, 120, 160)
    assert 0 <= evaluate(Predictor(model), read_set(sets / "Multi-sources", "test"))["strict"]["miou"] <= 1


def test_classes_are_trained_and_predicted(sets: Path, tmp_path: Path) -> None:
    model = load_checkpoint(train(tiny("query", "avss"), tmp_path, source=sets / "AVSS"))
    frames = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    prediction = Predictor(model).predict(frames, torch.zeros(3, model.spec.window))
    assert prediction.classes.shape[:2] == (3, 71) and prediction.class_names[0] == "background"


def test_attaching_plug_ins_does_not_change_the_network(sets: Path, tmp_path: Path) -> None:
    """With learning rate 0, weights, masks and exported graph are equal: plug-ins do not consume random numbers.

    The network alone trains with mask losses.
    """
    frames, waves = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8), torch.randn(2, 15_600)
    found = []
    for icf, interventions in ((None, None), (PLUG_IN, INTERVENTIONS)):
        config = replace(tiny("query", icf=icf, interventions=interventions), learning_rate=0.0, steps=1)
        path = train(config, tmp_path / str(icf is None), source=sets / "Multi-sources")
        model = load_checkpoint(path)
        logits = Predictor(model).predict(frames, waves).logits
        found.append((load_file(path), logits, trace(WaveformGraph(model)).graph_module.code))
        row = json.loads((path.parent / "metrics.jsonl").read_text().splitlines()[0])
        assert {"bce", "dice", "focal"} <= row.keys() and ("pull" in row) == (icf is not None)
    (plain, without, alone), (trained, beside, surrounded) = found
    assert plain.keys() == trained.keys() and all(value.equal(trained[key]) for key, value in plain.items())
    assert without.equal(beside) and alone == surrounded and len(alone) > 1_000


def with_reading(reading: Reading) -> TrainConfig:
    """Three steps with MIT alone: the row of table 2 that acts only if a part of MIT is in the network."""
    return replace(tiny("query", icf=PlugInConfig(replace(PLUG_IN.mit, reading=reading), None, None)), steps=3)


READINGS = [with_reading(name) for name in ("refined", "text")]


@pytest.mark.parametrize("config", READINGS, ids=["refined", "text"])
def test_a_reading_is_saved_and_needs_no_text_encoder_at_inference(
    config: TrainConfig, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = train(config, tmp_path, source=sets / "Multi-sources")
    added = {"refined": "network.refinement.", "text": "network.text."}[config.icf.mit.reading]
    assert any(key.startswith(added) for key in load_file(path))
    assert not any(key.startswith(("icf", "words", "visual.")) for key in load_file(path))
    monkeypatch.setattr(text_encoders, "load_minilm", None)
    model = load_checkpoint(path)
    assert model.config.mit == config.icf.mit
    frames, waves = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8), torch.randn(2, 15_600)
    assert Predictor(model).predict(frames, waves).logits.isfinite().all()


@pytest.mark.parametrize(
    "config", [replace(tiny("query"), steps=3), *(pytest.param(each, marks=pytest.mark.full) for each in READINGS)]
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(config: TrainConfig, sets: Path, tmp_path: Path) -> None:
    """The state includes the plug-in's weights, the texts of its banks and the running means of sounds."""
    source = sets / "Multi-sources"
    straight = load_file(train(config, tmp_path / "straight", source=source))
    broken_off(tmp_path / "broken", config, 3, source)
    resumed = load_file(train(config, tmp_path / "broken", source=source, resume=True))
    assert all(value.equal(straight[key]) for key, value in resumed.items())
