"""Training on sets in the public layouts: every recipe, small encoders end to end, full widths at reduced depth."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from avsbench_fixtures import NAMES, write_avss, write_ms3, write_s4
from reduced_encoders import use_reduced_encoders
from safetensors.torch import load_file
from small_training import broken_off

from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe
from icf_avs.config import PlugInConfig, TrainConfig
from icf_avs.errors import UserError
from icf_avs.icf import CDCL, MIT, SC
from icf_avs.inference.predictor import Predictor
from icf_avs.training.recipes import RECIPES, with_encoders
from icf_avs.training.run import train
from icf_avs.training.trainer import build_model

SMALL = ["--visual-encoder", "efficientnet-lite0", "--audio-encoder", "log-mel", "--text-encoder", "minilm"]
SPLITS = ("train", "train", "train", "val", "test")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips in each layout; the clips of AVSS alternate between two classes."""
    root = tmp_path_factory.mktemp("AVSBench")
    write_s4(root / "Single-source", [(f"clip-{i:06d}", 3, "dog", split) for i, split in enumerate(SPLITS)])
    write_ms3(root / "Multi-sources", [(f"many-{i:06d}", split) for i, split in enumerate(SPLITS)])
    rows = [
        (f"v{i}", f"v{i}_0_5000", 0, 0, NAMES[1 + i % 2], split, label)
        for i, (split, label) in enumerate(zip((*SPLITS, "test"), ("v1s", "v1m", "v2", "v2", "v2", "v1m"), strict=True))
    ]
    write_avss(root / "AVSS", rows, names=NAMES)
    return root


