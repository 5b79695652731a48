"""The ablation study: its rows differ in what they say, stand-ins take the part's place, tables and tests add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_guided import random_batch, small_model

from icf_avs.errors import UserError
from icf_avs.evaluation.metrics import StrictMetric
from icf_avs.guided_losses.total_loss import Weights, objective
from icf_avs.types import VisualFeatures
from research.__main__ import main
from research.ablation import PARTS, RUNS, SCORES, parts_path, pending
from research.ablation_rows import ROWS, teaching
from research.ablation_variants import replace_part
from research.scoring import TestClip, probabilities, score
from research.summary import pairs_table, rows_table, summaries

pytestmark = pytest.mark.full

CONTROLS = ("random", "shuffled", "dropout", "video", "segment", "frame", "cosine")
TestClip.__test__ = False


def test_every_row_is_another_run() -> None:
    digests = {name: row.digest(row.config(0, 600)) for name, row in ROWS.items()}
    assert len(set(digests.values())) == len(ROWS)
    other = {name: row.digest(row.config(3, 600)) for name, row in ROWS.items()}
    assert not set(other.values()) & set(digests.values()), "another seed sees other scenes"
    assert digests["all"] != ROWS["all"].digest(ROWS["all"].config(0, 300))
    assert sum(row.main for row in ROWS.values()) == 9


def test_the_rows_are_still_the_runs_in_results() -> None:
    """Settings that came later change no row: the study stays on plain scenes and sounds, whatever is shipped. All
    seeds of the table have the scenes of seed 0.
    """
    lines = RUNS.read(Path(__file__).parents[1] / "results" / "ablation.csv")
    for line in lines:
        row = ROWS[line["row"]]
        config = row.config(int(line["seed"]), int(line["steps"]))
        config = replace(config, data=replace(config.data, seed=0))
        assert row.digest(config) == line["config_hash"], line["row"]
    run = ROWS["all"].config(0, 600)
    assert ROWS["all"].digest(run) == "dd04dc2fbd3a"
    for data in (replace(run.data, audio_augment=True), replace(run.data, hard_fraction=0.5)):
        assert ROWS["all"].digest(replace(run, data=data)) != "dd04dc2fbd3a"
    assert teaching(0).data == run.data


@pytest.mark.parametrize("control", CONTROLS)
def test_a_stand_in_trains(control: str) -> None:
    model = small_model()
    replace_part(model, control)
    batch = random_batch()
    output = model(batch.visual, batch.waveforms, batch.valid, sounding=batch.sounding)
    terms = objective(output, batch, model.network.joint_embedding, Weights())
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    assert all(p.grad is not None for p in model.network.decoder.parameters())


def rivals_of(control: str, clips: int = 6):
    """The rivals of one batch, the sounds they rival, and their mean."""
    model = small_model()
    replace_part(model, control)
    part = model.network.counterfactual
    batch = random_batch(clips=clips)
    sound = torch.randn(clips, 2, 32) + 3
    counterfactuals = part(sound, batch.sounding, batch.valid)
    return counterfactuals, sound, part.mean, batch.sounding.any(1)


def test_shuffled_sounds_are_those_of_other_clips() -> None:
    counterfactuals, sound, _, kinds = rivals_of("shuffled")
    for clip in range(len(sound)):
        match = (counterfactuals.sounds[0, clip] == sound).flatten(1).all(1)
        assert match.sum() == 1 and not match[clip]
        assert not (kinds[match.nonzero()[0, 0]] & kinds[clip]).any()


@pytest.mark.parametrize("level", ["video", "segment", "frame"])
def test_one_level_reads_its_scope_alone(level: str) -> None:
    model = small_model()
    replace_part(model, level)
    text = model.network.implicit_text.eval()
    sound, visual = torch.randn(1, 5, 32), torch.randn(1, 5, 9, 32)
    valid = torch.ones(1, 5, dtype=torch.bool)
    before = text(sound, visual, valid)["frame"]
    assert before.shape == (1, 5, 2, 32)
    visual[:, 4] += 1
    changed = (text(sound, visual, valid)["frame"] != before).flatten(2).any(2)[0].tolist()
    # segments of two frames: the last one is alone
    assert changed == {"video": [True] * 5, "segment": [False] * 4 + [True], "frame": [False] * 4 + [True]}[level]
    visual[:, 3] += 1
    changed = (text(sound, visual, valid)["frame"] != before).flatten(2).any(2)[0].tolist()
    assert changed[2] == (level != "frame") and changed[3]


def clips_of(model, count: int = 4) -> list[TestClip]:
    """Two sets of two clips with one, two, two, three candidates."""
    batch = random_batch(clips=count)
    waves = torch.randn(4, count, 2, 15_600)
    truth = torch.zeros(count, 2, 64, 64, dtype=torch.bool)
    truth[:, :, :32, :20] = True
    truth[1, 1] = False
    labelled = torch.ones(2, dtype=torch.bool)
    return [
        TestClip(
            "s4" if i < 2 else "ms3",
            [level[i : i + 1].half() for level in batch.pyramid],
            waves[:, i],
            truth[i],
            labelled,
            (1, 2, 2, 3)[i],
        )
        for i in range(count)
    ]


def test_scores_are_those_of_the_model_itself() -> None:
    """Four sounds decoded together give what the model's forward pass gives one by one."""
    model = small_model().eval()
    clips = clips_of(model)
    scores, parts = score(model, clips)
    metric = StrictMetric()
    for clip in clips:
        visual = VisualFeatures([level.float() for level in clip.pyramid])
        with torch.no_grad():
            logits = model(visual, clip.waveforms[3][None], torch.ones(1, 2, dtype=torch.bool)).logits[0]
        alone = torch.nn.functional.interpolate(logits[:, None], (64, 64), mode="bilinear", align_corners=False)
        assert torch.allclose(probabilities(model, clip)[3], alone[:, 0].sigmoid(), atol=1e-5)
        metric.update(alone[:, 0].sigmoid(), clip.truth)
    assert scores["miou_offscreen"] == pytest.approx(metric.compute()["miou"], abs=1e-4)
    assert scores["fpr_offscreen"] == pytest.approx(metric.compute()["active"], abs=1e-4)
    frames = {(part["test_set"], part["candidates"]): part["frames"] for part in parts}
    assert frames == {
        ("all", "any"): 8, ("s4", "any"): 4, ("ms3", "any"): 4, ("all", "1"): 2, ("all", "2"): 4, ("all", "3"): 2
    }  # fmt: skip


