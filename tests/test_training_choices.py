"""Options of `icf train`: what has no effect is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from avsbench_fixtures import write_ms3, write_s4

from icf_avs.__main__ import main
from icf_avs.cli import train as cli
from icf_avs.config_dict import with_settings
from icf_avs.encoders import registry
from icf_avs.errors import UserError
from icf_avs.evaluation.test_sets import choose_sets
from icf_avs.training.command import scoring
from icf_avs.training.recipes import RECIPES


def test_any_setting_can_be_given_by_its_type() -> None:
    config = with_settings(RECIPES["s4-pvt"](), [
        "learning_rate=1", "icf.mit.levels=[\"video\"]", "icf.sc.alpha=[0.5, 1]", "icf.cdcl.measure=features",
        "interventions=null", "model.train_visual=false",
    ])  # fmt: skip
    assert config.learning_rate == 1.0 and type(config.learning_rate) is float
    assert config.icf.mit.levels == ("video",) and config.icf.sc.alpha == (0.5, 1.0)
    assert config.icf.cdcl.measure == "features" and config.model.train_visual is False
    for wrong, told in {
        "lerning_rate=1": "did you mean learning_rate", "icf.cdcl.dims=3": "did you mean dim",
        "steps=many": "is not int", "steps=1.5": "is not int", "batch=-4": "is not int", "batch": "want KEY=VALUE",
        "learning_rate=nan": "is not float", "icf.cdcl.measure=x": "is not Literal",
        "model.dim=13": "not a multiple of heads", "words.images=3": "no settings",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=told):
            with_settings(config, [wrong])


def test_choices_are_encoders() -> None:
    assert set(cli.VISUAL) <= set(registry.VISUAL) and set(cli.AUDIO) <= set(registry.AUDIO)
    assert set(cli.TEXT) == set(registry.TEXT)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stamps --data S4", "takes no --data"),
        ("natural --data S4", "takes no --data"),
        ("stamps-quick --audio-source wav", "takes no --audio-source"),
        ("stamps --visual-encoder resnet-50", "takes no other --visual-encoder"),
        ("natural --visual-encoder efficientnet-lite0", "takes no other --visual-encoder"),
        ("natural --audio-encoder vggish", "takes no other --audio-encoder or --text-encoder"),
        ("natural --text-encoder clip", "takes no other --audio-encoder or --text-encoder"),
        ("natural --pretrain-steps 9", "takes no --pretrain-steps"),
        ("own --data own --stamps stamps", "takes no --stamps"),
        ("s4-pvt-baseline --data S4 --text-encoder minilm", "takes no --text-encoder"),
        ("stamps-sc-cdcl --text-encoder clip", "takes no --text-encoder"),
        ("own --data MS3 --text-encoder clip", "no names of classes, which --text-encoder needs"),
        (
            "ms3-pvt --data MS3 --audio-encoder log-mel --pretrain-steps 5",
            "no names of classes, which --pretrain-steps needs",
        ),
        ("ms3-from-s4 --data MS3", "goes on from an S4 run: name its checkpoint with --init"),
        ("stamps --init nowhere.safetensors", "nowhere.safetensors: no such checkpoint"),
        ("stamps --resume", "nothing to resume from"),
    ],
)
def test_an_option_without_effect_is_refused(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before any work, and nothing is left."""
    monkeypatch.chdir(tmp_path)
    write_ms3(tmp_path / "MS3", [("many-000000", "train")])
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", *line.split()]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("icf: error: ") and said in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["Single-source", "S4", "my own [1]"])
def test_the_next_step_scores_the_set_itself(name: str, tmp_path: Path) -> None:
    write_s4(tmp_path / name, [("clip-000000", 3, "dog", "test")])
    config = SimpleNamespace(benchmark=object())
    [words] = scoring(Path("a.safetensors"), config, tmp_path / name, tmp_path)
    root, sets, is_stamps = choose_sets(Path(words[words.index("--data") + 1]), None)
    assert (root, list(sets), is_stamps) == (tmp_path / name, ["s4"], False)
