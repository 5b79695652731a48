"""Scenes: determinism, disjoint splits, visibility, sounding objects, and ground truth that follows the audio."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from scene_digest import scene_digest
from small_guided import random_batch

from icf_avs.synthetic.backgrounds import list_photographs, sample_background
from icf_avs.synthetic.batches import binary_masks, concat_batches, render_clip, semantic_masks
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.rendering import load_sprite, render_stamp_map, visible_shares
from icf_avs.synthetic.scene import Scene
from icf_avs.synthetic.scene_sampler import BALANCED, HARD, TRAIN, sample_scene
from icf_avs.synthetic.sounds import SoundBank, render_audio, render_tracks, track_activity
from icf_avs.types import RATE, Batch, ClipSpec

CLIPS = 40
STILL = {"x": 0.5, "y": 0.5, "sway": 0.0, "drift_x": 0.0, "drift_y": 0.0, "spin": 0.0, "growth": 0.0}


@pytest.fixture(scope="module")
def scenes(catalog: Catalog) -> dict[str, list[Scene]]:
    styles = {"train": TRAIN, "hard": HARD, **dict.fromkeys(("val", "test", "cross", "cross-val"), BALANCED)}
    return {
        name: [sample_scene(catalog, "train" if name == "hard" else name, index, 0, style) for index in range(CLIPS)]
        for name, style in styles.items()
    }


def composition(scene: Scene) -> tuple[str, ...]:
    return tuple(sorted(placed.stem for placed in scene.stamps))


def test_scenes_are_unchanged(catalog: Catalog) -> None:
    """Digests of each benchmark's scenes: other scenes would make old and new scores incomparable."""
    single, other = {"num_sources": (1.0,), "continuous": 1.0}, {"num_sources": (0.55, 0.45)}
    for split, first, style, digest in (
        ("test", 0, single, "5e5cf3eb70e65585"),
        ("test", 1_000_000, {}, "09c9ae972f1505db"),
        ("cross", 2_000_000, other, "518ddfb1819851df"),
    ):
        drawn = (sample_scene(catalog, split, first + i, 0, replace(BALANCED, **style)) for i in range(12))
        assert scene_digest(drawn) == digest, split
    for style, digest in ((TRAIN, "aed9349f9179696b"), (HARD, "0272e4d9e0ea1497")):
        assert scene_digest(sample_scene(catalog, "train", i, 0, style) for i in range(40)) == digest, style


def test_no_composition_and_no_background_is_in_two_splits(catalog: Catalog, scenes: dict[str, list[Scene]]) -> None:
    for what in (composition, lambda scene: scene.background):
        seen = {name: {what(scene) for scene in scenes[name]} for name in scenes}
        for one, other in (*combinations(("train", "val", "test"), 2), ("cross", "cross-val"), ("hard", "test")):
            assert not seen[one] & seen[other]
    assert len({composition(scene) for scene in scenes["train"]}) > 0.9 * CLIPS
    # Six classes give few compositions, so any leak between splits would show.
    few = replace(catalog, classes=catalog.classes[:6], distractors=catalog.distractors[:4])
    drawn = [{composition(sample_scene(few, split, i, 0, TRAIN, 1)) for i in range(80)} for split in
             ("train", "val", "test")]  # fmt: skip
    assert not any(one & other for one, other in combinations(drawn, 2))


def test_every_photograph_has_one_split() -> None:
    rng = np.random.default_rng(0)
    drawn = [{sample_background(split, rng, 0.0) for _ in range(600)} for split in ("train", "val", "test")]
    assert set.union(*drawn) == set(list_photographs())
    assert sum(map(len, drawn)) == len(list_photographs()) and min(map(len, drawn)) >= 3


