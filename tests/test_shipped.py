"""The shipped checkpoints: `stamps` on unseen scenes, `natural` on a video; and `icf demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from listener import loads
from PIL import Image
from tagger_weights import published_weights

import icf_avs
from icf_avs import demo
from icf_avs.__main__ import main
from icf_avs.datasets.layouts import read_set
from icf_avs.evaluation.evaluate import evaluate_each
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference
from icf_avs.synthetic.benchmark import write_stamps
from icf_avs.types import ClipSpec, Prediction
from tools.make_picture import write_scene


def iou(one, other) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_stamps_uses_the_audio(tmp_path):
    """On five unseen scenes, a model that ignores audio could not reach both scores."""
    write_stamps(tmp_path, seed=5, test=5, video=False, workers=1)
    records = read_set(tmp_path / "Multi-sources", "test")
    scores = evaluate_each(icf_avs.load("stamps").predictor, records, ("true", "offscreen", "silence"))
    assert scores["true"]["strict"]["miou"] > 0.5
    assert scores["offscreen"]["strict"]["miou"] < 0.2
    assert scores["silence"]["strict"]["fpr"] < 0.02


@pytest.fixture(scope="module")
def segmenter():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
        yield icf_avs.load("natural")


@pytest.fixture(scope="module")
def scene(tmp_path_factory, catalog):
    """A video of a fire truck, a seahorse and a lobster; the truck sounds for three of five seconds. And its masks."""
    video = tmp_path_factory.mktemp("scene") / "truck.mp4"
    return video, write_scene(video, ClipSpec()).masks > 0


def test_an_object_is_segmented_while_it_sounds_and_words_restrict_it(segmenter, scene, tmp_path):
    video, truth = scene
    result = segmenter.segment(video)
    assert dict(result.heard[1])["fire truck"] > 0.2
    assert all(iou(result.masks[second], truth[second]) > 0.5 for second in range(3))
    assert np.all(result.areas[3:] < 0.01)
    words = "Siren; thunder", "dogs"
    siren, dogs = (run_inference(segmenter, video, tmp_path, Limits(), words=each).summary for each in words)
    assert siren.startswith("Segmented in 3 of 5 seconds.")
    assert "siren: emergency vehicle" in siren and "thunder: no visible object" in siren
    assert dogs == "Segmented in 0 of 5 seconds. None of the sounds asked for. dogs: dog."


@pytest.mark.full
def test_exported_files_segment_without_the_package(segmenter, scene, tmp_path):
    assert main(["export", "natural", "--out", str(tmp_path)]) == 0
    example = Path(__file__).parents[1] / "examples" / "onnx_segment.py"
    command = [sys.executable, example, tmp_path / "natural.onnx", scene[0], tmp_path / "masks"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    found = np.stack([np.asarray(Image.open(path)) > 0 for path in sorted((tmp_path / "masks").iterdir())])
    expected = segmenter.segment(scene[0]).masks
    assert found.shape == expected.shape and iou(found, expected) > 0.99


class MarksEverything(MaskPredictor):
    spec, classes = ClipSpec(), ("dog", "cat")

    def predict(self, frames, waves):
        heard = torch.tensor([[0.9, 0.1]]).repeat(len(frames), 1)
        return Prediction(torch.ones(len(frames), 8, 8), heard, self.classes)


def test_demo(tmp_path, monkeypatch, capsys):
    """With one clip and a model that marks everything, so that its score is known."""
    loads(MarksEverything(), monkeypatch)
    monkeypatch.setattr(demo, "CLIPS", 1)
    demo.demo_command(tmp_path)
    printed = capsys.readouterr().out
    (record,) = read_set(tmp_path / "stamps/Multi-sources", "test")
    masks = record.load().masks
    assert f" {masks[masks.any((1, 2))].mean():.2f} " in printed and "dog" in printed
    folder = tmp_path / "segmented" / record.name
    assert {path.name for path in folder.iterdir()} >= {"overlay.mp4", "sheet.png", "segmentation.json", "masks"}
