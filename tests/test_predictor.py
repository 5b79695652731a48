"""The predictor and its postprocessing steps, with simple hand-made networks."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from small_guided import small_host
from torch import Tensor, nn

from icf_avs.checkpoint.serialization import load_checkpoint, save_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.inference.multiscale import LARGE_OBJECT_AREA, merge_scales
from icf_avs.inference.postprocess import ScaleMasks, postprocess
from icf_avs.inference.predictor import Predictor
from icf_avs.networks.base import Network
from icf_avs.networks.segmentation_model import SegmentationModel, current_keys
from icf_avs.types import AudioFeatures, NetworkFeatures, NetworkOutput, VisualFeatures

TENTH = round(LARGE_OBJECT_AREA * 400 / 10)  # of 400 cells, a tenth of LARGE_OBJECT_AREA


class Means(nn.Module):
    """The mean of each frame; `calls` records the number of frames per call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, frames: Tensor) -> list[Tensor]:
        self.calls.append(len(frames))
        return [frames.float().mean((1, 2, 3))[:, None, None, None]]


class Tagged(Network):
    """Logits are the mean of each frame, audio is the tags; `decoded` records the number of frames per call."""

    feature_spec = None

    def __init__(self) -> None:
        super().__init__(Means(), nn.Identity(), train_visual=False)
        self.decoded: list[int] = []

    def encode_audio(self, sound: Tensor, tags: bool = False) -> AudioFeatures:
        return AudioFeatures(sound, None, sound)

    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        assert not self.training and audio.token.shape[:2] == valid.shape and valid.all()
        self.decoded.append(valid.shape[1])
        return NetworkOutput(visual.pyramid[0][:, :, 0].expand(-1, -1, 4, 4), NetworkFeatures((), audio.token))


@pytest.fixture
def tagged() -> Predictor:
    host = small_host("query")
    return Predictor(SegmentationModel(host.config, host.spec, Tagged()).train())


def frames_of(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 32, 32, 3)


def test_frames_without_an_active_tag_are_not_processed(tagged: Predictor) -> None:
    tags = torch.zeros(4, 5)
    tags[1, 2] = tags[3, 0] = 0.4
    found = tagged.predict(frames_of([10, 20, 30, 40]), tags)
    network = tagged.model.network
    assert network.visual.calls == [1, 1] and network.decoded == [2]  # one frame at a time on a CPU
    assert found.logits[[1, 3], 0, 0].tolist() == [20, 40] and (found.logits[[0, 2]] < -20).all()
    assert found.heard.equal(tags) and found.words == tagged.classes
    arrays = tagged.predict(frames_of([10, 20, 30, 40]).numpy(), tags.numpy())
    assert arrays.logits.equal(found.logits) and arrays.heard.equal(found.heard)
    silent = tagged.predict(frames_of([10, 20]), torch.zeros(2, 5))  # decodes one frame for the mask size
    assert network.decoded == [2, 2, 1] and silent.logits.shape == (2, 4, 4) and (silent.logits < -20).all()


def test_frames_are_encoded_once_for_several_sounds(tagged: Predictor) -> None:
    frames, tags = frames_of([10, 20, 30]), torch.eye(5)[:3]
    tags[1] = 0
    each = tagged.predict_each(frames, [torch.ones(3, 5), tags])
    assert sum(tagged.model.visual.calls) == 3 and tagged.model.network.decoded == [3, 2]
    assert each[1].logits.equal(tagged.predict(frames, tags).logits)


def test_postprocessing_of_a_plain_network_only_adds_the_offset(tagged: Predictor) -> None:
    logits = torch.randn(1, 2, 4, 4)
    tagged.model.offset.fill_(0.5)
    assert postprocess([ScaleMasks(logits)], tagged.model).equal(logits + 0.5)


@pytest.mark.parametrize(
    ("full", "reduced", "first"),
    [((200, 4.0), (200, 2.0), 3.0), ((TENTH, 4.0), (200, -4.5), 4.0 - 8.5 / 20), ((0, 0.0), (200, 8.0), 1.0)],
    ids=["a large object: mean", "a small object: full scale", "an object of the small scale alone: half"],
)
def test_weights_of_two_scales(full: tuple[int, float], reduced: tuple[int, float], first: float) -> None:
    """Hand-worked. The first cells of a scale have a logit, the others have -6."""
    scales = torch.full((2, 400), -6.0)
    for scale, (cells, logit) in zip(scales, (full, reduced), strict=True):
        scale[:cells] = logit
    both = merge_scales(*scales.view(2, 1, 1, 20, 20))
    assert both[0, 0, 0, 0].item() == pytest.approx(first) and both[0, 0, 19, 19] == -6


def test_checkpoints_of_earlier_versions_load(tmp_path) -> None:
    """Before, the guided network was not inside a model, and some parts had other names."""
    shipped = find_checkpoint("stamps")[0]
    earlier, model = load_file(shipped), load_checkpoint(shipped)
    assert {"offset", "pixels.down16.weight", "shared_space.radius"} <= earlier.keys()
    save_checkpoint(model, tmp_path / "again.safetensors", {"name": "again"})
    now = load_file(tmp_path / "again.safetensors")
    assert current_keys(now) == now and current_keys(earlier).keys() == now.keys()
    assert all(value.equal(now[key]) for key, value in current_keys(earlier).items())
    between = {key.replace("class_means", "alone").replace("seen_classes", "met"): value for key, value in now.items()}
    assert "network.counterfactual.alone" in between and current_keys(between) == now
    again = load_checkpoint(tmp_path / "again.safetensors").state_dict()
    assert all(value.equal(again[key]) for key, value in model.state_dict().items())
