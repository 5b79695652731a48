"""Open-vocabulary scenes: the catalog and its held-out classes, scenes, masks, and cached features."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from scene_digest import scene_digest

from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.open_vocab_encoder import DenseClassifier, audioset_names
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.voc_segmenter import load_segmenter
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.catalog import HELD_OUT, HELD_OUT_FAR, HELD_OUT_NEAR, OpenVocabCatalog, load_open_vocab_stamps
from icf_avs.synthetic.open_vocab_sampler import DEFAULT, NATURAL, OPEN_VOCAB_SPLITS, sample_open_vocab_scene
from icf_avs.synthetic.rendering import load_sprite, render_frame
from icf_avs.synthetic.scene import Camera, Scene
from icf_avs.synthetic.scene_features import SceneSet, dequantize_probs, dequantize_scores, open_vocab_features
from icf_avs.types import ClipSpec


@pytest.fixture(scope="module")
def words() -> OpenVocabCatalog:
    return load_open_vocab_stamps()


@pytest.fixture(scope="module")
def scenes(words: OpenVocabCatalog) -> dict[str, list[Scene]]:
    return {each: [sample_open_vocab_scene(words, each, index) for index in range(60)] for each in OPEN_VOCAB_SPLITS}


def test_scenes_are_unchanged(words: OpenVocabCatalog, scenes: dict[str, list[Scene]]) -> None:
    """Digests: other scenes would make old and new scores incomparable."""
    for split, digest in (("test", "6aa20b2097619868"), ("heldout", "d47fc38927842e54")):
        assert scene_digest(scenes[split][:12]) == digest, split
    natural = (sample_open_vocab_scene(words, "train", index, style=NATURAL) for index in range(40))
    assert scene_digest(natural) == "748f2c4e1bc37776"
    several = {split: [scene for scene in some if len(scene.objects) > 1] for split, some in scenes.items()}
    for what in (lambda scene: scene.background, lambda scene: {placed.stem for placed in scene.stamps}):
        seen = [what(scene) for scene in several["heldout"]]
        assert not any(what(scene) in seen for scene in several["heldout-val"])


@pytest.mark.full
def test_held_out_kinds_are_chosen_by_their_rule() -> None:
    text = resources.files("icf_avs.synthetic").joinpath("stamps.csv").read_text(encoding="utf-8")
    kinds = {row["class"] for row in csv.DictReader(text.splitlines()) if row["class"]}
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
    shown = {split: [frozenset(placed.stem for placed in one.stamps) for one in some] for split, some in scenes.items()}
    grounds = {split: {one.background for one in some} for split, some in scenes.items()}
    for split in ("train", "val"):
        assert not frozenset().union(*shown[split]) & (held_out | tests_only)
        assert {word for one in scenes[split] for word in one.present_words} <= set(words.training_words)
    in_test = frozenset().union(*shown["test"])
    assert not in_test & held_out and in_test & tests_only and all(stems & held_out for stems in shown["heldout"])
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(shown[one]) & set(shown[other]) and not grounds[one] & grounds[other]
    assert not grounds["train"] & grounds["heldout"]


def test_masks_cover_exactly_what_is_drawn(words: OpenVocabCatalog) -> None:
    """Compared with the same scene without stamps and camera effects, pixels differ inside the mask only."""
    for index in range(12):
        one = sample_open_vocab_scene(words, "train", index)
        plain = tuple(replace(placed, feather=0.0) for placed in one.stamps)
        camera = Camera(flip_background=one.camera.flip_background)
        one = replace(one, jpeg_quality=0, stamps=plain, camera=camera)
        rgb, stamp_map = render_frame(one, 0.5, (160, 160))
        empty, _ = render_frame(replace(one, stamps=()), 0.5, (160, 160))
        changed, things = np.abs(rgb.astype(int) - empty).max(-1) > 0, one.object_map(stamp_map)
        assert set(np.unique(things)) - {0} == set(range(1, len(one.objects) + 1)), "every thing is seen"
        covered = things > 0
        grown = np.any([np.roll(covered, shift, axis) for axis in (0, 1) for shift in range(-3, 4)], 0)
        # A mask is surrounded by translucent pixels, about one wide.
        assert changed[~grown].mean() < 0.01
        assert changed[covered].mean() > 0.9


def test_features_are_cached(words: OpenVocabCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages").symlink_to(asset_packages.cache_dir() / "packages")
    load_sprite.cache_clear()
    monkeypatch.setenv("ICF_CACHE", str(tmp_path))
    wanted = SceneSet("train", 3, 0, DEFAULT, ClipSpec(frames=2, image_size=96), strides=(8, 32))
    features = open_vocab_features(words, wanted, 1)
    seen = load_segmenter()(torch.tensor(features.images[1]))
    assert (dequantize_probs(features.object_probs[1]) - seen).abs().max() < 0.003
    scene = sample_open_vocab_scene(words, "train", 2, seconds=2)
    assert features.scenes[2] == scene
    rgb, stamp_map = render_frame(scene, 1.5, (96, 96))
    things = scene.object_map(stamp_map)[1::2, 1::2]
    np.testing.assert_array_equal(features.object_maps(2)[1], things)
    np.testing.assert_array_equal(features.masks(2, scene.objects[0].words[0])[1], things == 1)
    network = load_efficientnet_lite0()
    with torch.inference_mode():
        pyramid = network(torch.from_numpy(rgb.copy())[None])
        scores = DenseClassifier(network)(pyramid[-1])
    np.testing.assert_allclose(features.pyramid[0][2, 1], pyramid[1][0].permute(1, 2, 0).numpy(), atol=0.02, rtol=0.01)
    assert (dequantize_scores(features.class_scores[2, 1]) - scores[0].clamp(-4, 27.875)).abs().max() < 0.08
    np.testing.assert_array_equal(open_vocab_features(words, wanted, 1).class_scores, features.class_scores)
    names = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert len(names) == 2 and names[1] == f"{names[0]}-objects"
