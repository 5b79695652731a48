"""Options of `icf train`: those without effect are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from avsbench_fixtures import write_ms3

from icf_avs.__main__ import main
from icf_avs.config_dict import with_settings
from icf_avs.errors import UserError
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


def test_options_without_effect_are_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    """One line, before any work, and no file is written."""
    monkeypatch.chdir(tmp_path)
    write_ms3(tmp_path / "MS3", [("many-000000", "train")])
    before = sorted(tmp_path.rglob("*"))
    for line, told in REFUSED.items():
        assert main(["train", *line.split()]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith("icf: error: ") and told in error
        assert sorted(tmp_path.rglob("*")) == before
