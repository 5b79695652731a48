"""Checkpoint `stamps` on real photographs and recordings, also from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import icf_avs
from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import read_recipe
from icf_avs.datasets.clip_files import write_mp4
from icf_avs.datasets.layouts import read_set
from icf_avs.evaluation.evaluate import evaluate
from icf_avs.media.audio_file import read_audio
from icf_avs.synthetic.asset_packages import stamps_root
from icf_avs.synthetic.backgrounds import list_photographs, load_background
from icf_avs.synthetic.benchmark import write_stamps

CHECKPOINTS = sorted((Path(icf_avs.__file__).parent / "pretrained").glob("*.safetensors"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("stamps")
    write_stamps(root, seed=5, test=10, video=False, workers=1)
    return read_set(root / "Multi-sources", "test")


@pytest.fixture(scope="module")
def model():
    return icf_avs.load("stamps").predictor


def test_checkpoints_are_small_and_record_their_recipe():
    assert CHECKPOINTS
    assert sum(path.stat().st_size for path in CHECKPOINTS) < 20e6
    for path in CHECKPOINTS:
        recipe = read_recipe(path)
        assert recipe["command"].startswith("icf train") and recipe["licence"] and "seed" in recipe["config"]


def test_stamps_uses_the_audio(model, records):
    """On ten unseen scenes, a model that ignores audio could not reach both scores."""
    heard, offscreen = (evaluate(model, records, audio)["strict"] for audio in ("true", "offscreen"))
    assert heard["miou"] > 0.5
    assert offscreen["miou"] < 0.2
    assert evaluate(model, records, "silence")["strict"]["fpr"] < 0.02


def test_a_photograph_with_real_speech_runs_through_the_command(tmp_path):
    """A photograph of a place with a speech recording, not a composed scene."""
    speech = read_audio(sorted(stamps_root().glob("animals/mammals/dogs/*_desc*.ogg"))[0], 16_000)[0]
    picture = np.asarray(load_background(list_photographs()[0]).resize((640, 360)))
    seconds = max(1, round(len(speech) / 16_000))
    samples = np.resize(speech, seconds * 16_000)
    video = tmp_path / "speech.mp4"
    write_mp4(video, [picture] * 25 * seconds, (640, 360), np.round(samples * 32767).astype(np.int16))
    assert main(["segment", str(video), "--out", str(tmp_path / "out"), "--fps", "2", "--checkpoint", "stamps"]) == 0
    result = tmp_path / "out" / "speech"
    told = json.loads((result / "segmentation.json").read_text())
    masks = sorted((result / "masks").glob("*.png"))
    assert len(masks) == len(told["frames"]) == 2 * seconds
    assert np.asarray(Image.open(masks[0])).shape == (360, 640)
    assert (result / "overlay.mp4").stat().st_size and (result / "sheet.png").stat().st_size
    assert told["checkpoint"] == "stamps"