FOLDER = {"S4": "Single-source", "MS3": "Multi-sources", "AVSS": "AVSS"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_matches_its_name(name: str) -> None:
    config = RECIPES[name]()
    assert config.name == name
    model = config.model_config(("dog", "cat"))
    fields = {"mit": "implicit_text", "sc": "counterfactual", "cdcl": "contrastive"}
    kept = {part for part, field in fields.items() if getattr(model, field) or getattr(config.icf, part, None)}
    named = set(name.split("-")) & {"mit", "sc", "cdcl"}
    assert kept == (set() if "baseline" in name.split("-") else named or {"mit", "sc", "cdcl"})
    assert bool(config.interventions) == name.endswith("-interventions"), "off unless it is asked for"
    encoders = {"pvt": "pvt-v2-b5", "r50": "resnet-50", "swin": "swin-b"}
    if name.split("-")[1:2] and name.split("-")[1] in encoders:
        assert model.visual == encoders[name.split("-")[1]]
    published = name.split("-")[0] in ("s4", "ms3", "avss", "tpavi", "avsegformer")
    hosts = {"tpavi", "avsegformer"} & set(name.split("-"))
    assert model.network == (hosts.pop() if hosts else "query" if published or "query" in name else "guided")
    reading = {"refined", "text"} & set(name.removesuffix("-text-revised").split("-")) or {"plug-in"}
    assert reading == {model.mit.reading if model.mit else "plug-in"}
    assert model.mit is None or model.mit == config.icf.mit
    assert bool(config.estimate) == (config.benchmark is not None), "unmeasured runs say what is expected of them"


def test_rows_of_mit_without_contrast_are_inside_the_network() -> None:
    """Rows of table 2 that a plug-in cannot express exist in both readings; rows of levels in the first only."""
    for of in ("ms3-pvt", "avss-pvt"):
        for row in ("mit", "mit-sc"):
            assert {f"{of}-{row}-refined", f"{of}-{row}-text"} <= RECIPES.keys()
        mit = MIT("refined", levels=("frame",), encoders="published")
        assert RECIPES[f"{of}-mit-refined-level-frame"]().icf == PlugInConfig(mit, None, None)
        assert RECIPES[f"{of}-mit"]().model_config(()).mit is None


def test_small_encoders_select_the_small_model() -> None:
    large = RECIPES["s4-pvt"]()
    assert with_encoders(large, None, None, None) == large
    small, shipped = with_encoders(large, "efficientnet-lite0", "log-mel", "minilm"), RECIPES["stamps"]()
    model = small.model
    assert (model.dim, model.pixel_dim, model.heads, model.train_visual) == (128, 48, 4, False)
    # the augmented audio of the shipped recipe takes longer
    assert small.audio_pretrain_steps == TrainConfig.audio_pretrain_steps
    for field in ("learning_rate", "weight_decay", "text_encoder"):
        assert getattr(small, field) == getattr(shipped, field), field
    assert (small.name, small.batch, small.benchmark) == (large.name, large.batch, large.benchmark)
    taught = with_encoders(large, None, "log-mel", None)
    assert taught.learning_rate == large.learning_rate
    assert taught.audio_pretrain_steps == TrainConfig.audio_pretrain_steps


def short(config: TrainConfig, **changes: object) -> TrainConfig:
    model = replace(config.model, dim=32, pixel_dim=16, heads=4, layers=1)
    spec = replace(config.spec, image_size=64)
    small = PlugInConfig(MIT(dim=32, width=16, encoders="published"), SC(width=32, blocks=1, jumps=2), CDCL(dim=16))
    icf = config.icf and small
    return replace(config, model=model, icf=icf, spec=spec, steps=2, batch=2 * spec.frames, **changes)


FIRST = [("s4", "pvt"), ("ms3", "r50"), ("avss", "swin")]
OTHERS = [pair for pair in product(("s4", "ms3", "avss"), ("pvt", "r50", "swin")) if pair not in FIRST]


@pytest.mark.parametrize(
    ("layout", "visual"), [*FIRST, *(pytest.param(*pair, marks=pytest.mark.full) for pair in OTHERS)]
)
def test_a_full_size_recipe_trains_and_loads(layout: str, visual: str, sets: Path, tmp_path: Path, monkeypatch) -> None:
    use_reduced_encoders(monkeypatch)
    config = short(RECIPES[f"{layout}-{visual}"](), checkpoint_every=1)
    source = sets / FOLDER[config.benchmark.layout]
    broken_off(tmp_path, config, 2, source)  # after its second step, which is not saved yet
    path = train(config, tmp_path, source=source, resume=True)
    state = load_file(path)
    if (layout, visual) == ("s4", "pvt"):
        for key, value in load_file(train(config, tmp_path / "straight", source=source)).items():
            assert value.equal(state[key]), key
    assert any(key.startswith("network.visual.") for key in state), "a trained encoder is kept"
    assert not any(key.startswith("network.audio.vggish.") for key in state), "a frozen one is not"
    model = load_checkpoint(path)
    assert model.config.semantic == (layout == "avss")
    assert read_recipe(path)["validation"].keys() == {"miou", "f", "fpr_empty"}
    frames = torch.zeros(5, 64, 64, 3, dtype=torch.uint8)
    predicted = Predictor(model).predict(frames, torch.zeros(5, model.spec.window))
    assert predicted.logits.shape == (5, 16, 16) and torch.isfinite(predicted.logits).all()
    fresh = build_model(config, model.classes).state_dict()
    moved = [key for key, value in state.items() if key.startswith("network.visual.") and not value.equal(fresh[key])]
    assert moved, "the visual encoder has learnt"


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


def test_small_encoders_from_the_command_line(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrainConfig, "audio_pretrain_steps", 2)
    data = ["--data", str(sets / "Single-source")]
    assert main(["train", "s4-pvt", *data, *SMALL, "--steps", "2", "--out", "run"]) == 0
    assert main(["evaluate", "run/s4-pvt.safetensors", "--data", str(sets), "--sets", "s4", "--out", "scores.csv"]) == 0
    with open("scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["audio"], row["protocol"]) for row in rows} >= {("true", "reference"), ("true", "strict")}
