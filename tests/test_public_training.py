"""Public sets: batches with partial labels and padding, every recipe, and training at reduced depth."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
import torch
from PIL import Image
from public_sets import SPEC
from reduced_encoders import use_reduced_encoders
from safetensors.torch import load_file
from small_training import broken_off
from torch.utils.data import DataLoader

from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe
from icf_avs.config import BenchmarkConfig, ModelConfig, PlugInConfig, TrainConfig
from icf_avs.datasets.dataset import ClipDataset, collate
from icf_avs.datasets.layouts import class_names, read_set
from icf_avs.errors import UserError
from icf_avs.icf import CDCL, MIT, SC
from icf_avs.inference.predictor import Predictor
from icf_avs.media.audio_windows import cut_windows
from icf_avs.training.benchmark_data import BenchmarkData
from icf_avs.training.recipes import RECIPES
from icf_avs.training.run import train
from icf_avs.training.trainer import build_model


def items(root: Path, split: str) -> ClipDataset:
    return ClipDataset(read_set(root, split), class_names(root), SPEC)


def test_a_batch_of_s4(home) -> None:
    root, written = home
    batch = collate([*items(root / "Single-source", "train")])
    assert batch.pyramid == [] and batch.onscreen is None and batch.log_mel is None
    assert batch.frames.shape == (2, 5, 224, 224, 3) and batch.frames.dtype == torch.uint8
    assert batch.waveforms.shape == (2, 5, 15_600) and batch.waveforms.dtype == torch.float32
    assert batch.labelled.tolist() == [[True] + [False] * 4] * 2 and batch.valid.all()
    assert batch.sounding.shape == (2, 5, 70)
    assert batch.sounding.nonzero()[:, 2].unique().tolist() == [2, 6]
    clip = written["-dog_______"]
    np.testing.assert_allclose(batch.masks[0, 0], clip.masks[0].reshape(56, 4, 56, 4).mean((1, 3)))
    np.testing.assert_array_equal(batch.class_map[0, 0], 7 * clip.masks[0])
    assert batch.class_map.dtype == torch.long and batch.masks.dtype == torch.float32
    assert not batch.masks[:, 1:].any() and not batch.class_map[:, 1:].any()
    np.testing.assert_array_equal(batch.frames[0, 3], clip.frames[3])
    wave = clip.samples.astype(np.float32) / 32768
    np.testing.assert_allclose(batch.waveforms[0], cut_windows(wave, SPEC, 5), atol=1e-6)


def test_a_batch_of_ms3_has_class_ids_only_for_a_single_known_class(home) -> None:
    one, two, none = (items(home[0] / "Multi-sources", split)[0] for split in ("test", "train", "val"))
    assert one.masks[:4].any((1, 2)).all() and not one.masks[4].any()
    assert one.class_map.flatten(1).amax(1).tolist() == [70] * 4 + [0]
    assert one.sounding.sum(1).tolist() == [1] * 4 + [0]
    assert not two.class_map.any() and two.sounding.sum(1).tolist() == [2] * 4 + [0]
    assert not none.class_map.any() and not none.sounding.any()


def test_a_batch_of_avss_mixes_five_and_ten_frames(home) -> None:
    root, written = home
    dataset = items(root / "AVSS", "test")
    (batch,) = DataLoader(dataset, batch_size=3, collate_fn=collate)
    assert batch.valid.sum(1).tolist() == [5, 5, 10] == batch.labelled.sum(1).tolist()
    for values in (batch.frames, batch.waveforms, batch.masks, batch.class_map, batch.sounding):
        assert len(values) == 3 and not values[:2, 5:].any() and values[2].flatten(1).any(1).all()
    assert [ids.unique().tolist() for ids in batch.class_map] == [[0, 7], [0, 70], [0, 70]]
    small = np.asarray(Image.fromarray(written[dataset.records[2].name].masks[9]).resize((224, 224), Image.NEAREST))
    np.testing.assert_array_equal(batch.class_map[2, 9], small)
    train = collate([*items(root / "AVSS", "train")])
    assert train.labelled.sum(1).tolist() == [1, 1, 5, 10]
    # unlabelled frames have the classes of the table, labelled frames those of their masks
    assert train.sounding[0].sum(1).tolist() == [1] * 5 + [0] * 5
    assert train.sounding[3, 4].nonzero().flatten().tolist() == [69]


def test_a_batch_of_stamps_has_onscreen_and_sounding_classes(stamps_sets) -> None:
    dataset = items(stamps_sets / "Multi-sources", "test")
    batch = collate([*dataset])
    for row, record in enumerate(dataset.records):
        assert {dataset.names[i] for i in batch.onscreen[row].nonzero().flatten()} == record.onscreen
        assert {dataset.names[i] for i in batch.sounding[row].any(0).nonzero().flatten()} == record.sounding
    assert (batch.sounding.any(2) >= (batch.masks > 0).flatten(2).any(2)).all()


TRAINED = ModelConfig(visual="resnet-50", train_visual=True)


@pytest.fixture
def s4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICF_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "Single-source"
    splits = ("train", "train", "train", "val")
    fixtures.write_s4(root, [(f"clip-{i:06d}", 3, "dog", split) for i, split in enumerate(splits)])
    return root


def config(model: ModelConfig) -> TrainConfig:
    return TrainConfig("x", model, benchmark=BenchmarkConfig("S4"), batch=10, seed=3, audio_pretrain_steps=0)


def test_every_clip_is_seen_once_per_epoch(s4: Path) -> None:
    data = BenchmarkData(config(TRAINED), s4, 1)
    assert data.size == 2 and len(data.clips) == 3 and data.features is None
    clips = [frames.float().mean().item() for step in range(3) for frames in data.batch(step).frames]
    assert sorted(clips[:3]) == sorted(clips[3:]) and len(set(clips)) == 3
    whole, parts = data.batch(5), [data.batch(5, part, 2) for part in range(2)]
    assert all(torch.equal(wave, part.waveforms[0]) for wave, part in zip(whole.waveforms, parts, strict=True))


def test_features_of_a_frozen_encoder_are_cached(s4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BenchmarkData(config(ModelConfig()), s4, 2)
    first = data.batch(0)
    assert first.frames is None
    shown = BenchmarkData(config(TRAINED), s4, 1).batch(0)
    assert torch.equal(first.masks, shown.masks) and torch.equal(first.waveforms, shown.waveforms)
    again = [data.batch(step) for step in range(3)]
    shutil.rmtree(s4 / "s4_data" / "visual_frames")
    for step, batch in enumerate(again):
        assert all(torch.equal(a, b) for a, b in zip(data.batch(step).pyramid, batch.pyramid, strict=True))
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*")), "the file has no name"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("disk", "free")(2**30))
    assert BenchmarkData(config(ModelConfig()), s4, 1).features is None, "no space for them"


SPLITS = ("train", "train", "train", "val", "test")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips in each layout; the clips of AVSS alternate between two classes."""
    root = tmp_path_factory.mktemp("AVSBench")
    fixtures.write_s4(root / "Single-source", [(f"clip-{i:06d}", 3, "dog", split) for i, split in enumerate(SPLITS)])
    fixtures.write_ms3(root / "Multi-sources", [(f"many-{i:06d}", split) for i, split in enumerate(SPLITS)])
    rows = [
        (f"v{i}", f"v{i}_0_5000", 0, 0, fixtures.NAMES[1 + i % 2], split, label)
        for i, (split, label) in enumerate(zip(SPLITS, ("v1s", "v1m", "v2", "v2", "v1m"), strict=True))
    ]
    fixtures.write_avss(root / "AVSS", rows, names=fixtures.NAMES)
    return root


