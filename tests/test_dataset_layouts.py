"""Released layouts: clips as written by the fixtures, class names, and audio of any form."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import avsbench_fixtures as fixtures
import numpy as np
import pytest
import torch
from clip_maker import make_clip
from PIL import Image
from public_sets import AVSS, MS3, S4, SPEC
from torch.nn import functional as F

from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.config import TrainConfig
from icf_avs.datasets.dataset import ClipDataset, common_audio
from icf_avs.datasets.layouts import class_names, read_all, read_set
from icf_avs.datasets.metadata import read_labels
from icf_avs.errors import UserError
from icf_avs.evaluation.audio_input import to_model_audio
from icf_avs.evaluation.robustness.negative_audio import altered_audio
from icf_avs.inference.predictor import Predictor


@pytest.mark.parametrize(("folder", "rows"), [("Single-source", S4), ("Multi-sources", MS3), ("AVSS", AVSS)])
def test_clips_are_read_as_they_were_written(home, folder, rows) -> None:
    records = read_all(home[0] / folder)
    assert [record.name for record in records] == [row[folder == "AVSS"] for row in rows]
    for record in records:
        clip, truth = record.load(size=None), home[1][record.name]
        once = folder == "Single-source" or "v1s" in record.audio_path.parts
        masks = np.stack(truth.masks)[: 1 if once and record.split == truth.split == "train" else None]
        assert clip.labelled.tolist() == [i < len(masks) for i in range(len(truth.frames))]
        np.testing.assert_array_equal(clip.masks[: len(masks)], masks)
        np.testing.assert_allclose(clip.waveform * 32768, truth.samples, atol=0.01)
        assert clip.log_mel is None and (clip.class_ids is clip.masks) == (folder == "AVSS")
        error = np.abs(clip.frames.astype(int) - np.stack(truth.frames)).mean()
        assert error == 0 if folder != "AVSS" else error < 3  # JPEG


def test_frames_have_their_own_size_or_a_given_one(tmp_path) -> None:
    fixtures.write_s4(tmp_path, S4[-1:])
    (record,) = read_set(tmp_path, "test")
    for path in record.frame_paths:
        fixtures.write_picture(path, np.zeros((300, 400, 3), np.uint8))
    assert record.load(None).masks.shape == (5, 300, 400)
    fixtures.write_picture(record.frame_paths[3], np.zeros((301, 400, 3), np.uint8))
    assert record.load().frames.shape == (5, 224, 224, 3) and record.load(96).masks.shape == (5, 96, 96)
    with pytest.raises(UserError, match="frames of one clip are 400x300 and 400x301"):
        record.load(None)


def test_names_of_classes(home, tmp_path) -> None:
    """From AVSS beside the set, where it is."""
    kinds = {record.name: record.sounding for record in read_all(home[0] / "Multi-sources")}
    assert kinds == {"-video_____": {"class-03", "class-07"}, "video-val__": None, "video-test_": {"woman"}}
    assert class_names(home[0] / "Single-source") == class_names(home[0] / "AVSS") == fixtures.NAMES[1:]
    fixtures.write_s4(tmp_path / "a/Single-source", S4[-2:])
    fixtures.write_ms3(tmp_path / "b/Multi-sources", MS3[-1:])
    assert class_names(tmp_path / "a/Single-source") == ("cat_meowing", "dog_barking")
    assert read_set(tmp_path / "a/Single-source", "test")[0].sounding == {"dog_barking"}
    assert class_names(tmp_path / "b/Multi-sources") == ()
    assert read_set(tmp_path / "b/Multi-sources", "test")[0].sounding is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids | {"woman": 5}, "repeated or left out"),
        (lambda ids: {name: i + 1 for name, i in ids.items()}, "lowest id 0 or 1"),
        (lambda ids: ids | {"woman": "71"}, "one object of names and ids"),
    ],
)
def test_label_ids_are_consecutive_from_0_or_1(tmp_path, change, message) -> None:
    for first in (0, 1):
        fixtures.write_avss(tmp_path, AVSS[:1], first=first)
        assert read_labels(tmp_path / "label2idx.json") == fixtures.NAMES
    path = tmp_path / "label2idx.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message):
        class_names(tmp_path)


def test_masks_may_be_stored_as_1_bit_rgb_or_palette(tiny) -> None:
    root = tiny.s4("test", ["dog"])
    masks = sorted((root / "s4_data/gt_masks").rglob("*.png"))
    want = read_set(root, "test")[0].load().masks
    for path, mode in zip(masks, ["1", "RGB", "P"], strict=False):
        image = Image.open(path)
        image.load()
        image.convert(mode).save(path)
    np.testing.assert_array_equal(read_set(root, "test")[0].load().masks, want)


def test_audio_comes_from_the_first_available_source(tmp_path) -> None:
    (truth,) = fixtures.write_ms3(tmp_path, [("video______", "test")])
    (tmp_path / "raw_videos").mkdir()
    stereo = np.stack([truth.samples, np.zeros_like(truth.samples)]).astype(np.float32) / 32768
    make_clip(tmp_path / "raw_videos/video______.mp4", seconds=5, fps=10, sound=stereo, sound_rate=16_000)
    (record,) = read_set(tmp_path, "test")
    assert record.sources() == ["wav", "video", "log_mel"]
    from_wav, from_video = record.load().waveform, record.load(audio="video").waveform
    assert abs(len(from_video) - 80_000) < 2048  # AAC pads its last frame
    tail = slice(8000, 72_000)
    np.testing.assert_allclose(from_video[tail], from_wav[tail] / 2, atol=0.01)  # mean of the two channels
    fixtures.write_wav(record.audio_path, np.stack([fixtures.tone(0, 5, 44_100)] * 2, 1), 44_100, 2)
    np.testing.assert_allclose(record.load().waveform[tail], from_wav[tail], atol=0.01)  # at another rate
    record.audio_path.unlink()
    assert record.load().log_mel is None and record.load().samples is not None, "waves of the video before log-mel"
    record.video_path.unlink()
    (record,) = read_set(tmp_path, "test")
    assert record.load().samples is None and record.load().log_mel is not None
    record.log_mel_path.unlink()
    with pytest.raises(UserError, match=r"video______\.pkl is missing"):
        record.load(audio="log_mel")


def test_all_clips_use_the_same_audio_source(tmp_path) -> None:
    fixtures.write_ms3(tmp_path, [(f"video_____{i}", "test") for i in range(3)])
    records = read_set(tmp_path, "test")
    assert common_audio(records) == "wav"
    with pytest.raises(UserError, match=r"video_____0 has no video, .* but wav and log_mel; unpack all of raw_videos"):
        ClipDataset(records, (), SPEC, "video")
    records[1].audio_path.unlink()
    assert common_audio(records) == "log_mel"
    records[2].log_mel_path.unlink()
    with pytest.raises(UserError, match="video_____2 has no log_mel"):
        ClipDataset(records, (), SPEC)


@pytest.fixture
def two_kinds(tmp_path: Path) -> Path:
    rows = zip(("dog", "cat", "dog", "dog", "cat"), ("train", "train", "val", "test", "test"), strict=True)
    clips = [(f"clip-{i:06d}", 3, kind, split) for i, (kind, split) in enumerate(rows)]
    fixtures.write_s4(tmp_path / "Single-source", clips)
    return tmp_path


@pytest.mark.full
def test_log_mel_alone_trains_and_is_scored(two_kinds: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(two_kinds)
    monkeypatch.setattr(TrainConfig, "audio_pretrain_steps", 2)
    for path in two_kinds.rglob("*.wav"):
        path.unlink()
    small = "--visual-encoder efficientnet-lite0 --audio-encoder log-mel --text-encoder minilm --steps 1"
    assert main(f"train s4-pvt --data Single-source {small} --out run".split()) == 0
    assert main(["evaluate", "run/s4-pvt.safetensors", "--data", ".", "--out", "scores.csv"]) == 0
    assert "no noise row" in capsys.readouterr().err
    rows = {(row["audio"], row["protocol"]): row for row in fixtures.read_table("scores.csv")}
    assert {audio for audio, _ in rows} == {"true", "silence", "offscreen"}
    model = load_checkpoint(Path("run/s4-pvt.safetensors"))
    overlaps = []
    for record in read_set(Path("Single-source"), "test"):  # by hand
        clip = record.load()
        logits = Predictor(model).predict(torch.from_numpy(clip.frames), torch.from_numpy(clip.log_mel)).logits
        marked = F.interpolate(logits[:, None], (224, 224), mode="bilinear")[:, 0].sigmoid() > 0.5
        truth = torch.from_numpy(clip.masks > 0)
        overlaps += ((marked & truth).sum((1, 2)) / (marked | truth).sum((1, 2))).tolist()
    assert float(rows["true", "strict"]["miou"]) == pytest.approx(np.mean(overlaps), abs=1e-4)
    assert main(["evaluate", "--robustness", "run/s4-pvt.safetensors", "--data", ".", "--out", "probed.csv"]) == 2
    assert "has its sound as log-mel windows only, and a waveform is needed" in capsys.readouterr().err


def test_log_mel_of_a_clip_and_altered(two_kinds: Path) -> None:
    folder = two_kinds / "Single-source"
    waves, records = read_set(folder, "test"), read_set(folder, "test", "log_mel")
    clip, waveform = records[0].load(), waves[0].load().waveform
    assert clip.log_mel.shape == (5, 96, 64) and clip.log_mel.dtype == np.float32 and not records[0].has_waveform
    heard = fixtures.log_mel(np.round(waveform * 32768).astype(np.int16))[:, 0]
    np.testing.assert_allclose(clip.log_mel, heard, atol=2e-3)
    with pytest.raises(UserError, match="log-mel windows only"):
        _ = clip.waveform
    np.testing.assert_array_equal(altered_audio(clip, records, 0, "true", 0), clip.log_mel)
    mute = altered_audio(waves[0].load(), waves, 0, "silence", 0)
    np.testing.assert_allclose(altered_audio(clip, records, 0, "silence", 0), fixtures.log_mel(mute)[:, 0], atol=1e-6)
    np.testing.assert_array_equal(altered_audio(clip, records, 0, "offscreen", 0), records[1].load().log_mel)
    np.testing.assert_array_equal(altered_audio(clip, records, 0, "shifted", 0)[2], clip.log_mel[0])
    with pytest.raises(UserError, match="log-mel windows only, and the model takes waveforms"):
        to_model_audio(SimpleNamespace(spec=SPEC, encoders={}), clip.log_mel, 5)