def test_heldout_stamps_and_second_recordings_are_in_cross_only(catalog: Catalog, scenes) -> None:
    heldout = {stem for kind in catalog.classes for stem in kind.heldout_stems}
    shown = {name: {stem for scene in some for stem in composition(scene)} for name, some in scenes.items()}
    for name in ("train", "hard", "val", "test"):
        assert not shown[name] & heldout
    assert shown["cross"] & heldout
    for placed in (placed for scene in scenes["cross"] + scenes["cross-val"] for placed in scene.stamps):
        kind = catalog.sound_class(placed.class_name) if placed.class_name else None
        assert not placed.spans or kind.cross_recordings
        assert kind is None or placed.stem in heldout or not kind.heldout_stems


def test_number_and_classes_of_objects(scenes: dict[str, list[Scene]]) -> None:
    for name, planned in scenes.items():
        for scene in planned:
            kinds = [placed.class_name for placed in scene.stamps if placed.class_name]
            assert 2 <= len(scene.stamps) <= 5
            if name != "hard":
                assert len(kinds) == len(set(kinds)), "a kind may not both sound and be silent"
                sounding = sum(bool(placed.spans) for placed in scene.stamps)
                assert sounding in range(0 if name == "train" else 1, 4)
    largest = [max(scene.stamps, key=lambda placed: placed.size) for scene in scenes["hard"]]
    assert np.mean([bool(placed.spans) for placed in largest]) < 0.68


def test_objects_that_could_sound_stay_visible(scenes: dict[str, list[Scene]]) -> None:
    for scene in scenes["train"][:15] + scenes["test"][:15]:
        shares = visible_shares(scene, [t + 0.5 for t in range(5)])
        assert shares[:, [bool(placed.class_name) for placed in scene.stamps]].min() >= 0.4
        assert shares.max() < 1.25  # at most 1, but for rounding at a low resolution


def test_two_objects_of_a_class_share_one_track(scenes: dict[str, list[Scene]], bank: SoundBank) -> None:
    pairs = [
        (scene, one, other)
        for scene in scenes["hard"]
        for one, other in combinations(range(len(scene.stamps)), 2)
        if scene.stamps[one].class_name == scene.stamps[other].class_name != ""
    ]
    assert len(pairs) > 0.1 * CLIPS
    for scene, one, other in pairs:
        assert scene.stamps[one].spans == scene.stamps[other].spans
        wave, tracks = render_tracks(scene, bank)
        np.testing.assert_array_equal(tracks[one], tracks[other])
        active = track_activity(tracks, ClipSpec())
        if scene.stamps[one].spans:
            assert active[one].any() and np.std(wave - tracks.sum(axis=0)) < 0.5 * np.std(wave)
    assert 0 < sum(bool(scene.stamps[one].spans) for scene, one, _ in pairs) < len(pairs)


def test_measured_activity_matches_the_plan(scenes: dict[str, list[Scene]], bank: SoundBank) -> None:
    counts: Counter[bool] = Counter()
    changing = 0
    for scene in scenes["test"]:
        wave, active = render_audio(scene, bank)
        assert wave.dtype == np.float32 and wave.shape == (5 * RATE,) and np.abs(wave).max() <= 0.991
        assert active.any(), "a test clip must not be blank throughout"
        changing += bool((active != active[:, :1]).any())
        for placed, row in zip(scene.stamps, active, strict=True):
            for second, measured in enumerate(row):
                counts[measured == any(a < second + 0.2 and b > second + 0.8 for a, b in placed.spans)] += 1
    assert counts[False] <= 0.01 * counts[True] and changing > 0.3 * CLIPS


def test_activity_by_hand() -> None:
    loud = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    silent, sliver, quiet = (loud.copy() for _ in range(3))
    silent[RATE : 2 * RATE] = 0
    sliver[RATE + 1600 : 2 * RATE] = 0  # a tenth of the second window is left
    quiet[RATE : 2 * RATE] *= 0.02  # -34 dB
    found = track_activity(np.stack([loud, silent, sliver, quiet, 0 * loud]), ClipSpec(frames=3))
    assert found.tolist() == [[True] * 3, *[[True, False, True]] * 3, [False] * 3]