def a_run(row: str, seed: int, miou: float, g: float = 0.7) -> tuple[dict[str, str], list[dict[str, str]]]:
    scores = dict.fromkeys(SCORES, "0.1000") | {"miou": f"{miou:.4f}", "g_miou": f"{g:.4f}"}
    config = ROWS[row].config(seed, 600)
    line = {"row": row, "seed": str(seed), **scores, "steps": "600", "minutes": "1", "hardware": "x", "revision": "r"}
    line["config_hash"] = ROWS[row].digest(config)
    parts = [
        {"row": row, "seed": str(seed), "test_set": "all", "candidates": n, "frames": f, **scores, "miou": m}
        for n, f, m in (("1", "50", "0.9"), ("2", "10", f"{miou:.4f}"), ("3", "30", f"{miou - 0.2:.4f}"))
    ]
    return line, parts


def add(table: Path, line: dict[str, str], parts: list[dict[str, str]]) -> None:
    RUNS.replace(table, (line["row"], line["seed"]), [line])
    PARTS.replace(parts_path(table), (line["row"], line["seed"]), parts)


def test_the_table_keeps_runs_apart_and_says_what_is_left(tmp_path: Path) -> None:
    table = tmp_path / "ablation.csv"
    teach, jobs = pending(table, tmp_path, list(ROWS), 3, 600)
    assert len(jobs) == 3 * len(ROWS) and [job.seed for job in teach] == [0, 1, 2]
    assert [ROWS[job.row].main for job in jobs] == [True] * 27 + [False] * (len(jobs) - 27)
    assert [job.seed for job in jobs[:27]] == [0] * 9 + [1] * 9 + [2] * 9
    add(table, *a_run("all", 0, 0.5))
    add(table, *a_run("baseline", 1, 0.4))
    add(table, *a_run("all", 0, 0.6))
    assert [(line["row"], line["miou"]) for line in RUNS.read(table)] == [
        ("baseline", "0.4000"),
        ("all", "0.6000"),
    ]
    assert len(PARTS.read(parts_path(table))) == 6
    (tmp_path / "taught-seed1").mkdir()
    (tmp_path / "taught-seed1" / "audio.safetensors").touch()
    teach, jobs = pending(table, tmp_path, ["baseline", "all"], 2, 600)
    assert [(job.row, job.seed) for job in jobs] == [("baseline", 0), ("all", 1)] and [job.seed for job in teach] == [0]
    _, jobs = pending(table, tmp_path, ["baseline", "all"], 2, 700)
    assert len(jobs) == 4  # other runs than those of the table
    table.write_text("a,b\n")
    with pytest.raises(UserError, match="not a table of these runs"):
        RUNS.read(table)


