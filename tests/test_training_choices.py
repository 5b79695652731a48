"""Options of `icf train`: those without effect are refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
from avsbench_fixtures import write_ms3, write_s4
from rich.console import Console

from icf_avs.__main__ import main
from icf_avs.cli import train as cli
from icf_avs.config import SAMPLE_RATES, TrainConfig
from icf_avs.config_dict import with_settings
from icf_avs.encoders import registry
from icf_avs.errors import UserError
from icf_avs.evaluation.test_sets import choose_sets
from icf_avs.training.command import evaluation_arguments, progress
from icf_avs.training.recipes import RECIPES

WRONG = {
    "lerning_rate=1": "did you mean learning_rate", "icf.cdcl.dims=3": "did you mean dim",
    "steps=1.5": "'1.5': want an integer from 1 to", "batch": "want KEY=VALUE",
    "learning_rate=nan": "want a number above 0 and at most 1", "data.seed=x": "of 0 or more, or null$",
    "icf.cdcl.measure=x": "'x': want one of distributions, features, prototypes$",
    "icf.sc.alpha=[1, 1, 1]": "want a list of 2 in brackets, each a number of 0 or more$",
    "icf.mit.levels=video": "want a list in brackets, each one of video, segment, frame$",
    "model.train_visual=1": "want true or false$", "model=3": r"model is a group; set model.dim=\.\.\. and so on$",
    "model.dim=13": "not a multiple of heads", "steps.x=3": "steps is one value",
    "words.images=3": "recipe s4-pvt has no `words`; choose a recipe with that part$",
    "text_encoder=minilmm": "'minilmm': want one of minilm, clip; did you mean minilm\\?$",
    "icf.sc.depth=1001": "depth is 1001, a step of a chain of 1000; give 1000 at most$",
    **{f"{key}={value}": rf"^--set {key}={value}: '\d+': want "
       for key, value in (("batch", 0), ("clip_share", 5), ("learning_rate", 100), ("icf.cdcl.temperature", 0))},
}  # fmt: skip


def test_settings_are_parsed_by_type() -> None:
    config = with_settings(RECIPES["s4-pvt"](), [
        "learning_rate=1", "icf.mit.levels=[\"video\"]", "icf.sc.alpha=[0.5, 1]", "icf.cdcl.measure=features",
        "interventions=null", "model.train_visual=false",
    ])  # fmt: skip
    assert config.learning_rate == 1.0 and type(config.learning_rate) is float
    assert config.icf.mit.levels == ("video",) and config.icf.sc.alpha == (0.5, 1.0)
    assert config.icf.cdcl.measure == "features" and config.model.train_visual is False
    for wrong, told in WRONG.items():
        with pytest.raises(UserError, match=told):
            with_settings(config, [wrong])
    for recipe, wrong, told in (
        ("own", "icf.cdcl.temperature=0.1", "recipe own has no `icf`; choose a recipe with ICF, such as stamps-query"),
        ("own", "ifc.cdcl.temperature=0.1", "did you mean icf"),
        ("s4-pvt-baseline", "text_encoder=foo", r"'foo': want one of minilm, clip$"),  # an unused text encoder
    ):
        with pytest.raises(UserError, match=told):
            with_settings(RECIPES[recipe](), [wrong])


def test_names_match_the_registry() -> None:
    assert set(SAMPLE_RATES) == set(registry.AUDIO) >= set(cli.AUDIO) and set(cli.VISUAL) <= set(registry.VISUAL)
    assert get_args(get_type_hints(TrainConfig)["text_encoder"]) == tuple(registry.TEXT)
    assert set(cli.TEXT) == set(registry.TEXT)


REFUSED = {
    "stamps --data S4": "takes no --data",
    "stamps --visual-encoder resnet-50": "takes no other --visual-encoder",
    "natural --text-encoder clip": "takes no other --audio-encoder or --text-encoder",
    "natural --pretrain-steps 9": "takes no --pretrain-steps",
    "s4-pvt-baseline --data S4 --text-encoder minilm": "takes no --text-encoder",
    "own --data MS3 --text-encoder clip": "no names of classes, which --text-encoder needs",
    "stamps --set spec.sample_rate=32000": "spec.sample_rate is 32000; audio encoder log-mel takes 16000",
    "stamps --set name=foo": "--set name=foo: recipe stamps decides its `name`; choose another recipe",
    "stamps --lr 0.1 --set learning_rate=0.0001": "learning_rate is given twice, by --lr and by --set learning_",
    "own --data nowhere": "nowhere: no such folder; recipe own trains on videos of your own: name the folder",
    "s4-pvt --data MS3": "MS3: holds ms3_meta_data.csv, for recipe ms3-pvt; recipe s4-pvt trains on a set in the "
    "layout of S4: name the folder with --data; it holds s4_meta_data.csv",
}


@pytest.mark.parametrize("line", REFUSED)
def test_an_option_without_effect_is_refused(line: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """One line, before any work, and no file is written."""
    monkeypatch.chdir(tmp_path)
    write_ms3(tmp_path / "MS3", [("many-000000", "train")])
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", *line.split()]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("icf: error: ") and REFUSED[line] in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("width", "terms", "terminal"), [(120, 4, True), (80, 1, False)])
def test_the_progress_bar_shows_whole_numbers(width: int, terms: int, terminal: bool) -> None:
    """Also if the configuration is not named after its recipe."""
    screen, config = io.StringIO(), replace(RECIPES["own"](), name="a run")
    console = Console(file=screen, width=width, force_terminal=terminal, color_system=None)
    with progress(config, "own", console) as report:
        for stage, done, names in (("pretrain", 1_200, "loss top1"), ("train", 1_212, "loss bce dice counterfactual")):
            report(stage, done, config.audio_pretrain_steps + config.steps, dict.fromkeys(names.split(), 1.5))
    last = [line for line in screen.getvalue().splitlines() if "training masks" in line][-1]
    assert "  12/1500 0:00:00 -:--:-- " in last.replace("\r", "")
    assert last.count("1.500") == terms and "loss 1.500" in last and "…" not in last


def test_the_suggested_command_scores_the_same_set(tmp_path: Path) -> None:
    folder = tmp_path / "my own [1]"
    write_s4(folder, [("clip-000000", 3, "dog", "test")])
    words = evaluation_arguments(Path("a.safetensors"), SimpleNamespace(benchmark=object()), folder)
    root, sets, is_stamps = choose_sets(Path(words[words.index("--data") + 1]), None)
    assert (root, list(sets), is_stamps) == (folder, ["s4"], False)
