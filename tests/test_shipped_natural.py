"""Checkpoint `natural` on a composed video."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tagger_weights import published_weights

import icf_avs
from icf_avs.__main__ import main
from icf_avs.export.export_model import graphs_of
from icf_avs.media.images import resize_frames
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference
from icf_avs.synthetic import asset_packages
from icf_avs.types import ClipSpec
from tools.make_picture import write_scene


@pytest.fixture(scope="module")
def segmenter():
    path = published_weights()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICF_WEIGHTS_DIR", str(path.parent))
        yield icf_avs.load("natural")


@pytest.fixture(scope="module")
def scene(tmp_path_factory, catalog):
    """A video of a fire truck, a seahorse and a lobster; the truck sounds for three of five seconds. And its masks."""
    video = tmp_path_factory.mktemp("scene") / "truck.mp4"
    return video, write_scene(video, ClipSpec()).masks > 0


def test_an_object_is_segmented_while_it_sounds(segmenter, scene):
    video, truth = scene
    result = segmenter.segment(video)
    assert dict(result.heard[1])["fire truck"] > 0.2
    for second in range(3):
        marked = result.masks[second]
        assert (marked & truth[second]).sum() / (marked | truth[second]).sum() > 0.5
    assert np.all(result.areas[3:] < 0.01)


def test_other_words_leave_it_unsegmented(segmenter, scene):
    assert np.all(segmenter.segment(scene[0], words="dog, violin").areas < 0.01)
    assert segmenter.segment(scene[0], words="fire engine").areas[1] > 0.02


def test_the_page_shows_the_tags_of_words(segmenter, scene, tmp_path):
    siren = run_inference(segmenter, scene[0], tmp_path, Limits(), words="Siren; thunder").summary
    assert siren.startswith("Segmented in 3 of 5 seconds.")
    assert "siren: emergency vehicle" in siren and "thunder: no visible object" in siren
    dogs = run_inference(segmenter, scene[0], tmp_path, Limits(), words="dogs").summary
    assert dogs == "Segmented in 0 of 5 seconds. None of the sounds asked for. dogs: dog."


@pytest.mark.parametrize(
    ("stem", "said", "not_said"),
    [
        ("people/fireman240a", "male person", "dog"),
        ("animals/mammals/dogs/dog", "dog", "female person"),
        ("vehicles/masstransit/green_korean_bus", "bus", "sheep"),
    ],
)
def test_a_photograph_is_segmented_for_its_word_only(segmenter, stem, said, not_said):
    """Cut-out photographs on plain green."""
    predictor, side, model = segmenter.predictor, 448, segmenter.predictor.model
    stamp = Image.open(asset_packages.stamps_root() / f"{stem}.png").convert("RGBA")
    scale = 0.7 * side / max(stamp.size)
    stamp = stamp.resize((round(stamp.width * scale), round(stamp.height * scale)))
    picture, mask = Image.new("RGB", (side, side), (120, 150, 90)), Image.new("L", (side, side))
    corner = (side - stamp.width) // 2, (side - stamp.height) // 2
    picture.paste(stamp, corner, stamp)
    mask.paste(stamp.getchannel("A"), corner)
    frames = torch.from_numpy(np.array(picture))[None, None]
    words = torch.zeros(2, 1, 1, len(model.classes))
    words[0, ..., model.classes.index(said)] = words[1, ..., model.classes.index(not_said)] = 0.9
    with torch.inference_mode():
        scales, valid = predictor.encode(frames), torch.ones(1, 1, dtype=torch.bool)
        answers = [predictor.segment(scales, model.network.encode_audio(word, tags=True), valid) for word in words]
        logits = torch.cat([answer.logits for answer in answers])
    half = resize_frames(torch.from_numpy(np.array(mask.convert("RGB")))[None], logits.shape[-1])[0, ..., 0] > 127
    own, other = (logits[:, 0] > 0).unbind()
    assert (own & half).sum() / (own | half).sum() > 0.6
    assert other.float().mean() < 0.02


def test_exported_graphs_equal_the_model(segmenter):
    """On random audio with silent windows and on noise frames."""
    model, predictor = segmenter.model, segmenter.predictor
    hears, masks = graphs_of(model)
    with torch.inference_mode():
        (waves,) = hears.example(2, 3)
        waves[1, 2] = 0
        heard, tags = hears(waves)[0], model.audio.tag(waves)
        assert torch.allclose(heard, tags, atol=1e-5) and (tags > 0).any() and not tags[1, 2].any()
        frames, words = masks.example(1, 3)
        valid = torch.ones(1, 3, dtype=torch.bool)
        expected = predictor.segment(predictor.encode(frames), model.network.encode_audio(words, tags=True), valid)
        found = masks(frames, words)[0]
    assert (found - expected.logits).abs().max() < 0.1  # grey levels may be rounded differently
    assert (found - expected.logits).abs().mean() < 0.01


@pytest.mark.full
def test_exported_files_segment_without_the_package(segmenter, scene, tmp_path):
    assert main(["export", "natural", "--out", str(tmp_path)]) == 0
    assert "natural-tags.onnx" in (tmp_path / "README.md").read_text()
    example = Path(__file__).parents[1] / "examples" / "onnx_segment.py"
    command = [sys.executable, example, tmp_path / "natural.onnx", scene[0], tmp_path / "masks"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    paths = sorted((tmp_path / "masks").iterdir())
    found = np.stack([np.asarray(Image.open(path)) > 0 for path in paths])
    expected = segmenter.segment(scene[0]).masks
    assert found.shape == expected.shape
    assert (found & expected).sum() / (found | expected).sum() > 0.99
