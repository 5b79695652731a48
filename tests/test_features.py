"""Cached features: equal for any number of workers, reused, never incomplete; and batches made of them."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icf_avs.atomic_io import load_arrays, make_once, save_arrays
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic import scene_features as scene_features_module
from icf_avs.synthetic.batches import make_batch, render_clip
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.scene_features import SceneFeatures, SceneSet, scene_features
from icf_avs.synthetic.scene_sampler import TRAIN
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.types import ClipSpec

SPEC = ClipSpec(frames=2, image_size=64)
WANTED = SceneSet("train", 18, 3, TRAIN, SPEC)  # more than one chunk
FEW = replace(WANTED, count=2)


def use_cache(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder as cache, with the packages; returns the folder of features."""
    here = asset_packages.cache_dir() / "packages"
    if here.is_dir():
        (folder / "packages").symlink_to(here.resolve())
    patch.setenv("ICF_CACHE", str(folder))
    return folder / "features"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_cache(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def made(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> SceneFeatures:
    """Features by one worker, in a separate cache."""
    with pytest.MonkeyPatch.context() as patch:
        use_cache(tmp_path_factory.mktemp("cache"), patch)
        return scene_features(catalog, WANTED, workers=1)


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_any_number_of_workers(catalog: Catalog, cache: Path, made: SceneFeatures) -> None:
    found = scene_features(catalog, WANTED, workers=2)
    assert found.scenes == made.scenes
    np.testing.assert_array_equal(found.stamp_maps, made.stamp_maps)
    for one, other in zip(found.pyramid, made.pyramid, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(contents(cache)) == 1


def test_the_second_call_reuses_features(catalog: Catalog, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scene_features(catalog, FEW, workers=1)
    kept = contents(cache)

    def again(*_: object) -> None:
        raise AssertionError("rendered a second time")

    monkeypatch.setattr(scene_features_module, "render_frame", again)
    calls: list[tuple[int, int]] = []
    second = scene_features(catalog, FEW, 1, lambda done, total: calls.append((done, total)))
    assert contents(cache) == kept and calls == [(2, 2)] and second.scenes == first.scenes
    np.testing.assert_array_equal(first.pyramid[1], second.pyramid[1])


@pytest.mark.parametrize("change", ["seed", "count", "style", "spec", "split", "photographs"])
def test_other_scenes_have_other_features(change: str, catalog: Catalog, cache: Path, monkeypatch) -> None:
    """The key covers all inputs of scene planning: frames of other scenes would get wrong labels."""
    one, wanted = replace(FEW, count=1), replace(FEW, count=1)
    scene_features(catalog, one, 1)
    if change == "photographs":
        monkeypatch.setattr(scene_features_module, "list_photographs", lambda: ())
    else:
        spec = ClipSpec(frames=1, image_size=64)
        other = {"seed": 4, "count": 2, "style": replace(TRAIN, silent=0.5), "spec": spec, "split": "val"}
        wanted = replace(one, **{change: other[change]})
    scene_features(catalog, wanted, 1)
    assert len(contents(cache)) == 2


def test_a_full_disk(catalog: Catalog, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(UserError, match="ICF_CACHE") as raised:
        scene_features(catalog, FEW, workers=1)
    assert "\n" not in str(raised.value) and not contents(cache)


def test_an_interrupted_set_leaves_nothing(catalog: Catalog, cache: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert len(contents(cache)) == 1  # it was being made
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scene_features(catalog, FEW, 1, interrupt)
    assert not contents(cache)


def test_a_cache_that_cannot_be_written(catalog: Catalog, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="ICF_CACHE"):
        scene_features(catalog, FEW, workers=1)


def test_features_equal_those_of_rendered_frames(made: SceneFeatures, bank: SoundBank) -> None:
    clip = render_clip(made.scenes[17], bank, SPEC)
    np.testing.assert_array_equal(made.stamp_maps[17], clip.stamp_maps[:, 1::2, 1::2])
    for cached, level in zip(made.pyramid, load_efficientnet_lite0()(torch.from_numpy(clip.frames)), strict=True):
        expected = level.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(cached[17], expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())


def test_batches_agree_with_rendered_clips(catalog: Catalog, bank: SoundBank, made: SceneFeatures) -> None:
    indices = np.array([1, 4, 17])
    number = len(catalog.class_names)
    batch = make_batch(made, indices, bank, SPEC, number, variation=7)
    assert batch.masks.shape == (3, 2, 16, 16) and batch.class_map.shape == (3, 2, 32, 32)
    assert batch.masks.max() == 1 and batch.labelled.all() and batch.valid.all()
    for row, index in enumerate(indices):
        scene = made.scenes[index]
        clip = render_clip(scene, bank, SPEC, variation=7)
        marks = torch.from_numpy(clip.masks).float()
        assert batch.masks[row].equal(F.avg_pool2d(marks[:, 1::2, 1::2], 2))
        assert (batch.masks[row] - F.avg_pool2d(marks, 4)).abs().mean() < 0.04  # of 64 pixels
        assert (batch.class_map[row] > 0).equal(marks[:, 1::2, 1::2] > 0)
        for placed, active in zip(scene.stamps, clip.active, strict=True):
            if placed.class_id:
                assert batch.sounding[row, :, placed.class_id - 1].tolist() == active.tolist()
                assert batch.onscreen[row, placed.class_id - 1]
        assert batch.onscreen[row].sum() == sum(bool(placed.class_id) for placed in scene.stamps)
        start = SPEC.window_start(1)
        np.testing.assert_array_equal(batch.waveforms[row, 1].numpy(), clip.waveform[start : start + SPEC.window])
        for level, cached in zip(batch.pyramid, made.pyramid, strict=True):
            assert level.dtype == torch.float32
            np.testing.assert_array_equal(level[row].permute(0, 2, 3, 1).numpy(), cached[index].astype(np.float32))


def test_variations_change_the_sound_only(catalog: Catalog, bank: SoundBank, made: SceneFeatures) -> None:
    indices, number = np.array([1, 4]), len(catalog.class_names)
    one, same, other = (make_batch(made, indices, bank, SPEC, number, v, with_images=False) for v in (1, 1, 2))
    assert one.waveforms.equal(same.waveforms) and not one.waveforms.equal(other.waveforms)
    assert one.onscreen.equal(other.onscreen) and one.pyramid == []


def test_arrays_are_made_once_by_concurrent_callers(cache: Path) -> None:
    made, start = [], Barrier(2)

    def make(new: Path) -> None:
        made.append(new)
        time.sleep(0.2)
        save_arrays(new, {"a": np.arange(3)})

    def run(_: int) -> list[int]:
        start.wait()
        make_once(cache / "two", make)
        return load_arrays(cache / "two", ["a"])[0].tolist()

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(run, range(2))) == [[0, 1, 2]] * 2
    assert len(made) == 1 and contents(cache) == ["two"]
