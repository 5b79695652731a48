"""Options of `icf train`: the command in a checkpoint makes its configuration again, what has no effect is refused."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from avsbench_fixtures import write_ms3, write_s4
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from small_training import TINY

from icf_avs.__main__ import main
from icf_avs.cli import train as cli
from icf_avs.config import TrainConfig
from icf_avs.config_settings import with_settings
from icf_avs.encoders import registry
from icf_avs.errors import UserError
from icf_avs.evaluation.test_sets import choose_sets
from icf_avs.training import command, run
from icf_avs.training.cli_overrides import Choices, command_line, launched
from icf_avs.training.command import scoring
from icf_avs.training.recipes import RECIPES
from icf_avs.training.run import train

SETTINGS = ("weight_decay=0.5", "warmup=7", "model.layers=3", "spec.phase=0.25", "data.seed=4", "data.seed=null",
            "text_encoder=clip", "learning_rate=0.25", "words=null")  # fmt: skip
PATHS = some.sampled_from(["own", "a folder/it's [here]", "-set", "/data/S4"]).map(Path)


def maybe(values: some.SearchStrategy) -> some.SearchStrategy:
    return some.none() | values


def parsed(line: str) -> tuple[TrainConfig, Path | None, Path | None]:
    """Configuration, data and initial checkpoint of a command line, by the command itself up to the run."""
    taken: list[tuple] = []

    def stop(config: TrainConfig, folder: Path, **options: object) -> Path:
        taken.append((config, options["source"], options["init"]))
        raise UserError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "train", stop)
        for check in ("refuse_idle", "check_start"):  # of folders and files that are not there
            patch.setattr(command, check, lambda *_: None)
        assert main(shlex.split(line)[1:]) == 2
    return taken[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    some.sampled_from(sorted(RECIPES)),
    some.builds(
        Choices,
        visual_encoder=maybe(some.sampled_from(cli.VISUAL)),
        audio_encoder=maybe(some.sampled_from(cli.AUDIO)),
        text_encoder=maybe(some.sampled_from(cli.TEXT)),
        audio_source=maybe(some.sampled_from(cli.SOUND)),
        seed=maybe(some.integers(0, 10**18 - 1)),
        steps=maybe(some.integers(1, 10**6)),
        pretrain_steps=maybe(some.integers(0, 5000)),
        lr=maybe(some.floats(1e-6, 1)),
        batch=maybe(some.integers(1, 1000)),
        settings=maybe(some.lists(some.sampled_from(SETTINGS), max_size=3)),
    ),
    maybe(PATHS),
    maybe(PATHS),
)
def test_the_command_of_a_run_makes_its_configuration(
    name: str, choices: Choices, source: Path | None, init: Path | None
) -> None:
    recipe = RECIPES[name]()
    config = choices.configured(recipe)
    line = launched(command_line(config, source, str(init) if init else None), 1)
    assert parsed(line) == (config, source, init), line


def test_a_run_without_options_has_a_short_command() -> None:
    assert all(command_line(make(), None, None) == ["train", name] for name, make in RECIPES.items())


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


def test_resume_takes_no_init(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(UserError, match="takes no --init"):
        train(TINY, tmp_path, resume=True, init=tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["Single-source", "S4", "my own [1]"])
def test_the_next_step_scores_the_set_itself(name: str, tmp_path: Path) -> None:
    write_s4(tmp_path / name, [("clip-000000", 3, "dog", "test")])
    config = SimpleNamespace(benchmark=object())
    [words] = scoring(Path("a.safetensors"), config, tmp_path / name, tmp_path)
    root, sets, is_stamps = choose_sets(Path(words[words.index("--data") + 1]), None)
    assert (root, list(sets), is_stamps) == (tmp_path / name, ["s4"], False)
