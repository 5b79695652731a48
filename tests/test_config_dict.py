"""Configs read from the dictionaries in checkpoints and run folders."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, replace

import pytest

from icf_avs import config
from icf_avs.checkpoint.serialization import read_config
from icf_avs.checkpoint.source import shipped
from icf_avs.config import EvidenceConfig, ModelConfig, TrainConfig
from icf_avs.config_dict import EARLIER, from_dict
from icf_avs.icf import SC
from icf_avs.training.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    recipe = RECIPES[name]()
    assert from_dict(TrainConfig, json.loads(json.dumps(asdict(recipe)))) == recipe


def test_earlier_names_are_read_from_files_and_refused_in_code() -> None:
    classes = {cls.__name__: cls for cls in (*vars(config).values(), SC) if isinstance(cls, type)}
    for name, fields in EARLIER.items():
        known = {field.name for field in dataclasses.fields(classes[name])}
        assert set(fields.values()) <= known and not set(fields) & known
    assert from_dict(EvidenceConfig, {"akin": 0.5}) == EvidenceConfig(synonym_threshold=0.5)
    with pytest.raises(TypeError, match="EvidenceConfig: akin is now called synonym_threshold"):
        EvidenceConfig(akin=0.5)
    with pytest.raises(TypeError, match="TrainConfig: finish is now called highres_steps"):
        replace(TrainConfig("x"), finish=3)
    with pytest.raises(TypeError, match="SC: space is now called strategy"):
        SC(space="diffusion")
    assert read_config(shipped("natural")).evidence == RECIPES["natural"]().model.evidence == EvidenceConfig()


def test_an_absent_part_stays_absent() -> None:
    written = {"name": "x", "model": {"network": "query", "implicit_text": None, "counterfactual": None}}
    with pytest.raises(ValueError, match="query has no parts of the guided"):
        from_dict(TrainConfig, written)
    written["model"]["contrastive"] = None
    assert from_dict(TrainConfig, written).model.counterfactual is None


@pytest.mark.parametrize("values", [{"wings": 2}, {"model": {"wings": 2}}, {"icf": {"mit": {"wings": 2}}}])
def test_an_unknown_setting_is_named(values: dict) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'wings'"):
        from_dict(TrainConfig, {"name": "x", **values})
    with pytest.raises(TypeError, match="unexpected keyword argument 'wings'"):
        replace(ModelConfig(), wings=2)
