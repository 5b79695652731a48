"""The shipped checkpoint for natural video, on a composed one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from test_efficientat import published_weights

import icf_avs
from icf_avs.backbones import efficientat
from icf_avs.contracts import ClipSpec


@pytest.fixture(scope="module")
def segmenter():
    path = published_weights()
    if path is None:
        pytest.skip(f"{efficientat.FILE} is neither in ICF_WEIGHTS_DIR nor in ../shared/weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICF_WEIGHTS_DIR", str(path.parent))
        yield icf_avs.load("natural")


@pytest.fixture(scope="module")
def scene(tmp_path_factory, catalog):
    """A fire truck that sounds in the first three of five seconds, between a seahorse and a lobster; its masks."""
    spec = importlib.util.spec_from_file_location(
        "make_picture", Path(__file__).parents[1] / "docs" / "make_picture.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    video = tmp_path_factory.mktemp("scene") / "truck.mp4"
    return video, module.write_scene(video, ClipSpec()).masks > 0


def test_it_finds_a_thing_while_it_sounds(segmenter, scene):
    video, truth = scene
    result = segmenter.segment(video)
    assert dict(result.heard[1])["fire truck"] > 0.2
    for second in range(3):
        marked = result.masks[second]
        assert (marked & truth[second]).sum() / (marked | truth[second]).sum() > 0.5
    assert np.all(result.areas[3:] < 0.01)


def test_other_words_leave_it_unmarked(segmenter, scene):
    try:
        segmenter.listen_for("dog, violin")
        assert np.all(segmenter.segment(scene[0]).areas < 0.01)
        segmenter.listen_for("fire engine")
        assert segmenter.segment(scene[0]).areas[1] > 0.02
    finally:
        segmenter.model.audio.asked.fill_(1)
