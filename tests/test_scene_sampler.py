"""Scenes and their sound: disjoint splits, ground truth that follows the audio; recordings, their levels, speeds, loops
and augmentations.
"""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from scene_digest import scene_digest

from icf_avs.synthetic import audio_augment as augment
from icf_avs.synthetic import sounds
from icf_avs.synthetic.backgrounds import list_photographs, sample_background
from icf_avs.synthetic.batches import binary_masks, semantic_masks
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.rendering import load_sprite, render_stamp_map
from icf_avs.synthetic.scene import Scene
from icf_avs.synthetic.scene_sampler import BALANCED, HARD, TRAIN, sample_scene
from icf_avs.synthetic.sounds import SoundBank, render_audio, track_activity
from icf_avs.types import RATE, ClipSpec

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


def test_scenes_are_unchanged(catalog: Catalog, scenes: dict[str, list[Scene]]) -> None:
    """Digests of each benchmark's scenes: other scenes would make old and new scores incomparable."""
    single, other = {"num_sources": (1.0,), "continuous": 1.0}, {"num_sources": (0.55, 0.45)}
    for split, first, style, digest in (
        ("test", 0, single, "5e5cf3eb70e65585"),
        ("test", 1_000_000, {}, "09c9ae972f1505db"),
        ("cross", 2_000_000, other, "518ddfb1819851df"),
    ):
        drawn = (sample_scene(catalog, split, first + i, 0, replace(BALANCED, **style)) for i in range(12))
        assert scene_digest(drawn) == digest, split
    for name, digest in (("train", "aed9349f9179696b"), ("hard", "0272e4d9e0ea1497")):
        assert scene_digest(scenes[name]) == digest, name


def test_no_composition_and_no_background_is_in_two_splits(catalog: Catalog, scenes: dict[str, list[Scene]]) -> None:
    for what in (composition, lambda scene: scene.background):
        seen = {name: {what(scene) for scene in scenes[name]} for name in scenes}
        for one, other in (*combinations(("train", "val", "test"), 2), ("cross", "cross-val"), ("hard", "test")):
            assert not seen[one] & seen[other]
    # Six classes give few compositions, so any leak between splits would show.
    few = replace(catalog, classes=catalog.classes[:6], distractors=catalog.distractors[:4])
    splits, rng = ("train", "val", "test"), np.random.default_rng(0)
    drawn = [{composition(sample_scene(few, split, i, 0, TRAIN, 1)) for i in range(60)} for split in splits]
    assert not any(one & other for one, other in combinations(drawn, 2))
    photographs = [{sample_background(split, rng, 0.0) for _ in range(600)} for split in splits]
    assert set.union(*photographs) == set(list_photographs())
    assert sum(map(len, photographs)) == len(list_photographs()) and min(map(len, photographs)) >= 3


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


def test_measured_activity_matches_the_plan(scenes: dict[str, list[Scene]], bank: SoundBank) -> None:
    counts: Counter[bool] = Counter()
    for scene in scenes["test"]:
        wave, active = render_audio(scene, bank)
        assert wave.dtype == np.float32 and wave.shape == (5 * RATE,) and np.abs(wave).max() <= 0.991
        assert active.any(), "a test clip must not be blank throughout"
        for placed, row in zip(scene.stamps, active, strict=True):
            for second, measured in enumerate(row):
                counts[measured == any(a < second + 0.2 and b > second + 0.8 for a, b in placed.spans)] += 1
    assert counts[False] <= 0.01 * counts[True]


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


def test_a_mask_is_the_alpha_channel_and_mirrored_if_flipped(catalog: Catalog, scenes: dict[str, list[Scene]]) -> None:
    path = catalog.image_path("animals/birds/owl")
    alpha, sprite = np.asarray(Image.open(path).convert("RGBA"))[..., 3], load_sprite(path)
    size = (sprite.width * sprite.height) ** 0.5 / 256  # one frame pixel per stamp pixel
    placed = replace(scenes["test"][0].stamps[0], stem="animals/birds/owl", **STILL, flip=False, feather=0.0, size=size)

    def shown(**changes: object) -> np.ndarray:
        scene = replace(scenes["test"][0], aspect=1.0, stamps=(replace(placed, **changes),))
        return render_stamp_map(scene, 2.5, (256, 256))

    assert np.count_nonzero(shown(angle=0.0)) == pytest.approx(np.count_nonzero(alpha > 127), rel=0.01)
    one, other = shown(angle=20.0), shown(angle=-20.0, flip=True)
    assert np.mean(one != one[:, ::-1]) > 0.02 and np.mean(one != other[:, ::-1]) < 0.002


def tone(hertz: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def longest_pause(sounding: np.ndarray) -> int:
    return np.diff(np.flatnonzero(np.concatenate(([True], sounding, [True])))).max()


def test_prepare_trims_and_levels() -> None:
    rest = np.zeros(RATE, np.float32)
    wave = sounds.trim_and_normalize(np.concatenate([rest, 0.01 * tone(500, 1), rest, 0.01 * tone(700, 1), rest]))
    assert abs(len(wave) / RATE - 2.25) < 0.03  # the pause of a second is cut to a quarter of one
    assert np.sqrt(np.mean(np.square(wave[: RATE // 2]))) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ValueError, match="silent"):
        sounds.trim_and_normalize(rest)


def test_recordings_and_loops_have_no_long_pause(catalog: Catalog, bank: SoundBank) -> None:
    for kind in catalog.classes:
        for reference in bank.references(kind.name):
            wave = bank.speed_variant(reference, 4)
            assert 0.1 < len(wave) / RATE < 11 and np.isfinite(wave).all(), reference
            rms = sounds.frame_rms(wave)
            assert longest_pause(rms > rms.max() * 10 ** (-36 / 20)) <= 28, reference  # frames of 10 ms
    track = bank.loop_recording("hammer", 5 * RATE, np.random.default_rng(0))
    assert track.shape == (5 * RATE,) and longest_pause(sounds.frame_rms(track) > 1e-4) <= 30
    worker = pickle.loads(pickle.dumps(bank))
    np.testing.assert_array_equal(track, worker.loop_recording("hammer", 5 * RATE, np.random.default_rng(0)))
    assert not set(SoundBank(catalog, "cross").references("cow")) & set(bank.references("cow"))


def test_audio_is_augmented_only_on_request(catalog: Catalog, bank: SoundBank) -> None:
    style, always = replace(TRAIN, num_sources=(1.0,), silent=0.0), replace(augment.VARIED, augment_prob=1.0)
    for index in range(3):
        scene = sample_scene(catalog, "train", index, 0, style, 1)
        plain, active = sounds.render_audio(scene, bank, 3)
        np.testing.assert_array_equal(plain, sounds.render_audio(scene, bank, 3, augment.PLAIN)[0])
        varied, also = sounds.render_audio(scene, bank, 3, always)
        assert varied.dtype == np.float32 and np.isfinite(varied).all() and np.abs(varied).max() <= 0.991
        assert np.std(varied - plain) > 0.1 * np.std(plain)
        np.testing.assert_array_equal(varied, sounds.render_audio(scene, bank, 3, always)[0])
        assert not np.array_equal(varied, sounds.render_audio(scene, bank, 4, always)[0])
        np.testing.assert_array_equal(active, also)  # the activity is the same