def test_summary_by_hand(tmp_path: Path) -> None:
    runs = [a_run("baseline", s, m, g) for s, (m, g) in enumerate([(0.50, 0.6), (0.52, 0.6), (0.54, 0.6)])]
    runs += [a_run("all", s, m, g) for s, (m, g) in enumerate([(0.61, 0.8), (0.62, 0.8), (0.66, 0.8)])]
    lines, parts = [run[0] for run in runs], [part for run in runs for part in run[1]]
    rows = {line["row"]: line for line in rows_table(lines)}
    assert rows["baseline"]["miou"] == "0.520 ± 0.020" and rows["all"]["seeds"] == "3"
    pairs = {(line["question"], line["scenes"], line["score"]): line for line in pairs_table(lines, parts)}
    whole = pairs["the whole method", "all", "miou"]
    assert (whole["difference"], whole["deviations"]) == ("+0.1100", "+5.5")
    assert float(whole["p"]) == pytest.approx(0.0027, abs=6e-4)  # t = .11 / (.01 / sqrt 3) = 19.05 at 2 degrees
    assert pairs["the whole method", "2 or 3 candidates", "miou"]["difference"] == "+0.1100"
    assert pairs["the whole method", "all", "g_miou"]["deviations"] == ""  # the row it is compared with does not vary
    assert set(pairs) == {key for key in pairs if key[0] == "the whole method"}


def test_the_plots_are_drawn(tmp_path: Path) -> None:
    from research.plots import counterfactuals, four_sounds, reliance

    lines = [a_run(row, seed, 0.5 + 0.01 * seed)[0] for row in ("baseline", "all") for seed in range(3)]
    model = small_model()
    reliance(lines, tmp_path / "a.png")
    reliance(lines, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    counterfactuals(model, random_batch(clips=4), tmp_path / "c.png")
    clip = clips_of(model)[0]
    four_sounds(
        {"one": model, "two": model}, clip, torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), 0, tmp_path / "d.png"
    )
    assert all((tmp_path / f"{name}.png").stat().st_size > 5_000 for name in "acd")


def test_the_summary_in_results_is_that_of_its_runs() -> None:
    table = Path(__file__).parents[1] / "results" / "ablation.csv"
    lines, parts = RUNS.read(table), PARTS.read(parts_path(table))
    assert lines and {line["row"] for line in lines} <= set(ROWS)
    for path, text in summaries(table, lines, parts).items():
        assert path.read_text(encoding="utf-8") == text, "run `python -m research summary`"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--rows shipped --out runs", "takes no --out"),
        ("--rows shipped open --seeds 2", "take no --seeds"),
        ("--rows open-mit --steps 20", "take no --steps"),
    ],
)
def test_an_option_without_effect_is_refused(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["natural", *line.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["ablation --out {}/x", "ablation --results {}", "natural --out {}/x", "summary --pictures {}/x"]
)
def test_where_a_result_cannot_be_put_one_line_says_so(line, tmp_path, capsys) -> None:
    place = tmp_path / "place"
    place.mkdir() if line.endswith("{}") else place.write_text("mine")
    assert main(line.format(place).split()) == 2
    assert str(place) in (said := capsys.readouterr().err) and said.count("\n") == 1


@pytest.mark.parametrize("line", ["ablation --rows all --seeds 9 --out {}", "natural --out {}"])
def test_a_device_that_is_not_here_is_refused(line, tmp_path, capsys) -> None:
    assert main([*line.format(tmp_path / "out").split(), "--device", "cuda:7"]) == 2
    assert "not on this machine" in capsys.readouterr().err and not (tmp_path / "out").exists()