def test_masks_and_classes_by_hand(scenes: dict[str, list[Scene]]) -> None:
    scene = next(scene for scene in scenes["test"] if scene.stamps[0].class_name and scene.stamps[1].class_name)
    scene = replace(scene, stamps=scene.stamps[:2])
    slots, active = np.array([[[0, 1, 2]]] * 2, dtype=np.uint8), np.array([[True, False], [True, True]])
    assert binary_masks(slots, active).tolist() == [[[0, 1, 1]], [[0, 0, 1]]]
    first, second = (placed.class_id for placed in scene.stamps)
    assert semantic_masks(slots, active, scene).tolist() == [[[0, first, second]], [[0, 0, second]]]


def test_a_flipped_stamp_is_the_mirror_image(scenes: dict[str, list[Scene]]) -> None:
    placed = replace(scenes["test"][0].stamps[0], **STILL, size=0.5, angle=20.0, flip=False)
    scene = replace(scenes["test"][0], aspect=1.0, stamps=(placed,))
    mirrored = replace(scene, stamps=(replace(placed, angle=-20.0, flip=True),))
    one, other = (render_stamp_map(shown, 2.5, (128, 128)) for shown in (scene, mirrored))
    assert one.any() and np.mean(one != one[:, ::-1]) > 0.02
    assert np.mean(one != other[:, ::-1]) < 0.002


def test_a_mask_is_the_alpha_channel(catalog: Catalog, scenes: dict[str, list[Scene]]) -> None:
    path = catalog.image_path("animals/birds/owl")
    alpha = np.asarray(Image.open(path).convert("RGBA"))[..., 3]
    sprite = load_sprite(path)
    size = (sprite.width * sprite.height) ** 0.5 / 256  # one frame pixel per stamp pixel
    placed = replace(scenes["test"][0].stamps[0], stem="animals/birds/owl", **STILL, angle=0.0, flip=False, feather=0.0)
    scene = replace(scenes["test"][0], aspect=1.0, stamps=(replace(placed, size=size),))
    slots = render_stamp_map(scene, 2.5, (256, 256))
    assert max(alpha.shape) <= 256
    assert np.count_nonzero(slots) == pytest.approx(np.count_nonzero(alpha > 127), rel=0.01)


def test_render_clip(catalog: Catalog, bank: SoundBank, scenes: dict[str, list[Scene]]) -> None:
    clip = render_clip(scenes["val"][0], bank, ClipSpec(phase=15 / 16), (64, 48))
    assert clip.frames.shape == (5, 48, 64, 3) and clip.stamp_maps.shape == (5, 48, 64)
    assert clip.active.shape == (len(clip.class_names), 5) and clip.masks.max() == 1
    short = sample_scene(catalog, "train", 0, 0, TRAIN, 1)
    one = render_clip(short, bank, ClipSpec(frames=1, image_size=32))
    assert one.frames.shape == (1, 32, 32, 3) and one.waveform.shape == (RATE,)
    with pytest.raises(ValueError, match="5"):
        render_clip(short, bank, ClipSpec())


def test_two_batches_become_one() -> None:
    one, other = random_batch(clips=2), random_batch(clips=3)
    whole = concat_batches([one, other])
    for field in fields(Batch):
        a, b, both = (getattr(batch, field.name) for batch in (one, other, whole))
        for x, y, z in zip(a, b, both, strict=True) if isinstance(a, list) else [(a, b, both)]:
            assert z is None if x is None else torch.equal(z, torch.cat([x, y])), field.name
    assert len(whole.pyramid) == len(one.pyramid) > 1 and concat_batches([one]) is one


def test_invalid_arguments(catalog: Catalog) -> None:
    for wrong in ({"split": "dev"}, {"split": "val", "seconds": 0}, {"split": "val", "seconds": 1.5}):
        with pytest.raises(ValueError, match="is"):
            sample_scene(catalog, index=0, **wrong)
