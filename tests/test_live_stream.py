"""Streamed frames and audio: masks in time, constant memory, and `icf live` in real time."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import torch
from clip_maker import RATE, number_in, picture, tone
from golden_cases import truck_scene
from tagger_weights import published_weights

import icf_avs
from icf_avs.__main__ import main
from icf_avs.inference import pretrained
from icf_avs.inference.segment import Segmenter
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.types import ClipSpec, Prediction

FPS = 25
Pair = tuple[np.ndarray | None, np.ndarray | None]


class Witness(MaskPredictor):
    """Records the numbers of the frames and returns the peak of each audio window."""

    classes = ("sound",)

    def __init__(self) -> None:
        self.spec = ClipSpec(image_size=160)
        self.seen: list[list[int]] = []

    def predict(self, frames: torch.Tensor, sound: torch.Tensor) -> Prediction:
        resized = torch.nn.functional.interpolate(frames.permute(0, 3, 1, 2).float(), (120, 160), mode="nearest")
        self.seen.append([number_in(frame.numpy()) for frame in resized.permute(0, 2, 3, 1)])
        return Prediction(torch.full((len(frames), 4, 4), 3.0), sound.abs().amax(1)[:, None], self.classes)


def camera(seconds: float) -> Iterator[Pair]:
    """Numbered frames, each with 1/25 s of a tone."""
    wave = (tone(1 / FPS)[0] * 32767).astype(np.int16)
    for number in range(round(seconds * FPS)):
        yield picture(number), wave


def test_each_mask_comes_as_soon_as_its_audio() -> None:
    witness, given = Witness(), 0

    def counted() -> Iterator[Pair]:
        nonlocal given
        for pair in camera(7.28):
            given += 1
            yield pair

    segmenter = Segmenter(witness, "witness")
    assert segmenter.delay == pytest.approx(0.4875)
    for mask in segmenter.stream(counted(), RATE):
        late = given / FPS - mask.picture_time
        assert mask.index == 7 or segmenter.delay <= late <= segmenter.delay + 2 / FPS
        assert mask.area == 1 and mask.heard[0][1] == pytest.approx(0.3, abs=0.02)
    assert (mask.index, mask.start, mask.end, mask.picture_time) == (7, 7, pytest.approx(7.28), pytest.approx(7.28))
    shown = [12, 37, 62, 87, 112, 137, 162, 181]
    assert witness.seen[1:] == [shown[5 * (i // 5) : i + 1] for i in range(8)]


def test_frames_and_audio_may_come_separately() -> None:
    witness, queue = Witness(), SimpleQueue[Pair | None]()
    for image, sound in camera(3):
        queue.put((image, None))
        queue.put((None, sound))
    queue.put(None)
    masks = list(Segmenter(witness, "witness").stream(iter(queue.get, None), RATE, fps=2.0))
    assert [mask.start for mask in masks] == [0, 0.5, 1, 1.5, 2, 2.5] and witness.seen[-1] == [68]


@pytest.mark.parametrize("checkpoint", ["stamps", "natural"])
def test_a_growing_clip_equals_the_whole_clip(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    predictor = icf_avs.load(checkpoint).predictor
    spec, generator = predictor.spec, torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, spec.image_size, spec.image_size, 3), dtype=torch.uint8, generator=generator)
    sound = torch.randn(3, spec.window, generator=generator) * torch.tensor([0.0, 0.1, 0.1])[:, None]
    clip = predictor.growing_clip()
    for count in (1, 2, 3):
        found = clip.add(predictor.prepare(frames[count - 1]), sound[count - 1])
        expected = predictor.predict(frames[:count], sound[:count])
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.heard, expected.heard, rtol=1e-3, atol=1e-4)


def resident() -> float:
    """Megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


@pytest.mark.full
def test_memory_is_flat_over_ten_minutes() -> None:
    wave = tone(0.2)

    def slow_camera() -> Iterator[Pair]:
        for number in range(3000):
            yield picture(number % 256), wave

    used = [resident() for mask in icf_avs.load("stamps").stream(slow_camera(), RATE)]
    assert len(used) == 600 and max(used[60:]) < used[60] + 20


@pytest.mark.full
@pytest.mark.parametrize(("checkpoint", "most"), [("stamps", 1.5), ("natural", 3.0)])
def test_icf_live_keeps_real_time(checkpoint: str, most: float, tmp_path: Path, capsys, monkeypatch) -> None:
    """Needs two idle cores."""
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    truck_scene(tmp_path)
    assert main(["live", str(tmp_path / "scene.mp4"), "--checkpoint", checkpoint]) == 0
    printed = capsys.readouterr().out
    delays = [float(found) for found in re.findall(r"after (\d+\.\d\d) s\)", printed)]
    assert len(delays) == 5 and max(delays) <= most, printed
    assert re.search("0:01-0:02  fire.truck", printed)


def test_ffmpeg_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """Synthetic devices in place of camera and microphone."""
    devices = "--camera lavfi:testsrc=duration=3:rate=10,realtime --microphone lavfi:sine=duration=3,arealtime"
    assert main(["live", "--checkpoint", "stamps", *devices.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["0:00-0:01", "0:01-0:02", "0:02-0:03"]
    for line in lines:
        empty = "nothing" in line or "not segmented" in line
        assert empty != bool(re.search(r"  \([\d.]+% of the frame, after", line))
    assert main(["live", "--camera", "v4l2:/dev/none", "--checkpoint", "stamps"]) == 2
    assert "v4l2:/dev/none: cannot be read" in capsys.readouterr().err


def test_a_wrong_path_is_reported_before_a_model_is_loaded(monkeypatch, capsys) -> None:
    monkeypatch.setattr(pretrained, "load", lambda *given: pytest.fail("a model is loaded"))
    assert main(["live", "nowhere.mp4"]) == 2
    assert capsys.readouterr().err.startswith("icf: error: nowhere.mp4: ")