def test_every_recipe_matches_its_name() -> None:
    for name, recipe in RECIPES.items():
        config, parts = recipe(), set(name.split("-"))
        model = config.model_config(("dog", "cat"))
        fields = {"mit": "implicit_text", "sc": "counterfactual", "cdcl": "contrastive"}
        kept = {part for part, field in fields.items() if getattr(model, field) or getattr(config.icf, part, None)}
        assert config.name == name
        assert kept == (set() if "baseline" in parts else parts & fields.keys() or fields.keys()), name
        assert bool(config.interventions) == name.endswith("-interventions"), f"{name}: off unless it is asked for"
        encoders = {"pvt": "pvt-v2-b5", "r50": "resnet-50", "swin": "swin-b"}
        assert {model.visual} >= {encoders[part] for part in name.split("-")[1:2] if part in encoders}, name
        published = name.split("-")[0] in ("s4", "ms3", "avss", "tpavi", "avsegformer")
        host = next(iter({"tpavi", "avsegformer"} & parts), "query" if published or "query" in parts else "guided")
        assert model.network == host, name
        reading = {"refined", "text"} & set(name.removesuffix("-text-revised").split("-")) or {"plug-in"}
        assert reading == {model.mit.reading if model.mit else "plug-in"}, name
        assert model.mit is None or model.mit == config.icf.mit, name


