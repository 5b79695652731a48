"""The demo with one clip and a model that marks everything, so that its score is known."""

from __future__ import annotations

from types import SimpleNamespace

import torch

import icf_avs.demo as demo
from icf_avs.datasets.layouts import read_set
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.types import ClipSpec, Prediction


class MarksEverything(MaskPredictor):
    classes = ("dog", "cat")

    def __init__(self) -> None:
        self.spec = ClipSpec()

    def predict(self, frames, waves):
        heard = torch.tensor([[0.9, 0.1]]).repeat(len(frames), 1)
        return Prediction(torch.ones(len(frames), 8, 8), heard, self.classes)


def test_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "icf_avs.inference.pretrained.load",
        lambda checkpoint, device="auto": SimpleNamespace(predictor=MarksEverything(), name="all"),
    )
    monkeypatch.setattr(demo, "CLIPS", 1)
    demo.demo_command(tmp_path)
    printed = capsys.readouterr().out
    (record,) = read_set(tmp_path / "stamps/Multi-sources", "test")
    masks = record.load().masks
    share = masks[masks.any((1, 2))].mean()
    assert f" {share:.2f} " in printed and "dog" in printed
    folder = tmp_path / "segmented" / record.name
    assert {path.name for path in folder.iterdir()} >= {"overlay.mp4", "sheet.png", "segmentation.json", "masks"}
