"""A small run of recipe `natural`: sample sheets and best checkpoint, which do not change the training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from icf_avs.checkpoint.serialization import read_recipe
from icf_avs.config import TrainConfig, WordDataConfig
from icf_avs.encoders import open_vocab_encoder
from icf_avs.encoders.efficientat import EfficientAT
from icf_avs.encoders.text_encoders import MINILM_DIM
from icf_avs.networks.build import build_model_audio
from icf_avs.synthetic.open_vocab_sampler import NATURAL, sample_open_vocab_scene
from icf_avs.synthetic.rendering import render_frame
from icf_avs.synthetic.scene_features import VALIDATION_SEED
from icf_avs.synthetic.tagger_cache import TaggerOutputs
from icf_avs.training import composed_data, run
from icf_avs.training import trainer as trainer_module
from icf_avs.training.callbacks import CLIPS, COLUMNS, GAP, SIDE
from icf_avs.training.composed_data import OpenVocabData
from icf_avs.training.recipes import natural
from icf_avs.training.run import train

pytestmark = pytest.mark.full

FULL = natural()
TINY = replace(
    FULL, model=replace(FULL.model, dim=32, pixel_dim=16), words=WordDataConfig(images=16, clips=2, validation=16),
    spec=replace(FULL.spec, image_size=64), steps=4, batch=10, warmup=2, checkpoint_every=2,
)  # fmt: skip


def embedded(encoder: str | tuple[str, ...], names: tuple[str, ...] = ()) -> torch.Tensor:
    """Random unit vectors seeded by the name, in place of text embeddings."""
    texts = names or encoder
    vectors = torch.stack([
        torch.randn(MINILM_DIM, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts
    ])  # fmt: skip
    return torch.nn.functional.normalize(vectors, dim=-1)


def heard(*_: object, **__: object) -> TaggerOutputs:
    """Tagger outputs without recordings, so that sounds are words."""
    nothing = np.zeros((2, len(composed_data.audio_words()) + 900), np.float16)
    return TaggerOutputs((), nothing[:0, None], nothing[:, None], nothing, np.zeros((0, 2), int), nothing[:0])


@pytest.fixture(scope="module")
def data() -> Iterator[OpenVocabData]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composed_data, "embed_names", embedded)
        patch.setattr(open_vocab_encoder, "embed_with_minilm", embedded)
        patch.setattr(trainer_module, "embed_names", embedded)
        patch.setattr(composed_data, "load_tagger", lambda _: EfficientAT(32_000))
        patch.setattr(composed_data, "tagger_outputs", heard)
        patch.setattr(
            trainer_module, "build_model_audio", lambda model, names: build_model_audio(model, names, random=True)
        )
        made = OpenVocabData(TINY, None, 1, lambda *_: None)
        size = len(made.classes)
        made.sounds = replace(made.sounds, silent=np.zeros((2, 1, size), np.float16), noise=np.zeros((2, size)))

        def loaded(config: TrainConfig, *_: object) -> OpenVocabData:
            made.config = config
            return made

        patch.setattr(run, "training_data", loaded)
        yield made


def test_validation_writes_samples_and_the_best_checkpoint(data: OpenVocabData, tmp_path: Path) -> None:
    train(TINY, tmp_path / "watched")
    rows = [json.loads(row) for row in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"] + 1: row["score"] for row in rows if row["stage"] == "validation"}
    assert list(scores) == [2, 4]
    sheets = sorted((tmp_path / "watched" / "samples").iterdir())
    assert [path.name for path in sheets] == ["000002.png", "000004.png"]
    with Image.open(sheets[-1]) as sheet:
        assert sheet.size == (COLUMNS * (SIDE + GAP), CLIPS * (3 * (SIDE + GAP) + 2 * GAP))
    best = read_recipe(tmp_path / "watched" / "best.safetensors")
    assert best["step"] == max(scores, key=scores.get)
    assert best["validation"]["score"] == pytest.approx(max(scores.values()), abs=1e-5)

    train(replace(TINY, checkpoint_every=1000), tmp_path / "alone")
    watched, alone = (load_file(tmp_path / name / "natural.safetensors") for name in ("watched", "alone"))
    assert all(value.equal(alone[name]) for name, value in watched.items()), "to look changes nothing"


def test_training_scenes_follow_the_seed_and_validation_scenes_do_not(data: OpenVocabData) -> None:
    other = OpenVocabData(replace(TINY, seed=1), None, 1, lambda *_: None)
    seen = [[scene.stamps for features in (run.images, run.clips) for scene in features.scenes]
            for run in (data, other)]  # fmt: skip
    assert not any(stamps in seen[0] for stamps in seen[1])
    assert other.validation_features.scenes == data.validation_features.scenes


def test_sample_clips_show_what_is_asked_for(data: OpenVocabData) -> None:
    samples = data.samples(CLIPS)
    assert len(samples) == CLIPS and any(sample.masks.any() for sample in samples)
    for number, sample in enumerate(samples):
        scene = sample_open_vocab_scene(data.catalog, "val", number, VALIDATION_SEED, NATURAL, seconds=5)
        assert sample.frames.shape == (5, 64, 64, 3) and sample.frames.float().std() > 5
        assert sample.sound.shape == (5, len(data.classes))
        for t, mask in enumerate(sample.masks):
            if not mask.any():
                continue
            things = scene.object_map(render_frame(scene, TINY.spec.frame_time(t), (64, 64))[1][1::2, 1::2])
            shares = [(things == number).reshape(16, 2, 16, 2).mean((1, 3)) for number in range(1, things.max() + 1)]
            whole = (sum(chosen) for n in range(1, 5) for chosen in combinations(shares, n))
            assert any(np.allclose(each, mask) for each in whole), "some of its things, and no part of another"
