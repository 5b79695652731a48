"""Evaluation of models with known scores: one uses the audio perfectly, one ignores it."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from listener import Listener, loads

from icf_avs.__main__ import main
from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.evaluation.command import evaluate_command
from icf_avs.evaluation.evaluate import AUDIOS, evaluate, evaluate_each
from icf_avs.evaluation.robustness.negative_audio import altered_audio
from icf_avs.evaluation.test_sets import load_task
from icf_avs.media.audio_windows import clip_windows, cut_windows
from icf_avs.provenance import revision
from icf_avs.score_tables import SCORES, ScoringSettings
from icf_avs.types import ClipSpec


@pytest.fixture
def records(tiny):
    return read_set(tiny.s4("test", ["dog", "cat", "hen"]), "test")


@pytest.mark.parametrize("audio", AUDIOS)
def test_a_perfect_listener_and_a_deaf_model(audio, records):
    hearing, deaf = (evaluate(Listener(ClipSpec(), deaf), records, audio) for deaf in (False, True))
    for protocol in ("reference", "strict"):
        assert deaf[protocol]["miou"] > 0.97 and deaf[protocol]["f"] > 0.97  # always the same masks
        if audio == "true":
            assert hearing[protocol]["miou"] > 0.97
            assert np.isnan(hearing[protocol]["fpr"])  # no frame with empty ground truth
        else:
            assert hearing[protocol]["miou"] == 0 and hearing[protocol]["fpr"] == 0
            assert deaf[protocol]["fpr"] == pytest.approx((40 + 80 + 120) / 3 / 224, abs=0.01)


def test_frames_that_count(tiny):
    """For the true sound `fpr` is over frames with empty truth; unlabelled frames count nowhere; clips may be long."""
    records = read_set(tiny.ms3("test", 2), "test")  # the last mask of each clip is empty, but the tone goes on
    scores = evaluate(Listener(ClipSpec()), records)
    assert scores["strict"]["fpr"] == pytest.approx((40 + 80) / 2 / 224, abs=0.01)
    assert scores["strict"]["miou"] > 0.97 > scores["reference"]["miou"]
    tiny.root /= "labelled-in-part"
    scores = evaluate(Listener(ClipSpec()), read_set(tiny.s4("train", ["dog"]), "train"))
    assert scores["reference"]["miou"] > 0.97 and np.isnan(scores["strict"]["fpr_empty"])
    model, loaded = Listener(ClipSpec(frames=4, image_size=64)), []
    tiny.root /= "long"
    (record,) = read_set(tiny.avss("test", ["v2"]), "test")
    spy = SimpleNamespace(**vars(record), load=lambda size: loaded.append(size) or record.load(size))
    for size in (224, 512, None):  # of frames and masks; the network's stays, as the model checks
        assert evaluate(model, [spy], settings=ScoringSettings(size=size))["strict"]["miou"] > 0.9
    assert model.lengths == [4, 4, 2] * 3 and loaded == [224, 512, None]


class Graded(Listener):
    """Marks the left half with certainty and the next quarter with probability 0.45."""

    def predict(self, frames, waves):
        found = super().predict(frames, waves)
        found.logits[:] = -9.0
        found.logits[..., :28] = 9.0
        found.logits[..., 28:42] = float(np.log(0.45 / 0.55))
        return found


def test_settings_of_other_protocols(records):
    """Against the formulas: clip i has its object in the columns below 40 (i + 1)."""
    model = Graded(ClipSpec())
    usual, lower = evaluate(model, records), evaluate(model, records, settings=ScoringSettings(threshold=0.4))
    for scores, marked in ((usual, 112), (lower, 168)):
        ious = [min(wide, marked) / max(wide, marked) for wide in (40, 80, 120)]
        inter, union = (sum(side(wide, marked) for wide in (40, 80, 120)) for side in (min, max))
        assert scores["strict"]["miou"] == pytest.approx(np.mean(ious), abs=0.01)
        assert scores["reference"]["miou"] == pytest.approx(np.mean(ious), abs=0.01)
        assert scores["dataset"]["miou"] == pytest.approx(inter / union, abs=0.01)
        blank = (3 * 224 - union) / (3 * 224 - inter)
        assert scores["dataset-2classes"]["miou"] == pytest.approx((inter / union + blank) / 2, abs=0.01)
    assert usual["strict"]["f"] == lower["strict"]["f"] and usual["reference"]["f"] == lower["reference"]["f"]
    assert lower["dataset"]["f"] < usual["dataset"]["f"]
    silent = evaluate(model, records, "silence", settings=ScoringSettings(threshold=0.4))
    assert silent["dataset"]["fpr"] == pytest.approx(168 / 224, abs=0.01)
    # whether the best threshold keeps the uncertain quarter differs by clip
    alone = evaluate(model, records, settings=ScoringSettings(batch_size=1))
    assert alone["reference"]["f"] > usual["reference"]["f"] == pytest.approx(usual["strict"]["f"])
    np.testing.assert_equal(alone["strict"], usual["strict"])


def test_several_sounds_at_once_and_their_seeds(records):
    found = evaluate_each(Listener(ClipSpec()), records, AUDIOS[:3])
    for audio in AUDIOS[:3]:
        np.testing.assert_equal(found[audio], evaluate(Listener(ClipSpec()), records, audio))
    clip = records[0].load()
    first, again, other = (altered_audio(clip, records, 0, "noise", seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    waves = (altered_audio(clip, records, 0, "offscreen", seed) for seed in range(12))
    chosen = {int(np.abs(np.fft.rfft(wave)).argmax()) // 5 for wave in waves}
    assert chosen == {400, 600}  # the tones of the other two clips, never its own


def test_audio_windows():
    """Centred, padded, and of the model's sample rate: clips have 16 kHz."""
    cut = cut_windows(np.arange(1, 501, dtype=np.float32), ClipSpec(sample_rate=100, window=400), 5)
    assert cut.shape == (5, 400)
    assert cut[0, :150].sum() == 0 and cut[0, 150] == 1  # begins 1.5 s before the wave
    assert cut[2, 0] == 51 and cut[2, -1] == 450
    assert cut[4, 249] == 500 and cut[4, 250:].sum() == 0
    spec = ClipSpec(sample_rate=32_000, window=31_200)
    tone, expected = (
        np.sin(2 * np.pi * 1000 * np.arange(3 * rate) / rate).astype(np.float32) for rate in (16_000, 32_000)
    )
    for index, cut in enumerate(clip_windows(tone, spec, 3)):
        start = spec.window_start(index)
        np.testing.assert_allclose(cut[500:-500], expected[start + 500 : start + 30_700], atol=2e-3)
    for silent in (cut_windows(np.zeros(0, np.float32), spec, 2), clip_windows(np.zeros(0, np.float32), spec, 2)):
        assert silent.shape == (2, 31_200) and not silent.any()


