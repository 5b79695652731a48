"""Open-vocabulary scenes: the catalog and its held-out classes, scenes, masks, and cached features."""

from __future__ import annotations

import csv
import hashlib
import pickle
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scene_digest import scene_digest

from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.open_vocab_encoder import DenseClassifier, audioset_names
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.voc_segmenter import load_segmenter
from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.catalog import (
    HELD_OUT,
    HELD_OUT_FAR,
    HELD_OUT_NEAR,
    Catalog,
    OpenVocabCatalog,
    load_open_vocab_stamps,
)
from icf_avs.synthetic.open_vocab_sampler import DEFAULT, NATURAL, OPEN_VOCAB_SPLITS, sample_open_vocab_scene
from icf_avs.synthetic.rendering import load_sprite, render_frame
from icf_avs.synthetic.scene import Camera, Scene
from icf_avs.synthetic.scene_features import (
    SceneSet,
    dequantize_probs,
    dequantize_scores,
    open_vocab_features,
    quantize_scores,
)
from icf_avs.types import ClipSpec

COUNT = 60


def render(scene: Scene, time_s: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """RGB image and object map."""
    rgb, stamp_map = render_frame(scene, time_s, size)
    return rgb, scene.object_map(stamp_map)


@pytest.fixture(scope="module")
def words() -> OpenVocabCatalog:
    return load_open_vocab_stamps()


@pytest.fixture(scope="module")
def scenes(words: OpenVocabCatalog) -> dict[str, list[Scene]]:
    return {
        split: [sample_open_vocab_scene(words, split, index) for index in range(COUNT)] for split in OPEN_VOCAB_SPLITS
    }


def test_scenes_are_unchanged(words: OpenVocabCatalog, scenes: dict[str, list[Scene]]) -> None:
    """Digests: other scenes would make old and new scores incomparable. Validation shares no background with test."""
    for split, digest in (("test", "6aa20b2097619868"), ("heldout", "d47fc38927842e54")):
        assert scene_digest(scenes[split][:12]) == digest, split
    natural = (sample_open_vocab_scene(words, "train", index, style=NATURAL) for index in range(40))
    assert scene_digest(natural) == "748f2c4e1bc37776"
    for val, test in (("val", "test"), ("heldout-val", "heldout")):
        asked = {split: [scene for scene in scenes[split] if len(scene.objects) > 1] for split in (val, test)}
        for what in (lambda s: s.background, lambda s: tuple(sorted(p.stem for p in s.stamps))):
            assert not {what(scene) for scene in asked[val]} & {what(scene) for scene in asked[test]}


def test_the_catalog(words: OpenVocabCatalog, catalog: Catalog) -> None:
    stems = [stamp.stem for stamp in words.stamps]
    assert len(stems) == len(set(stems)) > 250
    assert len({stamp.word for stamp in words.training}) > 200
    for stamp in words.stamps:
        assert all(word == word.strip() and word and not word.endswith(".") for word in stamp.words + stamp.generic)
        assert not set(stamp.words) & set(stamp.generic)
        assert "cartoon" not in stamp.stem and not (words.root / f"{stamp.stem}.svg").exists()
        with Image.open(words.root / f"{stamp.stem}.png") as image:
            assert max(image.size) >= 46
    pictures = {stem: kind.name for kind in catalog.classes for stem in kind.stems + kind.heldout_stems}
    assert {stamp.stem: stamp.class_name for stamp in words.stamps if stamp.class_name} == pictures
    tests_only = {stem for kind in catalog.classes for stem in kind.heldout_stems}
    assert {stamp.stem for stamp in words.stamps if stamp.test_image} == tests_only


def test_held_out_kinds_are_chosen_by_their_rule() -> None:
    with resources.files("icf_avs.synthetic").joinpath("stamps.csv").open(encoding="utf-8", newline="") as file:
        kinds = {row["class"] for row in csv.DictReader(file) if row["class"]}
    order = sorted(kinds, key=lambda kind: hashlib.sha256(kind.encode()).digest())
    parts = tuple(part.strip() for name in audioset_names() for part in name.split(","))
    cosines = embed_with_minilm(tuple(kind.replace("-", " ") for kind in order)) @ embed_with_minilm(parts).T
    nearest = cosines.amax(1).tolist()
    near = [kind for kind, cosine in zip(order, nearest, strict=True) if cosine >= 0.75]
    far = [kind for kind, cosine in zip(order, nearest, strict=True) if cosine < 0.6]
    assert tuple(near[:14]) == HELD_OUT_NEAR and tuple(far[:7]) == HELD_OUT_FAR


def test_training_words_do_not_name_held_out_objects(words: OpenVocabCatalog) -> None:
    assert {stamp.class_name for stamp in words.held_out} <= set(HELD_OUT)
    unknown = tuple(sorted({word for stamp in words.held_out for word in stamp.words}))
    assert not set(unknown) & set(words.training_words)
    cosines = embed_with_minilm(unknown) @ embed_with_minilm(words.training_words).T
    close = {words.training_words[j] for _, j in (cosines > 0.7).nonzero().tolist()}
    assert {word for word in close if "truck" not in word} <= {"lion", "sea lion"}  # other vehicles are allowed


def test_splits(scenes: dict[str, list[Scene]], words: OpenVocabCatalog) -> None:
    held_out = {stamp.stem for stamp in words.held_out}
    tests_only = {stamp.stem for stamp in words.stamps if stamp.test_image}
    shown = {split: {p.stem for one in some for p in one.stamps} for split, some in scenes.items()}
    for split in ("train", "val"):
        assert not shown[split] & (held_out | tests_only)
        assert {word for one in scenes[split] for word in one.present_words} <= set(words.training_words)
        assert not {kind for one in scenes[split] for kind in (each.class_name for each in one.objects)} & set(HELD_OUT)
    assert not shown["test"] & held_out and shown["test"] & tests_only
    for one in scenes["heldout"]:
        assert {p.stem for p in one.stamps} & held_out
    compositions = {s: {frozenset(p.stem for p in one.stamps) for one in scenes[s]} for s in OPEN_VOCAB_SPLITS[:3]}
    grounds = {split: {one.background for one in some} for split, some in scenes.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not compositions[one] & compositions[other]
        assert not grounds[one] & grounds[other]
    assert not grounds["train"] & grounds["heldout"]


def test_scenes_are_deterministic(words: OpenVocabCatalog, scenes: dict[str, list[Scene]]) -> None:
    one = scenes["train"][3]
    assert sample_open_vocab_scene(words, "train", 3) == one != sample_open_vocab_scene(words, "train", 3, seed=1)
    (rgb, things), again = (render(scene, 0.5, (96, 64)) for scene in (one, pickle.loads(pickle.dumps(one))))
    assert rgb.shape == (64, 96, 3) and rgb.dtype == np.uint8 and things.shape == (64, 96)
    assert np.array_equal(rgb, again[0]) and np.array_equal(things, again[1])


def test_invalid_arguments(words: OpenVocabCatalog) -> None:
    with pytest.raises(ValueError, match="split"):
        sample_open_vocab_scene(words, "cross", 0)
    with pytest.raises(ValueError, match="seconds"):
        sample_open_vocab_scene(words, "train", 0, seconds=0)
    with pytest.raises(ValueError, match="strides"):
        SceneSet("train", 1, 0, NATURAL, ClipSpec(), strides=(8, 4))
    with pytest.raises(UserError, match="--stamps"):
        load_open_vocab_stamps(Path(__file__).parent)


def test_words_name_objects(words: OpenVocabCatalog) -> None:
    sampled = (sample_open_vocab_scene(words, "train", i) for i in range(400))
    one = next(scene for scene in sampled if len(scene.objects_named("animal")) > 1)
    numbers = one.objects_named("animal")
    assert numbers == tuple(n for n, each in enumerate(one.objects, start=1) if "animal" in each.generic)
    assert one.objects_named("no such word") == ()
    for number, each in enumerate(one.objects, start=1):
        assert one.objects_named(each.words[0]) == (number,)
    assert set(one.present_words) == {word for each in one.objects for word in each.words + each.generic}


def test_masks_cover_exactly_what_is_drawn(words: OpenVocabCatalog) -> None:
    """Compared with the same scene without stamps and camera effects, pixels differ inside the mask only."""
    for index in range(12):
        one = sample_open_vocab_scene(words, "train", index)
        plain = tuple(replace(placed, feather=0.0) for placed in one.stamps)
        camera = Camera(flip_background=one.camera.flip_background)
        one = replace(one, jpeg_quality=0, stamps=plain, camera=camera)
        rgb, things = render(one, 0.5, (160, 160))
        empty, _ = render(replace(one, stamps=()), 0.5, (160, 160))
        changed = np.abs(rgb.astype(int) - empty).max(-1) > 0
        assert set(np.unique(things)) - {0} == set(range(1, len(one.objects) + 1)), "every thing is seen"
        covered = things > 0
        # A mask is surrounded by translucent pixels, about one wide.
        grown = covered.copy()
        for axis in (0, 1):
            for shift in (-3, -2, -1, 1, 2, 3):
                grown |= np.roll(covered, shift, axis)
        assert changed[~grown].mean() < 0.01
        assert changed[covered].mean() > 0.9


def test_features_are_cached(words: OpenVocabCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages").symlink_to(asset_packages.cache_dir() / "packages")
    load_sprite.cache_clear()
    monkeypatch.setenv("ICF_CACHE", str(tmp_path))
    wanted = SceneSet("train", 3, 0, DEFAULT, ClipSpec(frames=2, image_size=96), strides=(8, 32))
    done = []
    features = open_vocab_features(words, wanted, 1, lambda *at: done.append(at))
    assert done == [(3, 3)] * 2  # rendered, then segmented
    assert [level.shape for level in features.pyramid] == [(3, 2, 12, 12, 40), (3, 2, 3, 3, 320)]
    assert features.class_scores.shape == (3, 2, 3, 3, 1000) and features.stamp_maps.shape == (3, 2, 48, 48)
    assert features.images.shape == (3, 2, 48, 48, 3)
    seen = load_segmenter()(torch.tensor(features.images[1]))
    assert (dequantize_probs(features.object_probs[1]) - seen).abs().max() < 0.003
    scene = sample_open_vocab_scene(words, "train", 2, seconds=2)
    assert features.scenes[2] == scene
    rgb, things = render(scene, 1.5, (96, 96))
    np.testing.assert_array_equal(features.object_maps(2)[1], things[1::2, 1::2])
    word = scene.objects[0].words[0]
    np.testing.assert_array_equal(features.masks(2, word)[1], things[1::2, 1::2] == 1)
    assert not features.masks(2, "no such word").any()
    network = load_efficientnet_lite0()
    with torch.inference_mode():
        pyramid = network(torch.from_numpy(rgb.copy())[None])
        scores = DenseClassifier(network)(pyramid[-1])
    np.testing.assert_allclose(features.pyramid[0][2, 1], pyramid[1][0].permute(1, 2, 0).numpy(), atol=0.02, rtol=0.01)
    assert (dequantize_scores(features.class_scores[2, 1]) - scores[0].clamp(-4, 27.875)).abs().max() < 0.08
    again = open_vocab_features(words, wanted, 1)
    np.testing.assert_array_equal(again.class_scores, features.class_scores)
    names = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert len(names) == 2 and names[1] == f"{names[0]}-objects"


def test_scores_are_quantized_to_a_byte() -> None:
    scores = torch.linspace(-4, 27.8, 1000 * 4).view(1, 1000, 2, 2)
    assert (dequantize_scores(quantize_scores(scores)) - scores).abs().max() <= 0.0626
    assert quantize_scores(torch.full((1, 1000, 1, 1), 99.0)).max() == 255
    assert quantize_scores(torch.full((1, 1, 1, 1), -99.0)) == 0
