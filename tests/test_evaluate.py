"""Evaluation with models whose scores are known: one that hears perfectly, and one that is deaf."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import icf_avs.evaluate as evaluation
from icf_avs.avsbench.layouts import read_set
from icf_avs.contracts import ClipSpec, Prediction
from icf_avs.data.windows import windows
from icf_avs.errors import UserError
from icf_avs.evaluate import AUDIOS, evaluate, evaluate_command
from icf_avs.probe.sounds import donors, heard
from icf_avs.results import COLUMNS, read_rows, revision


class Listener:
    """Knows the tiny sets: marks the object of the picture exactly if the sound is that object's tone."""

    classes = ()

    def __init__(self, spec: ClipSpec, deaf: bool = False) -> None:
        self.spec, self.deaf, self.lengths = spec, deaf, []

    def predict(self, frames, waves):
        assert frames.dtype == torch.uint8 and frames.shape[1:] == (self.spec.image_size,) * 2 + (3,)
        assert waves.dtype == torch.float32 and waves.shape == (len(frames), self.spec.window)
        self.lengths.append(len(frames))
        logits = torch.full((len(frames), 56, 56), -9.0)
        for picture, wave, out in zip(frames, waves, logits, strict=True):
            spectrum = torch.fft.rfft(wave).abs()
            hertz = int(spectrum.argmax()) * self.spec.sample_rate / self.spec.window
            tone = spectrum.max() > 0.03 * spectrum.sum()  # all in a few of 7801 bins; false for silence
            index = round(int(picture[0, 0, 1]) / 50)
            if self.deaf or (tone and round(hertz / 200) == index + 1):
                out[:, : 10 * (index + 1)] = 9.0
        return Prediction(logits, torch.zeros(len(frames), 0), ())


@pytest.fixture
def records(tiny):
    return read_set(tiny.s4("test", ["dog", "cat", "hen"]), "test")


def test_a_perfect_listener_and_a_deaf_model(records):
    spec = ClipSpec()
    for audio in AUDIOS:
        hearing, deaf = evaluate(Listener(spec), records, audio), evaluate(Listener(spec, deaf=True), records, audio)
        for protocol in ("reference", "strict"):
            assert deaf[protocol]["miou"] > 0.97 and deaf[protocol]["f"] > 0.97  # blind to the sound: always the same
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


def test_unlabelled_frames_are_not_scored(tiny):
    records = read_set(tiny.s4("train", ["dog"]), "train")
    scores = evaluate(Listener(ClipSpec()), records)
    assert scores["reference"]["miou"] > 0.97 and np.isnan(scores["strict"]["fpr_empty"])


def test_negative_sounds(records):
    clip = records[0].load()
    assert not heard(clip, records, 0, "silence", 0).any()
    noise = heard(clip, records, 0, "noise", 0)
    assert noise.dtype == np.float32 and noise.shape == clip.wave.shape
    assert noise.std() == pytest.approx(clip.wave.std(), rel=0.02)
    np.testing.assert_array_equal(noise, heard(clip, records, 0, "noise", 0))
    assert not np.array_equal(noise, heard(clip, records, 0, "noise", 1))
    assert not np.array_equal(noise, heard(clip, records, 1, "noise", 0))
    chosen = {int(np.abs(np.fft.rfft(heard(clip, records, 0, "offscreen", seed))).argmax()) // 5 for seed in range(12)}
    assert chosen == {400, 600}  # the tones of the other two clips, never its own


def test_donors_share_no_kind_with_the_picture(tiny):
    records = read_set(tiny.s4("test", ["dog", "cat", "dog"]), "test")
    assert [donors(records, i) for i in range(3)] == [[1], [0, 2], [1]]
    with pytest.raises(UserError, match="on screen"):
        donors(records[::2], 0)
    with pytest.raises(ValueError, match="audio"):
        evaluate(Listener(ClipSpec()), records, "nothing")


def test_windows_are_centred_and_padded():
    spec = ClipSpec(sample_rate=100, window=400)
    cut = windows(np.arange(1, 501, dtype=np.float32), spec, 5)
    assert cut.shape == (5, 400)
    assert cut[0, :150].sum() == 0 and cut[0, 150] == 1  # begins 1.5 s before the wave
    assert cut[2, 0] == 51 and cut[2, -1] == 450
    assert cut[4, 249] == 500 and cut[4, 250:].sum() == 0
    assert not windows(np.zeros(0, np.float32), spec, 2).any()


def test_the_command_writes_table_and_notes(tiny, tmp_path, monkeypatch, capsys):
    tiny.root = tmp_path / "data/Single-source"
    tiny.s4("test", ["dog", "cat", "hen"])
    tiny.root = tmp_path / "data/Multi-sources"
    tiny.ms3("test", 2)
    loaded = SimpleNamespace(model=Listener(ClipSpec()), name="listener")
    monkeypatch.setattr("icf_avs.load", lambda checkpoint: loaded, raising=False)
    out = tmp_path / "results/scores.csv"
    monkeypatch.setattr(evaluation, "default_sets", lambda: pytest.fail("--data was given"))
    evaluate_command(None, tmp_path / "data", ["s4", "ms3"], out, clips=2, seed=3)
    rows = read_rows(out)
    assert tuple(rows[0]) == COLUMNS
    assert [row["audio"] for row in rows if (row["test_set"], row["protocol"]) == ("s4", "strict")] == list(AUDIOS)
    assert {row["audio"] for row in rows if row["test_set"] == "ms3"} == {"true", "silence", "noise"}  # no scenes.csv
    assert rows[0]["clips"] == "2" and rows[0]["seed"] == "3" and rows[0]["fpr"] == ""
    assert rows[0]["revision"] == revision()
    notes = json.loads(out.with_suffix(".json").read_text())
    assert set(notes) == {"listener s4", "listener ms3"}
    assert notes["listener s4"]["hardware"]["threads"] == 1
    assert notes["listener s4"]["strict"]["true"]["fpr_empty"] is None
    assert "listener" in capsys.readouterr().out
    evaluate_command(None, tmp_path / "data", ["s4"], out, clips=1, seed=0)
    again = read_rows(out)
    assert len(again) == len(rows) and {row["clips"] for row in again if row["test_set"] == "s4"} == {"1"}
