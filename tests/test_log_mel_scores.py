"""Sets with audio as log-mel windows only: trained on and evaluated from the command line."""

from __future__ import annotations

from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
import torch
from avsbench_fixtures import write_s4
from torch.nn import functional as F

from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.config import TrainConfig
from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate import evaluate, predict_each
from icf_avs.evaluation.robustness.negative_audio import altered_audio
from icf_avs.inference.predictor import Predictor
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.types import ClipSpec

pytestmark = pytest.mark.full

SPLITS = ("train", "train", "val", "test", "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "Single-source"
    kinds = ("dog", "cat", "dog", "dog", "cat")
    write_s4(folder, [(f"clip-{i:06d}", 3, kind, s) for i, (kind, s) in enumerate(zip(kinds, SPLITS, strict=True))])
    return tmp_path


def test_log_mel_alone_trains_and_is_scored(root: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(TrainConfig, "audio_pretrain_steps", 2)
    for path in (root / "Single-source").rglob("*.wav"):
        path.unlink()
    small = "--visual-encoder efficientnet-lite0 --audio-encoder log-mel --text-encoder minilm --steps 1"
    assert main(f"train s4-pvt --data Single-source {small} --out run".split()) == 0
    assert main(["evaluate", "run/s4-pvt.safetensors", "--data", ".", "--out", "scores.csv"]) == 0
    assert "no noise row" in capsys.readouterr().err
    rows = {(row["audio"], row["protocol"]): row for row in fixtures.read_table("scores.csv")}
    assert {audio for audio, _ in rows} == {"true", "silence", "offscreen"}
    model = load_checkpoint(root / "run/s4-pvt.safetensors")
    overlaps = []
    for record in read_set(root / "Single-source", "test"):  # by hand
        clip = record.load()
        logits = Predictor(model).predict(torch.from_numpy(clip.frames), torch.from_numpy(clip.log_mel)).logits
        marked = F.interpolate(logits[:, None], (224, 224), mode="bilinear")[:, 0].sigmoid() > 0.5
        truth = torch.from_numpy(clip.masks > 0)
        overlaps += ((marked & truth).sum((1, 2)) / (marked | truth).sum((1, 2))).tolist()
    assert float(rows["true", "strict"]["miou"]) == pytest.approx(np.mean(overlaps), abs=1e-4)
    assert main(["evaluate", "--robustness", "run/s4-pvt.safetensors", "--data", ".", "--out", "probed.csv"]) == 2
    assert "has its sound as log-mel windows only, and a waveform is needed" in capsys.readouterr().err


class Recorder(MaskPredictor):
    """Model that takes waveforms only."""

    def __init__(self, spec) -> None:
        self.spec = spec

    def predict(self, frames, waves):
        raise AssertionError("asked with log-mel")


def test_altered_audio_of_log_mel_sets(root: Path) -> None:
    folder = root / "Single-source"
    waves, records = read_set(folder, "test"), read_set(folder, "test", "log_mel")
    clip = records[0].load()
    np.testing.assert_array_equal(altered_audio(clip, records, 0, "true", 0), clip.log_mel)
    mute = altered_audio(waves[0].load(), waves, 0, "silence", 0)
    np.testing.assert_allclose(altered_audio(clip, records, 0, "silence", 0), fixtures.log_mel(mute)[:, 0], atol=1e-6)
    np.testing.assert_array_equal(altered_audio(clip, records, 0, "offscreen", 0), records[1].load().log_mel)
    np.testing.assert_array_equal(altered_audio(clip, records, 0, "shifted", 0)[2], clip.log_mel[0])
    with pytest.raises(UserError, match="log-mel windows only, and a waveform is needed"):
        altered_audio(clip, records, 0, "noise", 0)
    with pytest.raises(UserError, match="the model takes waveforms"):
        evaluate(Recorder(ClipSpec()), records)
    with pytest.raises(UserError, match="the model takes waveforms"):
        predict_each(Recorder(ClipSpec()), clip.frames, [clip.log_mel])
