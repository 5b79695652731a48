"""Cached features: equal for any number of workers, reused, never incomplete; and batches made of them."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.errors import UserError
from icf_avs.evaluation.test_sets import default_sets
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
ONE = replace(WANTED, count=1)


def use_cache(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder as cache, with the packages; returns the folder of features."""
    (folder / "packages").symlink_to((asset_packages.cache_dir() / "packages").resolve())
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


@pytest.mark.full
def test_any_number_of_workers_gives_the_same_and_a_second_call_reuses_it(
    catalog: Catalog, cache: Path, made: SceneFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, kept, calls = scene_features(catalog, WANTED, workers=2), contents(cache), []
    monkeypatch.setattr(scene_features_module, "render_frame", None)
    again = scene_features(catalog, WANTED, 1, lambda *done: calls.append(done))
    assert contents(cache) == kept and len(kept) == 1 and calls == [(16, 18), (18, 18)]
    for each in (found, again):
        assert each.scenes == made.scenes
        for one, other in zip([each.stamp_maps, *each.pyramid], [made.stamp_maps, *made.pyramid], strict=True):
            np.testing.assert_array_equal(one, other)


def test_other_scenes_have_other_features(catalog: Catalog, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key covers all inputs of scene planning: frames of other scenes would get wrong labels."""
    spec, style = ClipSpec(frames=1, image_size=64), replace(TRAIN, silent=0.5)
    others = [{"seed": 4}, {"count": 2}, {"style": style}, {"spec": spec}, {"split": "val"}, {}]
    for change in others:
        scene_features(catalog, replace(ONE, **change), 1)
    monkeypatch.setattr(scene_features_module, "list_photographs", lambda: ())
    scene_features(catalog, ONE, 1)
    assert len(contents(cache)) == len(others) + 1


def test_a_full_disk_and_an_interruption_leave_nothing(catalog: Catalog, cache: Path, monkeypatch) -> None:
    def interrupt(done: int, total: int) -> None:
        assert len(contents(cache)) == 1  # it was being made
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scene_features(catalog, ONE, 1, interrupt)
    assert not contents(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="ICF_CACHE"):
        scene_features(catalog, ONE, workers=1)
    assert not contents(cache)


def test_features_equal_those_of_rendered_frames(made: SceneFeatures, bank: SoundBank) -> None:
    clip = render_clip(made.scenes[17], bank, SPEC)
    np.testing.assert_array_equal(made.stamp_maps[17], clip.stamp_maps[:, 1::2, 1::2])
    for cached, level in zip(made.pyramid, load_efficientnet_lite0()(torch.from_numpy(clip.frames)), strict=True):
        expected = level.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(cached[17], expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())


def test_batches_agree_with_rendered_clips(catalog: Catalog, bank: SoundBank, made: SceneFeatures) -> None:
    indices = np.array([1, 4, 17])
    batch = make_batch(made, indices, bank, SPEC, len(catalog.class_names), variation=7)
    assert batch.labelled.all() and batch.valid.all()
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
        assert batch.onscreen[row].sum() == sum(bool(placed.class_id) for placed in scene.stamps)
        start = SPEC.window_start(1)
        np.testing.assert_array_equal(batch.waveforms[row, 1].numpy(), clip.waveform[start : start + SPEC.window])
        for level, cached in zip(batch.pyramid, made.pyramid, strict=True):
            np.testing.assert_array_equal(level[row].permute(0, 2, 3, 1).numpy(), cached[index].astype(np.float32))


def test_default_sets_are_written_by_one_caller_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, most = [], []

    def write(*_: object, **__: object) -> None:
        writing.append(1)
        most.append(len(writing))
        time.sleep(0.1)
        writing.pop()

    monkeypatch.setenv("ICF_CACHE", str(tmp_path))
    monkeypatch.setattr("icf_avs.synthetic.benchmark.write_stamps", write)
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(default_sets, ["test"] * 3)) == [tmp_path / "stamps-test"] * 3
    assert most == [1, 1, 1]
