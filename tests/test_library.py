"""The package as a library: a video as arrays, pairs or bytes has the masks of the file."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_maker import make_clip, tone
from golden_cases import lossless, truck_scene

import icf_avs
from icf_avs.errors import UserError
from icf_avs.inference.segment import Segmenter
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.media.audio_windows import audio_blocks
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.results import Segmentation
from icf_avs.types import ClipSpec, Missing, Prediction

PROGRAM = Path(__file__).with_name("client_program.py")
RATE = 48_000


class LoudRed(MaskPredictor):
    """Logits rise with the red of a frame, its loudness and the number of frames, so that every input matters."""

    spec = ClipSpec(image_size=64)
    classes = ("red",)

    def predict(self, frames: torch.Tensor, sound: torch.Tensor) -> Prediction:
        red = frames[..., 0].float() - frames[..., 1:].float().mean(-1)
        loud = sound.abs().mean(1)
        logits = red / 20 + 40 * loud[:, None, None] + len(frames) - 10
        return Prediction(logits, loud[:, None].clamp(max=1), self.classes)


SEGMENTER = Segmenter(LoudRed(), "loud")
SCHEMA = json.loads((Path(icf_avs.__file__).parent / "output" / "segmentation.schema.json").read_text())
KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
         "number": (int, float)}  # fmt: skip
BOUNDS = {
    "minimum": lambda value, bound: value >= bound, "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound, "exclusiveMaximum": lambda value, bound: value < bound,
    "minItems": lambda value, bound: len(value) >= bound, "minProperties": lambda value, bound: len(value) >= bound,
    "pattern": lambda value, bound: re.search(bound, value), "const": lambda value, bound: value == bound,
}  # fmt: skip
OTHERS = {"$schema", "$defs", "$ref", "title", "description", "type", "anyOf", "items", "required", "properties",
          "additionalProperties"}  # fmt: skip


def faults(value: Any, schema: dict[str, Any] = SCHEMA, where: str = "$") -> Iterator[str]:
    """Yield a line per violation of the part of JSON Schema that SCHEMA uses."""
    assert not schema.keys() - OTHERS - BOUNDS.keys(), where
    if "$ref" in schema:
        yield from faults(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], where)
    if "anyOf" in schema and all(any(faults(value, choice, where)) for choice in schema["anyOf"]):
        yield f"{where}: fits no choice"
    kind = schema.get("type")
    if kind and (not isinstance(value, KINDS[kind]) or (kind in ("integer", "number") and isinstance(value, bool))):
        yield f"{where}: is no {kind}"
        return
    yield from (f"{where}: {key}" for key in schema.keys() & BOUNDS.keys() if not BOUNDS[key](value, schema[key]))
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from faults(item, schema["items"], f"{where}[{index}]")
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        yield from (f"{where}: lacks {key}" for key in schema.get("required", ()) if key not in value)
        for key, item in value.items():
            if key in known or isinstance(rest, dict):
                yield from faults(item, known.get(key, rest), f"{where}.{key}")
            elif not rest:
                yield f"{where}: has {key}"


BOTH = pytest.mark.parametrize("video", [1, 2], ids=["mono", "cancelling"], indirect=True)


@pytest.fixture(scope="module")
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6.4 seconds of rising loudness; of two channels, they cancel each other in the first four seconds."""
    time = np.arange(round(6.4 * RATE)) / RATE
    wave = (0.1 * time * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    channels = np.stack([wave, np.where(time < 4, -wave, wave)])[: getattr(request, "param", 1)]
    path = tmp_path_factory.mktemp("video") / "loud.mkv"
    return make_clip(path, seconds=6.4, sound=channels, sound_codec="pcm_f32le")


@pytest.fixture(scope="module")
def arrays(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames and audio of the video."""
    frames = [image for _, image in read_frames(video, (number / 25 for number in range(160)))]
    return np.stack(frames), np.concatenate([*audio_blocks(probe(video), RATE)], axis=1)


def check_same(found: Segmentation, expected: Segmentation) -> None:
    assert 0 < expected.areas[0] < expected.areas[-2]
    for one, other in zip(found.frames, expected.frames, strict=True):
        assert one.run_lengths == other.run_lengths and one.index == other.index
        np.testing.assert_allclose(one.heard[0][1], other.heard[0][1], rtol=1e-5)
        for name in ("start", "end", "picture_time", "area", "score"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6, err_msg=name)
    video, other = found.video, expected.video
    assert (video.width, video.height) == (other.width, other.height)
    np.testing.assert_allclose((video.duration, video.frame_rate), (other.duration, other.frame_rate), atol=2e-3)
    assert found.spec == expected.spec


@BOTH
@pytest.mark.parametrize("fps", [1.0, 3.0])
def test_arrays_give_the_masks_of_the_file(video: Path, arrays: tuple, fps: float) -> None:
    expected, told, (frames, sound) = SEGMENTER.segment(video, fps=fps), [], arrays
    rates = {"fps": fps, "frame_rate": 25, "sample_rate": RATE}
    found = SEGMENTER.segment(frames, audio=sound, progress=lambda *now: told.append(now), **rates)
    check_same(found, expected)
    assert told == [(done, len(found)) for done in range(1, len(found) + 1)] and found.folder is None
    check_same(SEGMENTER.segment(torch.from_numpy(frames), audio=torch.from_numpy(sound), **rates), expected)
    check_same(SEGMENTER.segment(iter(frames), audio=sound, **rates), expected)


@BOTH
def test_pairs_of_frame_and_audio_equal_the_file(video: Path, arrays: tuple) -> None:
    """Except that channels are simply averaged: where they cancel each other, nothing is left."""
    frames, sound = arrays
    found = SEGMENTER.segment(zip(frames, np.split(sound, 160, axis=1), strict=True), sample_rate=RATE)
    if len(sound) == 1:
        check_same(found, SEGMENTER.segment(video))
    else:
        assert not found.heard[1]


def test_bytes_and_binary_files_are_read_as_the_file(video: Path, tmp_path: Path) -> None:
    expected = SEGMENTER.segment(video)
    check_same(SEGMENTER.segment(io.BytesIO(video.read_bytes())), expected)
    assert SEGMENTER.segment(video.read_bytes(), tmp_path).folder.name == "video"
    with video.open("rb") as file:
        result = SEGMENTER.segment(file, tmp_path)
    check_same(result, expected)
    assert result.folder == tmp_path / "loud"
    source = json.loads((result.folder / "segmentation.json").read_text())["source"]
    assert source.keys() == {"bytes", "sha256"} and source["bytes"] == video.stat().st_size


@pytest.mark.parametrize("as_file", [True, False])
def test_given_audio_replaces_that_of_the_video(video: Path, arrays: tuple, tmp_path: Path, as_file: bool) -> None:
    time = np.arange(round(6.4 * RATE)) / RATE
    other = (3000 * np.sin(2 * np.pi * 300 * time)).astype(np.int16)
    audio: dict = {"audio": other, "sample_rate": RATE}
    expected = SEGMENTER.segment(arrays[0], frame_rate=25, **audio)
    if as_file:
        sound = (other / 32768).astype(np.float32)[None]
        path = make_clip(tmp_path / "other.mkv", seconds=6.4, sound=sound, sound_codec="pcm_s16le")
        audio = {"audio": path}
    result = SEGMENTER.segment(video, tmp_path / "out", **audio)
    np.testing.assert_allclose(result.areas, expected.areas, atol=1e-3)
    heard, own = ([tags[0][1] for tags in found.heard] for found in (result, SEGMENTER.segment(video)))
    assert max(heard[:6]) - min(heard[:6]) < 1e-3 and max(own) > 3 * max(heard)
    assert probe(result.folder / "overlay.mp4").has_audio
    document = json.loads((result.folder / "segmentation.json").read_text())
    assert document["made_with"]["audio"] == "replaced" and not list(faults(document))


IMAGE, SOUND = np.zeros((8, 48, 64, 3), np.uint8), np.zeros(RATE, np.float32)
RATES = {"frame_rate": 8, "sample_rate": RATE}


@pytest.mark.parametrize(
    ("video", "options", "told"),
    [
        (IMAGE, RATES, "give their audio="),
        (IMAGE.astype(np.float32), {"audio": SOUND, **RATES}, "float32 .8, 48, 64, 3.; give RGB as uint8"),
        (IMAGE, {"audio": SOUND.reshape(-1, 2), **RATES}, r"\[n\] or \[channels, n\]"),
        (IMAGE, {"audio": SOUND, "sample_rate": RATE}, "frame_rate is None"),
        *((IMAGE, {"audio": SOUND, **RATES, "fps": fps}, f"fps is {fps}") for fps in (0, -1, math.nan, math.inf)),
        (IMAGE, {"audio": SOUND, **RATES, "threshold": 1.0}, "threshold"),
        (IMAGE, {"audio": SOUND, **RATES, "out": "out"}, "video files"),
        (IMAGE, {"audio": SOUND, **RATES, "words": "dog"}, "sound tagger"),
        (IMAGE, {"audio": SOUND, **RATES, "semantic": True}, "without a class head"),
        (iter([]), {"sample_rate": RATE}, "no frame came"),
        (iter([(IMAGE[0], SOUND), (IMAGE[0, 1:], SOUND), (None, SOUND)]), {"sample_rate": RATE}, "one size"),
        (b"no video", {}, "^the bytes: not a video"),
        (None, {}, "the video is None; give a path"),
        (iter([IMAGE[0]]), {"sample_rate": RATE}, "a ndarray is no pair; give pairs"),
        (IMAGE, {"audio": SOUND + np.nan, **RATES}, "NaN or infinite"),
    ],
)  # fmt: skip
def test_wrong_inputs_give_a_one_line_error(video: object, options: dict, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        SEGMENTER.segment(video, **options)
    assert "\n" not in str(caught.value)


def test_threads_share_a_segmenter(tmp_path: Path) -> None:
    segmenter, video = icf_avs.load("stamps"), make_clip(tmp_path / "a.mkv", sound=tone(2))
    settings = [{"threshold": 0.1}, {"threshold": 0.9}, {"fps": 2.0}, {}]
    alone = [segmenter.segment(video, **setting).frames for setting in settings]
    with ThreadPoolExecutor(4) as threads:
        assert alone == list(threads.map(lambda setting: segmenter.segment(video, **setting).frames, settings))


@pytest.mark.full
@pytest.mark.parametrize("checkpoint", ["stamps", "natural"])
def test_the_client_program_runs(tmp_path: Path, checkpoint: str) -> None:
    """On a lossless video of a sounding fire truck."""
    video = lossless(tmp_path / "clip.mkv", truck_scene(tmp_path))
    done = subprocess.run([sys.executable, PROGRAM, video, checkpoint], capture_output=True, text=True, check=True)
    assert not done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.endswith("IoU with the file's 1.0") and float(first.split("%")[0]) > 1
    assert [line[:3] for line in lines] == ["0.0", "1.0", "2.0", "3.0", "4.0"]
    assert re.search("fire.truck", lines[1]) and "0.0%" in lines[4]


@pytest.mark.full
def test_the_client_program_passes_strict_mypy() -> None:
    options = ("--strict", "--follow-imports=silent", "--config-file=", "--cache-dir=.mypy_cache/client")
    command = [sys.executable, "-m", "mypy", *options, PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROGRAM.parents[1], check=False)
    assert done.returncode == 0, done.stdout


class Everything(LoudRed):
    """Model with all optional attributes."""

    semantic, digest, encoders = True, "0f" * 32, {"visual": "a", "audio": "b"}
    missing, only_words = (Missing("the ears", "hears less"),), ("red",)

    def predict(self, frames: torch.Tensor, sound: torch.Tensor) -> Prediction:
        found = super().predict(frames, sound)
        classes = torch.stack([-found.logits, found.logits], 1)
        return replace(found, classes=classes, class_names=("background", "red"))


@pytest.mark.parametrize("everything", [True, False])
def test_segmentation_json_fits_its_schema(video: Path, tmp_path: Path, everything: bool) -> None:
    segmenter = Segmenter(Everything(), "all") if everything else SEGMENTER
    joined = tmp_path / "joined.mkv"
    joined.write_bytes(video.read_bytes() * (1 + everything))
    result = segmenter.segment(joined, tmp_path / "out", semantic=everything)
    document = json.loads((result.folder / "segmentation.json").read_text())
    assert not list(faults(document))
    assert ("categories" in document) == ("words" in document["made_with"]) == everything
    assert document.get("repaired", {}).get("joined_files", 1) == 1 + everything
    assert document["made_with"]["versions"]["icf-avs"] == icf_avs.__version__
    del document["video"]["start"]
    document["frames"][1]["area"], document["frames"][2]["more"] = "large", 1
    wrong = ["$.frames[1].area: is no number", "$.frames[2]: has more", "$.video: lacks start"]
    assert sorted(faults(document)) == wrong
