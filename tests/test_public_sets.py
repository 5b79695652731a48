"""Sets in the released layouts: written by the fixtures, read by us and by an independent reader, and batched."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
import torch
from avsbench_oracle import plain_read
from PIL import Image
from torch.utils.data import DataLoader

from icf_avs.avsbench.dataset import ClipDataset, collate, common_audio
from icf_avs.avsbench.layouts import read_all, read_set
from icf_avs.avsbench.names import class_names, read_labels
from icf_avs.contracts import ClipSpec
from icf_avs.data.windows import windows
from icf_avs.errors import UserError
from icf_avs.output.palette import palette
from icf_avs.stamps.benchmark import write_stamps

S4 = [
    ("-dog_______", 30, "dog_barking", "train"),
    ("_cat_______", 0, "cat_meowing", "train"),
    ("cat-val____", 7, "cat_meowing", "val"),
    ("dog-test___", 30, "dog_barking", "test"),
]
MS3 = [("-video_____", "train"), ("video-val__", "val"), ("video-test_", "test")]
AVSS = [  # vid, uid, s_min, s_sec, a_obj, split, label
    ("-dog_______", "-dog________30000_35000", 0, 30, "class-07", "train", "v1s"),
    ("_cat_______", "_cat________0_5000", 0, 0, "class-03_off-the-screen", "train", "v1s"),
    ("cat-val____", "cat-val_____7000_12000", 0, 7, "class-03", "val", "v1s"),
    ("dog-test___", "dog-test____30000_35000", 0, 30, "class-07", "test", "v1s"),
    ("-video_____", "-video______1000_6000", 0, 1, "class-03_class-07", "train", "v1m"),
    ("video-test_", "video-test__0_5000", 0, 0, "woman_background", "test", "v1m"),
    ("long_______", "long________0_10000", 0, 0, "woman_class-03", "train", "v2"),
    ("long-test__", "long-test___0_10000", 0, 0, "woman", "test", "v2"),
]
SPEC = ClipSpec(phase=15 / 16)


@pytest.fixture(scope="module")
def sprite(catalog) -> Image.Image:
    """A real picture of a stamp."""
    stem = next(stem for kind in catalog.kinds for stem in kind.pictures if (catalog.root / f"{stem}.png").is_file())
    return Image.open(catalog.root / f"{stem}.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory, sprite) -> tuple[Path, dict[str, fixtures.Written]]:
    root = tmp_path_factory.mktemp("AVSBench")
    written = fixtures.write_s4(root / "Single-source", S4, sprite)
    written += fixtures.write_ms3(root / "Multi-sources", MS3)
    written += fixtures.write_avss(root / "AVSS", AVSS)
    return root, {clip.name: clip for clip in written}


@pytest.fixture(scope="module")
def stamps(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("stamps")
    write_stamps(root, seed=5, train=1, test=2, video=False)
    return root


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("folder", ["Single-source", "Multi-sources", "AVSS"])
def test_an_independent_reader_reads_what_the_writer_wrote(home, folder, split) -> None:
    root, written = home
    for name, clip in plain_read(root / folder, split).items():
        truth = written[name]
        scale = 1 if folder == "AVSS" else 255
        np.testing.assert_array_equal(clip["masks"], np.stack(truth.masks)[: len(clip["masks"])] * np.uint8(scale))
        np.testing.assert_array_equal(clip["samples"], truth.samples)
        error = np.abs(clip["frames"].astype(int) - np.stack(truth.frames)).mean()
        assert error == 0 if folder != "AVSS" else error < 3  # JPEG


@pytest.mark.parametrize("folder", ["Single-source", "Multi-sources", "AVSS"])
@pytest.mark.parametrize("source", ["fixtures", "stamps"])
def test_we_read_what_the_independent_reader_reads(home, stamps, source, folder) -> None:
    root = (home[0] if source == "fixtures" else stamps) / folder
    clips = 0
    for split in ("train", "test"):
        plain = plain_read(root, split)
        records = read_set(root, split)
        assert {record.name for record in records} == set(plain)
        for record in records:
            clip, truth = record.load(size=None), plain[record.name]
            np.testing.assert_array_equal(clip.frames, truth["frames"])
            masks = truth["masks"] if record.layout == "AVSS" else truth["masks"] // 255
            assert clip.labelled.tolist() == [i < len(masks) for i in range(len(clip.frames))]
            np.testing.assert_array_equal(clip.masks[: len(masks)], masks)
            np.testing.assert_allclose(clip.wave * 32768, truth["samples"], atol=0.01)
            assert clip.valid.all() and clip.log_mel is None
            assert (clip.class_ids is clip.masks) == (record.layout == "AVSS")
            clips += 1
    assert clips >= 2


def test_log_mel_of_both_writers(home, stamps) -> None:
    for root in (home[0], stamps):
        for folder in ("Single-source", "Multi-sources"):
            record = read_set(root / folder, "test")[0]
            clip = record.load(audio="log_mel")
            assert clip.log_mel.shape == (5, 96, 64) and clip.log_mel.dtype == np.float32
            samples = np.round(record.load().wave * 32768).astype(np.int16)
            np.testing.assert_allclose(clip.log_mel, fixtures.log_mel(samples)[:, 0], atol=2e-3)
            with pytest.raises(UserError, match="log-mel windows only"):
                _ = clip.wave


def test_sound_from_the_first_form_that_is_there(tmp_path) -> None:
    (truth,) = fixtures.write_ms3(tmp_path, [("video______", "test")])
    frames = [frame[:120, :160] for frame in truth.frames for _ in range(10)]
    stereo = np.stack([truth.samples, np.zeros_like(truth.samples)], 1)
    fixtures.write_video(tmp_path / "raw_videos/video______.mp4", frames, Fraction(10), stereo)
    (record,) = read_set(tmp_path, "test")
    assert record.sources() == ["wav", "video", "log_mel"]
    from_wav, from_video = record.load().wave, record.load(audio="video").wave
    assert abs(len(from_video) - 80_000) < 2048  # AAC pads its last frame
    tail = slice(8000, 72_000)
    np.testing.assert_allclose(from_video[tail], from_wav[tail] / 2, atol=0.01)  # the mean of two channels
    record.wave_path.unlink()
    assert record.load().log_mel is None and record.load().samples is not None, "waves of the video before log-mel"
    record.video_path.unlink()
    (record,) = read_set(tmp_path, "test")
    assert record.load().samples is None and record.load().log_mel is not None
    record.log_mel_path.unlink()
    with pytest.raises(UserError, match=r"audio_wav/test is missing|______\.wav is missing"):
        record.load(audio="wav")
    with pytest.raises(UserError, match=r"video______\.pkl is missing"):
        record.load(audio="log_mel")


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 1), (48_000, 2), (8_000, 1)])
def test_other_sample_rates_are_resampled(tmp_path, rate, channels) -> None:
    fixtures.write_ms3(tmp_path, [("video______", "test")])
    time = np.arange(5 * rate) / rate
    high = 10_000 if rate > 20_000 else 3_000  # beyond 8 kHz: must vanish, not fold back to 6 kHz
    wave = 8000 * np.sin(2 * np.pi * 1000 * time) + 8000 * np.sin(2 * np.pi * high * time)
    samples = np.stack([wave] * channels, 1).astype(np.int16)
    (record,) = read_set(tmp_path, "test")
    fixtures.write_wav(record.wave_path, samples, rate, channels)
    found = record.load().wave
    assert abs(len(found) - 80_000) <= 16
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found)))) / len(found) * 4
    hertz = np.fft.rfftfreq(len(found), 1 / 16_000)
    assert spectrum[np.abs(hertz - 1000).argmin()] == pytest.approx(8000 / 32768, rel=0.02)
    if high == 10_000:
        assert spectrum[hertz > 1100].max() < 8000 / 32768 / 300  # 50 dB below
    else:
        assert spectrum[np.abs(hertz - 3000).argmin()] == pytest.approx(8000 / 32768, rel=0.05)


def test_native_size(home, tmp_path) -> None:
    record = next(
        record for record in read_set(home[0] / "AVSS", "test") if record.frame_paths[0].parents[2].name == "v2"
    )
    native, squashed = record.load(None), record.load()
    assert native.frames.shape == (10, 144, 256, 3) and native.masks.shape == (10, 144, 256)
    assert squashed.frames.shape == (10, 224, 224, 3) and squashed.masks.max() == 70
    assert record.load(96).masks.shape == (10, 96, 96)
    fixtures.write_s4(tmp_path, S4[-1:])
    (record,) = read_set(tmp_path, "test")
    for path in record.frame_paths:
        fixtures.write_picture(path, np.zeros((300, 400, 3), np.uint8))
    assert record.load(None).masks.shape == (5, 300, 400)
    fixtures.write_picture(record.frame_paths[3], np.zeros((301, 400, 3), np.uint8))
    assert record.load().frames.shape == (5, 224, 224, 3)
    with pytest.raises(UserError, match="pictures of one clip are 400x300 and 400x301"):
        record.load(None)


def test_avss_names_the_kinds_of_s4_and_ms3(home) -> None:
    root, _ = home
    kinds = {record.name: record.sounding for record in read_all(root / "Single-source")}
    assert kinds == {
        "-dog_______": {"class-07"},
        "_cat_______": {"class-03"},
        "cat-val____": {"class-03"},
        "dog-test___": {"class-07"},
    }
    kinds = {record.name: record.sounding for record in read_all(root / "Multi-sources")}
    assert kinds == {"-video_____": {"class-03", "class-07"}, "video-val__": None, "video-test_": {"woman"}}
    assert class_names(root / "Single-source") == class_names(root / "AVSS") == fixtures.NAMES[1:]


def test_without_avss_s4_has_its_categories_and_ms3_has_none(tmp_path) -> None:
    fixtures.write_s4(tmp_path / "a/Single-source", S4)
    fixtures.write_ms3(tmp_path / "b/Multi-sources", MS3)
    assert class_names(tmp_path / "a/Single-source") == ("cat_meowing", "dog_barking")
    assert read_set(tmp_path / "a/Single-source", "test")[0].sounding == {"dog_barking"}
    assert class_names(tmp_path / "b/Multi-sources") == ()
    assert read_set(tmp_path / "b/Multi-sources", "test")[0].sounding is None


def test_stray_tokens(tmp_path) -> None:
    rows = [("v", "v_0_5000", 0, 0, "class-03_h orse_off-the-screen_background_", "test", "v1m")]
    fixtures.write_avss(tmp_path, rows)
    assert read_set(tmp_path, "test")[0].sounding == {"class-03", "horse"}


@pytest.mark.parametrize("first", [0, 1])
def test_labels_count_from_nought_or_one(tmp_path, first) -> None:
    fixtures.write_avss(tmp_path, AVSS[:1], first=first)
    names = read_labels(tmp_path / "label2idx.json")
    assert names == fixtures.NAMES and len(names) == 71


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: None, "is missing"),
        (lambda ids: ids | {"woman": 5}, "twice there or left out"),
        (lambda ids: ids | {"woman": 99}, "twice there or left out"),
        (lambda ids: ids | {"man": 72}, "at most 71 names"),
        (lambda ids: {name: i + 1 for name, i in ids.items()}, "lowest id 0 or 1"),
        (lambda ids: {name: i for name, i in ids.items() if i > 1}, "background's"),
        (lambda ids: ids | {"woman": "71"}, "one object of names and ids"),
        (lambda ids: list(ids), "one object of names and ids"),
        (lambda ids: {}, "at most 71 names"),
    ],
)
def test_inconsistent_labels(tmp_path, change, message) -> None:
    fixtures.write_avss(tmp_path, AVSS[:1])
    path = tmp_path / "label2idx.json"
    ids = change(json.loads(path.read_text()))
    path.unlink() if ids is None else path.write_text(json.dumps(ids))
    with pytest.raises(UserError, match=message):
        class_names(tmp_path)


def test_palette_is_that_of_labels_rgb() -> None:
    colours = palette(71)
    assert colours[[1, 2, 70]].tolist() == [[128, 0, 0], [0, 128, 0], [32, 128, 128]]
    assert [fixtures.colour(number) for number in range(71)] == colours.tolist()


def items(root: Path, split: str, **options) -> ClipDataset:
    return ClipDataset(read_set(root, split), class_names(root), SPEC, **options)


def test_a_batch_of_s4(home) -> None:
    root, written = home
    batch = collate([*items(root / "Single-source", "train")])
    assert batch.pyramid == [] and batch.onscreen is None and batch.log_mel is None
    assert batch.frames.shape == (2, 5, 224, 224, 3) and batch.frames.dtype == torch.uint8
    assert batch.waves.shape == (2, 5, 15_600) and batch.waves.dtype == torch.float32
    assert batch.labelled.tolist() == [[True] + [False] * 4] * 2 and batch.valid.all()
    assert batch.sounding.shape == (2, 5, 70)
    assert batch.sounding.nonzero()[:, 2].unique().tolist() == [2, 6]
    clip = written["-dog_______"]
    mask = clip.masks[0].reshape(56, 4, 56, 4)
    np.testing.assert_allclose(batch.masks[0, 0], mask.mean((1, 3)))
    np.testing.assert_array_equal(batch.kinds_map[0, 0], 7 * mask[:, 2, :, 2])
    assert batch.kinds_map.dtype == torch.long and batch.masks.dtype == torch.float32
    assert not batch.masks[:, 1:].any() and not batch.kinds_map[:, 1:].any()
    np.testing.assert_array_equal(batch.frames[0, 3], clip.frames[3])
    np.testing.assert_allclose(batch.waves[0], windows(clip.samples.astype(np.float32) / 32768, SPEC, 5), atol=1e-6)


def test_a_batch_of_ms3_names_a_pixel_only_where_one_kind_is_known(home) -> None:
    root, _ = home
    (one,) = items(root / "Multi-sources", "test")
    assert one.masks[:4].any((1, 2)).all() and not one.masks[4].any()
    assert one.kinds_map.flatten(1).amax(1).tolist() == [70] * 4 + [0]
    assert one.sounding.sum(1).tolist() == [1] * 4 + [0]
    (two,) = items(root / "Multi-sources", "train")
    assert not two.kinds_map.any() and two.sounding.sum(1).tolist() == [2] * 4 + [0]
    (none,) = items(root / "Multi-sources", "val")
    assert not none.kinds_map.any() and not none.sounding.any()


def test_a_batch_of_avss_mixes_five_and_ten_frames(home) -> None:
    root, written = home
    dataset = items(root / "AVSS", "test")
    (batch,) = DataLoader(dataset, batch_size=3, collate_fn=collate)
    assert batch.valid.sum(1).tolist() == [5, 5, 10] == batch.labelled.sum(1).tolist()
    for values in (batch.frames, batch.waves, batch.masks, batch.kinds_map, batch.sounding):
        assert len(values) == 3 and not values[:2, 5:].any() and values[2].flatten(1).any(1).all()
    assert [ids.unique().tolist() for ids in batch.kinds_map] == [[0, 7], [0, 70], [0, 70]]
    small = np.asarray(Image.fromarray(written[dataset.records[2].name].masks[9]).resize((224, 224), Image.NEAREST))
    np.testing.assert_array_equal(batch.kinds_map[2, 9], small[2::4, 2::4])
    train = collate([*items(root / "AVSS", "train")])
    assert train.labelled.sum(1).tolist() == [1, 1, 5, 10]
    # unlabelled frames have the kinds of the table, labelled ones those of their class ids
    assert train.sounding[0].sum(1).tolist() == [1] * 5 + [0] * 5
    assert train.sounding[3, 4].nonzero().flatten().tolist() == [69]


def test_a_batch_of_stamps_has_what_is_in_the_picture_and_kinds_by_the_second(stamps) -> None:
    for folder in ("Single-source", "Multi-sources", "AVSS"):
        root = stamps / folder
        dataset = items(root, "test")
        batch = collate([*dataset])
        assert batch.onscreen.shape == (len(dataset), len(dataset.names))
        for row, record in enumerate(dataset.records):
            assert {dataset.names[i] for i in batch.onscreen[row].nonzero().flatten()} == record.onscreen
            assert {dataset.names[i] for i in batch.sounding[row].any(0).nonzero().flatten()} == record.sounding
        assert (batch.sounding.any(2) >= (batch.masks > 0).flatten(2).any(2)).all()


def test_log_mel_in_a_batch(home) -> None:
    batch = collate([*items(home[0] / "Single-source", "train", audio="log_mel")])
    assert batch.log_mel.shape == (2, 5, 96, 64) and batch.waves.shape == (2, 5, 0)
    assert batch.sound is batch.log_mel


def test_the_same_form_of_sound_for_all_clips(tmp_path) -> None:
    fixtures.write_ms3(tmp_path, [(f"video_____{i}", "test") for i in range(3)])
    records = read_set(tmp_path, "test")
    assert common_audio(records) == "wav"
    records[1].wave_path.unlink()
    assert common_audio(records) == "log_mel"
    records[2].log_mel_path.unlink()
    with pytest.raises(UserError, match="video_____2 has no log_mel"):
        ClipDataset(records, (), SPEC)


def test_a_class_id_without_a_name(tmp_path) -> None:
    fixtures.write_avss(tmp_path, AVSS[-1:])
    with pytest.raises(UserError, match=r"class id 70 is out of range, label2idx\.json names 0 to 3"):
        ClipDataset(read_set(tmp_path, "test"), ("a", "b", "c"), SPEC)[0]
    with pytest.raises(ValueError, match="stride"):
        ClipDataset([], (), ClipSpec(image_size=226))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "ms3_data/gt_masks/test").rename(root / "gone"), r"gt_masks/test is missing"),
        (lambda root: (root / "ms3_data/visual_frames").rename(root / "gone"), r"visual_frames is missing"),
        (lambda root: next(root.rglob("*.wav")).write_bytes(b"RIFF\0\0\0\0WAVE"), "cannot be decoded as sound"),
        (lambda root: fixtures.write_wav(next(root.rglob("*.wav")), np.zeros(0, np.int16)), "sound"),
        (lambda root: (root / "ms3_meta_data.csv").write_text("video_id,split\nx,tset\n"), "split 'tset'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, spoil, message) -> None:
    fixtures.write_ms3(tmp_path, [("video______", "test")])
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_set(tmp_path, "test")[0].load()
    assert "\n" not in str(caught.value)


def test_a_pickle_with_code_is_refused_where_it_would_be_read(tmp_path) -> None:
    fixtures.write_ms3(tmp_path, [("video______", "test")])
    (record,) = read_set(tmp_path, "test")
    record.log_mel_path.write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    record.load()  # not needed, so not opened
    with pytest.raises(UserError, match="refused"):
        record.load(audio="log_mel")
    assert not (tmp_path / "ran").exists()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_broken_arrays_of_log_mel(tmp_path) -> None:
    fixtures.write_ms3(tmp_path, [("video______", "test")])
    (record,) = read_set(tmp_path, "test")
    path = record.log_mel_stem.with_name("video______.npy")
    for values in (np.zeros((5, 96, 64), np.float32), np.zeros((5, 1, 96, 64)), np.zeros((0, 1, 96, 64), np.float32)):
        np.save(path, values)
        with pytest.raises(UserError, match="want float32 log-mel"):
            record.load(audio="log_mel")
    np.save(path, np.array([Canary(tmp_path / "ran")], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="no log-mel array"):
        record.load(audio="log_mel")
    assert not (tmp_path / "ran").exists()