def short(config: TrainConfig, **changes: object) -> TrainConfig:
    model = replace(config.model, dim=32, pixel_dim=16, heads=4, layers=1)
    spec = replace(config.spec, image_size=64)
    small = PlugInConfig(MIT(dim=32, width=16, encoders="published"), SC(width=32, blocks=1, jumps=2), CDCL(dim=16))
    icf = config.icf and small
    return replace(config, model=model, icf=icf, spec=spec, steps=2, batch=2 * spec.frames, **changes)


@pytest.mark.parametrize(("name", "folder"), [
    ("ms3-r50", "Multi-sources"),
    pytest.param("s4-pvt", "Single-source", marks=pytest.mark.full),
    pytest.param("avss-swin", "AVSS", marks=pytest.mark.full),
])  # fmt: skip
def test_a_full_size_recipe_trains_and_loads(name: str, folder: str, sets: Path, tmp_path: Path, monkeypatch) -> None:
    use_reduced_encoders(monkeypatch)
    config, source = short(RECIPES[name](), checkpoint_every=1), sets / folder
    broken_off(tmp_path, config, 2, source)  # after its second step, which is not saved yet
    path = train(config, tmp_path, source=source, resume=True)
    state = load_file(path)
    if name == "s4-pvt":
        for key, value in load_file(train(config, tmp_path / "straight", source=source)).items():
            assert value.equal(state[key]), key
    assert any(key.startswith("network.visual.") for key in state), "a trained encoder is kept"
    assert not any(key.startswith("network.audio.vggish.") for key in state), "a frozen one is not"
    model = load_checkpoint(path)
    assert model.config.semantic == (folder == "AVSS")
    assert read_recipe(path)["validation"].keys() == {"miou", "f", "fpr_empty"}
    frames = torch.zeros(5, 64, 64, 3, dtype=torch.uint8)
    predicted = Predictor(model).predict(frames, torch.zeros(5, model.spec.window))
    assert predicted.logits.shape == (5, 16, 16) and torch.isfinite(predicted.logits).all()
    fresh = build_model(config, model.classes).state_dict()
    moved = [key for key, value in state.items() if key.startswith("network.visual.") and not value.equal(fresh[key])]
    assert moved, "the visual encoder has learnt"


@pytest.mark.full
def test_ms3_continues_from_s4(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to AVSS both sets use its class names, so the weights fit; another architecture is refused."""
    use_reduced_encoders(monkeypatch)
    first = train(short(RECIPES["s4-pvt"]()), tmp_path / "s4", source=sets / "Single-source")
    config = replace(short(RECIPES["ms3-from-s4"]()), steps=1, learning_rate=0.0)
    then = train(config, tmp_path / "ms3", source=sets / "Multi-sources", init=first)
    expected, found = load_file(first), load_file(then)
    learnt = [key for key in expected if not key.startswith("counterfactual.")]  # its running mean is not a weight
    assert all(expected[key].equal(found[key]) for key in learnt), "without a learning rate nothing moves"
    with pytest.raises(UserError, match="another model"):
        train(short(RECIPES["tpavi-ms3-pvt"]()), tmp_path / "no", source=sets / "Multi-sources", init=first)