@pytest.fixture
def data(tiny, tmp_path):
    """Folder with an S4 and an MS3 set, as AVSBench is laid out."""
    tiny.root = tmp_path / "data/Single-source"
    tiny.s4("test", ["dog", "cat", "hen"])
    tiny.root = tmp_path / "data/Multi-sources"
    tiny.ms3("test", 2)
    return tmp_path / "data"


def test_other_settings_have_separate_rows(data, monkeypatch):
    loads(Graded(ClipSpec()), monkeypatch, "graded")
    monkeypatch.chdir(data.parent)
    command, path = ["evaluate", "--data", "data", "--sets", "s4", "--out", "scores.csv"], data.parent / "scores.csv"
    others, before = {"strict", "dataset", "dataset-2classes"}, {}
    every, at_04 = {"reference", *others}, {"reference-b1-t0.4", *(f"{name}-t0.4" for name in others)}
    for options, test_set, added in (
        ("", "s4", every), ("--threshold 0.4 --batch-size 1 --clips 2", "s4", at_04),
        ("--batch-size 1", "s4", {"reference-b1"}),  # the others do not depend on batches
        ("--size 64", "s4-64", every), ("--native --clips 1", "s4-native", every),
    ):  # fmt: skip
        assert main([*command, *options.split()]) == 0
        rows = {(row["test_set"], row["protocol"]): row for row in SCORES.read(path) if row["audio"] == "true"}
        assert rows.items() >= before.items()
        assert rows.keys() - before.keys() == {(test_set, name) for name in added}
        before = rows
    notes = json.loads(path.with_suffix(".json").read_text())
    who = f"graded {before['s4', 'strict']['digest']} data s4"
    assert set(notes) == {f"{who}{name}" for name in ("", " reference-b1-t0.4", " reference-b1", "-64", "-native")}
    with pytest.raises(SystemExit):
        main([*command, "--size", "64", "--native"])


@pytest.mark.parametrize("robustness", [[], ["--robustness"]])
def test_scores_that_cannot_be_saved_are_printed(robustness, data, monkeypatch, capsys):
    """The disk fills up during evaluation."""
    loads(Listener(ClipSpec()), monkeypatch, "listener")
    monkeypatch.setattr("icf_avs.atomic_io.os.replace", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
    assert main(["evaluate", *robustness, "--data", str(data), "--clips", "1", "--out", str(data / "out.csv")]) == 2
    printed = capsys.readouterr()
    assert "listener" in printed.out and "offscreen" in printed.out
    assert "cannot be written (No space left)" in printed.err.splitlines()[-1]


def score(data, sets=None, split="test", **settings):
    """Run the command into scores.csv beside the data; return the rows."""
    task, out = load_task(Listener(ClipSpec()), "listener", None, data, sets, split), data.parent / "scores.csv"
    evaluate_command(task, out, **{"clips": None, "seed": 0} | settings)
    return SCORES.read(out)


def test_sets_without_off_screen_sounds_and_other_splits(tiny, capsys):
    data = tiny.s4("val", ["dog", "dog"])
    rows = score(data, split="val")
    assert {row["test_set"] for row in rows} == {"s4-val"} and {row["audio"] for row in rows} == set(AUDIOS[:3])
    assert "s4: no off-screen row, clip -clip_00000 has no off-screen sound" in capsys.readouterr().err
    with pytest.raises(UserError, match="no clip of split 'test'"):
        score(data)


def test_the_command_writes_table_and_notes(data, capsys):
    rows = score(data, ["s4", "ms3"], clips=2, seed=3)
    assert "listener" in capsys.readouterr().out
    assert [row["audio"] for row in rows if (row["test_set"], row["protocol"]) == ("s4", "strict")] == list(AUDIOS)
    assert {row["audio"] for row in rows if row["test_set"] == "ms3"} == {"true", "silence", "noise"}  # no scenes.csv
    assert [rows[0][name] for name in ("clips", "seed", "fpr", "revision")] == ["2", "3", "", revision()]
    notes = json.loads((data.parent / "scores.json").read_text())[f"listener {rows[0]['digest']} {data} s4"]
    assert notes["hardware"]["threads"] == 1 and notes["strict"]["true"]["fpr_empty"] is None
    again = score(data, ["s4"], clips=1)
    assert len(again) == len(rows) and {row["clips"] for row in again if row["test_set"] == "s4"} == {"1"}
