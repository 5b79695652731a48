"""Streamed frames and audio: masks in time, constant memory, and `icf live` in real time."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_maker import HEIGHT, RATE, WIDTH, number_in, picture, tone
from golden_cases import truck_scene
from PIL import Image
from tagger_weights import published_weights
from witness import Witness

import icf_avs
from icf_avs.__main__ import main
from icf_avs.inference.segment import Segmenter

FPS = 25


def test_each_mask_comes_as_soon_as_its_audio() -> None:
    witness, given, wave = Witness(image_size=160), 0, (tone(1 / FPS)[0] * 32767).astype(np.int16)

    def camera() -> Iterator[tuple[np.ndarray | None, np.ndarray | None]]:
        nonlocal given
        for given in range(1, 183):
            yield picture(given - 1), None  # frames and sound may come separately
            yield None, wave

    segmenter = Segmenter(witness, "witness")
    assert segmenter.delay == pytest.approx(0.4875)
    for mask in segmenter.stream(camera(), RATE):
        late = given / FPS - mask.picture_time
        assert mask.index == 7 or segmenter.delay <= late <= segmenter.delay + 2 / FPS
        assert mask.area > 0 and np.abs(witness.waveforms[-1]).max() == pytest.approx(0.3, abs=0.02)
    assert (mask.index, mask.start, mask.end, mask.picture_time) == (7, 7, pytest.approx(7.28), pytest.approx(7.28))
    shown = [12, 37, 62, 87, 112, 137, 162, 181]
    clips = [shown[5 * (i // 5) : i + 1] for i in range(8)]
    assert witness.counts[1:] == [len(clip) for clip in clips]
    seen = [number_in(np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT)))) for frame in witness.frames[1:]]
    assert seen == [*chain(*clips)]


@pytest.mark.parametrize("checkpoint", ["stamps", pytest.param("natural", marks=pytest.mark.full)])
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


@pytest.mark.full
def test_memory_is_flat_over_ten_minutes() -> None:
    wave, used = tone(0.2), []
    for _ in icf_avs.load("stamps").stream(((picture(number % 256), wave) for number in range(3000)), RATE):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(pages * resource.getpagesize() / 1e6)
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
