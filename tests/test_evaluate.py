"""Evaluation of models with known scores: one uses the audio perfectly, one ignores it."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace

import numpy as np
import pytest
from listener import Listener, loads

import icf_avs.evaluation.test_sets as evaluation
from icf_avs.__main__ import main
from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.evaluation.command import evaluate_command
from icf_avs.evaluation.evaluate import AUDIOS, evaluate, evaluate_each
from icf_avs.evaluation.robustness.negative_audio import altered_audio, donors
from icf_avs.evaluation.test_sets import load_task
from icf_avs.media.audio_windows import clip_windows, cut_windows
from icf_avs.provenance import revision
from icf_avs.score_tables import COLUMNS, SCORES, ScoringSettings
from icf_avs.types import ClipSpec


@pytest.fixture
def records(tiny):
    return read_set(tiny.s4("test", ["dog", "cat", "hen"]), "test")


def test_a_perfect_listener_and_a_deaf_model(records):
    spec = ClipSpec()
    for audio in AUDIOS:
        hearing, deaf = evaluate(Listener(spec), records, audio), evaluate(Listener(spec, deaf=True), records, audio)
        for protocol in ("reference", "strict"):
            assert deaf[protocol]["miou"] > 0.97 and deaf[protocol]["f"] > 0.97  # always the same masks
            if audio == "true":
                assert hearing[protocol]["miou"] > 0.97
                assert np.isnan(hearing[protocol]["fpr"])  # no frame with empty ground truth
            else:
                assert hearing[protocol]["miou"] == 0 and hearing[protocol]["fpr"] == 0
                assert deaf[protocol]["fpr"] == pytest.approx((40 + 80 + 120) / 3 / 224, abs=0.01)


def test_fpr_of_the_true_sound_is_over_frames_with_empty_truth(tiny):
    records = read_set(tiny.ms3("test", 2), "test")  # the last mask of each clip is empty, but the tone goes on
    scores = evaluate(Listener(ClipSpec()), records)
    assert scores["strict"]["fpr"] == pytest.approx((40 + 80) / 2 / 224, abs=0.01)
    assert scores["strict"]["miou"] > 0.97 > scores["reference"]["miou"]


def test_another_image_size_and_long_clips(tiny):
    model = Listener(ClipSpec(frames=4, image_size=64))
    assert evaluate(model, read_set(tiny.avss("test", ["v2"]), "test"))["strict"]["miou"] > 0.9
    assert model.lengths == [4, 4, 2]


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


def test_size_applies_to_frames_and_masks(tiny):
    seen = []

    class Watching(Listener):
        def predict(self, frames, waves):
            seen.append(tuple(frames.shape))
            return super().predict(frames, waves)

    records = read_set(tiny.avss("test", ["v1m"]), "test")  # 320 x 240
    model = Watching(ClipSpec())
    model.deaf = True
    loaded = []
    load = type(records[0]).load
    spy = SimpleNamespace(**vars(records[0]), load=lambda size: loaded.append(size) or load(records[0], size))
    for size in (224, 512, None):
        assert evaluate(model, [spy], settings=ScoringSettings(size=size))["strict"]["miou"] > 0.95
    assert loaded == [224, 512, None] and set(seen) == {(5, 224, 224, 3)}  # the network's size stays


def test_frames_are_encoded_once_for_all_sounds(tiny):
    class Once(Listener):
        encoded = 0

        def predict_each(self, frames, sounds):
            self.encoded += 1
            return super().predict_each(frames, sounds)

    records = read_set(tiny.ms3("test", 2), "test")
    model, audios = Once(ClipSpec()), ("true", "silence", "noise")
    found = evaluate_each(model, records, audios)
    assert model.encoded == 2 and tuple(found) == audios
    for audio in audios:
        np.testing.assert_equal(found[audio], evaluate(Listener(ClipSpec()), records, audio))
    assert evaluate(model, records)["strict"] == found["true"]["strict"]
    with pytest.raises(ValueError, match="audio is 'loud'"):
        evaluate_each(model, records, ("true", "loud"))


def test_labels_say_which_settings_differ():
    usual = ScoringSettings()
    for protocol in ("reference", "strict", "dataset", "classes-masked", "classes-argmax-nobg"):
        assert usual.labels("s4", protocol) == ("s4", protocol)
    assert ScoringSettings(size=512).labels("s4", "strict") == ("s4-512", "strict")
    assert ScoringSettings(size=None).labels("avss", "reference") == ("avss-native", "reference")
    other = ScoringSettings(threshold=0.4, batch_size=1)
    labels = [other.labels("s4", name)[1] for name in ("reference", "strict", "dataset-2classes")]
    assert labels == ["reference-b1-t0.4", "strict-t0.4", "dataset-2classes-t0.4"]
    assert other.labels("avss", "classes-masked-nobg")[1] == "classes-masked-nobg-t0.4"
    assert other.labels("avss", "classes-argmax")[1] == "classes-argmax"


def test_unlabelled_frames_are_not_scored(tiny):
    records = read_set(tiny.s4("train", ["dog"]), "train")
    scores = evaluate(Listener(ClipSpec()), records)
    assert scores["reference"]["miou"] > 0.97 and np.isnan(scores["strict"]["fpr_empty"])


def test_negative_sounds(records):
    clip = records[0].load()
    assert not altered_audio(clip, records, 0, "silence", 0).any()
    noise = altered_audio(clip, records, 0, "noise", 0)
    assert noise.dtype == np.float32 and noise.shape == clip.waveform.shape
    assert noise.std() == pytest.approx(clip.waveform.std(), rel=0.02)
    np.testing.assert_array_equal(noise, altered_audio(clip, records, 0, "noise", 0))
    assert not np.array_equal(noise, altered_audio(clip, records, 0, "noise", 1))
    assert not np.array_equal(noise, altered_audio(clip, records, 1, "noise", 0))
    waves = (altered_audio(clip, records, 0, "offscreen", seed) for seed in range(12))
    chosen = {int(np.abs(np.fft.rfft(wave)).argmax()) // 5 for wave in waves}
    assert chosen == {400, 600}  # the tones of the other two clips, never its own


def test_donors_share_no_class_with_the_clip(tiny):
    records = read_set(tiny.s4("test", ["dog", "cat", "dog"]), "test")
    assert [donors(records, i) for i in range(3)] == [[1], [0, 2], [1]]
    with pytest.raises(UserError, match="on screen"):
        donors(records[::2], 0)
    with pytest.raises(ValueError, match="audio"):
        evaluate(Listener(ClipSpec()), records, "nothing")


def test_windows_are_centred_and_padded():
    spec = ClipSpec(sample_rate=100, window=400)
    cut = cut_windows(np.arange(1, 501, dtype=np.float32), spec, 5)
    assert cut.shape == (5, 400)
    assert cut[0, :150].sum() == 0 and cut[0, 150] == 1  # begins 1.5 s before the wave
    assert cut[2, 0] == 51 and cut[2, -1] == 450
    assert cut[4, 249] == 500 and cut[4, 250:].sum() == 0
    assert not cut_windows(np.zeros(0, np.float32), spec, 2).any()


def test_windows_have_the_sample_rate_of_the_model():
    """A tone of 1 kHz stays one when resampled from 16 kHz, the rate of clips, to 32 kHz."""
    spec = ClipSpec(sample_rate=32_000, window=31_200)
    tone = np.sin(2 * np.pi * 1000 * np.arange(3 * 16_000) / 16_000).astype(np.float32)
    expected = np.sin(2 * np.pi * 1000 * np.arange(3 * 32_000) / 32_000)
    for index, cut in enumerate(clip_windows(tone, spec, 3)):
        start = spec.window_start(index)
        np.testing.assert_allclose(cut[500:-500], expected[start + 500 : start + 30_700], atol=2e-3)
    assert clip_windows(np.zeros(0, np.float32), spec, 2).shape == (2, 31_200)


def cells(path):
    return {(row["test_set"], row["protocol"], row["audio"]): row for row in SCORES.read(path)}


def test_other_settings_have_separate_rows(tiny, tmp_path, monkeypatch):
    tiny.root = tmp_path / "data/Single-source"
    tiny.s4("test", ["dog", "cat", "hen"])
    loads(Graded(ClipSpec()), monkeypatch, "graded")
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "--data", "data", "--sets", "s4", "--out", "scores.csv"]
    path = tmp_path / "scores.csv"
    assert main(command) == 0
    usual = cells(path)
    assert {key[:2] for key in usual} == {("s4", p) for p in ("reference", "strict", "dataset", "dataset-2classes")}
    assert usual["s4", "dataset", "true"]["miou"] != usual["s4", "strict", "true"]["miou"] != ""
    assert main([*command, "--threshold", "0.4", "--batch-size", "1", "--clips", "2"]) == 0
    both = cells(path)
    assert both.items() >= usual.items()
    new = {key[1] for key in both.keys() - usual.keys()}
    assert new == {"reference-b1-t0.4", "strict-t0.4", "dataset-t0.4", "dataset-2classes-t0.4"}
    assert main([*command, "--batch-size", "1"]) == 0  # strict and dataset do not depend on batches
    assert {key[1] for key in cells(path).keys() - both.keys()} == {"reference-b1"}
    assert main([*command, "--size", "64"]) == 0 and main([*command, "--native", "--clips", "1"]) == 0
    everything = cells(path)
    assert {key[0] for key in everything} == {"s4", "s4-64", "s4-native"} and everything.items() >= both.items()
    notes = json.loads(path.with_suffix(".json").read_text())
    who = f"graded {usual['s4', 'strict', 'true']['digest']} data"
    names = {f"{who} {name}" for name in ("s4", "s4 reference-b1-t0.4", "s4 reference-b1", "s4-64", "s4-native")}
    assert set(notes) == names and notes[f"{who} s4 reference-b1-t0.4"]["threshold"] == 0.4
    for wrong in (["--size", "64", "--native"], ["--threshold", "40"], ["--batch-size", "0"], ["--size", "0"]):
        with pytest.raises(SystemExit):
            main([*command, *wrong])


def test_scores_that_cannot_be_saved_are_printed(tiny, tmp_path, monkeypatch, capsys):
    """The disk fills up during evaluation."""
    tiny.root = tmp_path / "data/Single-source"
    tiny.s4("test", ["dog", "cat", "hen"])
    loads(Listener(ClipSpec()), monkeypatch, "listener")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("icf_avs.atomic_io.os.replace", full)
    line = ["--data", str(tmp_path / "data"), "--clips", "2", "--out", str(tmp_path / "out.csv")]
    for robustness in ([], ["--robustness"]):
        assert main(["evaluate", *robustness, *line]) == 2
        printed = capsys.readouterr()
        assert "listener" in printed.out and "offscreen" in printed.out
        assert "cannot be written (No space left on device)" in printed.err.splitlines()[-1]


def opened(data, sets=None, split="test"):
    return load_task(Listener(ClipSpec()), "listener", None, data, sets, split)


def test_a_set_whose_clips_share_all_sounds_has_no_off_screen_row(tiny, tmp_path, capsys):
    tiny.root = tmp_path / "data/Single-source"
    tiny.s4("test", ["dog", "dog"])
    out = tmp_path / "scores.csv"
    evaluate_command(opened(tmp_path / "data"), out, clips=None, seed=0)
    assert {row["audio"] for row in SCORES.read(out)} == {"true", "silence", "noise"}
    said = "s4: no off-screen row, clip -clip_00000 has no off-screen sound to choose from"
    assert any(said in line for line in capsys.readouterr().err.splitlines())


def test_the_validation_split_has_separate_rows(tiny, tmp_path):
    tiny.root = tmp_path / "data/Multi-sources"
    tiny.ms3("val", 2)
    out = tmp_path / "scores.csv"
    evaluate_command(opened(tmp_path / "data", split="val"), out, clips=None, seed=0)
    assert {row["test_set"] for row in SCORES.read(out)} == {"ms3-val"}
    with pytest.raises(UserError, match="no clip of split 'test'"):
        evaluate_command(opened(tmp_path / "data"), out, clips=None, seed=0)


def test_the_command_writes_table_and_notes(tiny, tmp_path, monkeypatch, capsys):
    tiny.root = tmp_path / "data/Single-source"
    tiny.s4("test", ["dog", "cat", "hen"])
    tiny.root = tmp_path / "data/Multi-sources"
    tiny.ms3("test", 2)
    out = tmp_path / "results/scores.csv"
    monkeypatch.setattr(evaluation, "default_sets", lambda split: pytest.fail("--data was given"))
    evaluate_command(opened(tmp_path / "data", ["s4", "ms3"]), out, clips=2, seed=3)
    rows = SCORES.read(out)
    assert tuple(rows[0]) == COLUMNS
    assert [row["audio"] for row in rows if (row["test_set"], row["protocol"]) == ("s4", "strict")] == list(AUDIOS)
    assert {row["audio"] for row in rows if row["test_set"] == "ms3"} == {"true", "silence", "noise"}  # no scenes.csv
    assert rows[0]["clips"] == "2" and rows[0]["seed"] == "3" and rows[0]["fpr"] == ""
    assert rows[0]["revision"] == revision()
    notes = json.loads(out.with_suffix(".json").read_text())
    who = f"listener {rows[0]['digest']} {tmp_path / 'data'}"
    assert set(notes) == {f"{who} s4", f"{who} ms3"}
    assert notes[f"{who} s4"]["hardware"]["threads"] == 1
    assert notes[f"{who} s4"]["strict"]["true"]["fpr_empty"] is None
    assert "listener" in capsys.readouterr().out
    evaluate_command(opened(tmp_path / "data", ["s4"]), out, clips=1, seed=0)
    again = SCORES.read(out)
    assert len(again) == len(rows) and {row["clips"] for row in again if row["test_set"] == "s4"} == {"1"}
