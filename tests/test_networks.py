"""Properties of every network, and the features that ICF taps; pixel decoders equal those of transformers."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import BUILDERS, WIDTHS, SmallVisual, random_clips, small_network
from torch import nn
from transformers import Mask2FormerConfig, Mask2FormerModel, ResNetConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from icf_avs.errors import UserError
from icf_avs.networks import AVSegFormer, DeformablePixelDecoder
from icf_avs.networks.deformable import DeformableEncoder, SinePositionEmbedding
from icf_avs.types import NetworkOutput

every_network = pytest.mark.parametrize("name", BUILDERS)
LOGITS_STRIDE = {"query-light": 4, "query-deformable": 4, "tpavi": 1, "avsegformer": 1}


def tensors(output: NetworkOutput) -> list[torch.Tensor]:
    own = [output.logits, *output.auxiliary.values(), *output.features.visual, output.features.audio]
    return own if output.classes is None else [*own, output.classes]


@every_network
@pytest.mark.parametrize(("frames", "size", "train_visual"), [(3, (64, 64), False), (1, (37, 50), True)])
def test_shapes(name: str, frames: int, size: tuple[int, int], train_visual: bool) -> None:
    network = small_network(name, train_visual)
    output = network(*random_clips(2, frames, size))
    levels = [tuple(math.ceil(side / stride) for side in size) for stride in (4, 8, 16, 32)]
    widths = network.feature_spec.visual
    assert widths == (WIDTHS if train_visual else (network.dim,) * 4)
    shapes = [(2, frames, width, *level) for width, level in zip(widths, levels, strict=True)]
    assert [tuple(x.shape) for x in output.features.visual] == shapes
    assert output.features.audio.shape == (2, frames, network.feature_spec.audio)
    side = 4 // LOGITS_STRIDE[name]
    assert output.logits.shape == (2, frames, side * levels[0][0], side * levels[0][1])
    assert output.classes is None
    output = small_network(name, train_visual, classes=7)(*random_clips(2, frames, size))
    assert output.classes.shape == (2, frames, 7, *output.logits.shape[2:])
    foreground = output.classes.softmax(2)[:, :, 1:].sum(2)
    torch.testing.assert_close(output.logits.sigmoid(), foreground, msg="everything but background")


@every_network
def test_padding_changes_no_other_frame_in_training(name: str) -> None:
    clips, changed, found = random_clips(), random_clips(seed=1), []
    clips.valid[0, 2] = clips.valid[1, 1:] = False
    for other, own in zip(changed, clips, strict=True):
        other[clips.valid] = own[clips.valid]
    for batch in (clips, changed._replace(valid=clips.valid)):
        network = small_network(name).train()
        torch.manual_seed(0)  # of dropout
        found.append([x[clips.valid] for x in tensors(network(*batch))])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@every_network
def test_a_padded_clip_equals_the_short_clip_in_any_order(name: str) -> None:
    network, clips, order = small_network(name), random_clips(3), torch.tensor([2, 0, 1])
    clips.valid[:, 2] = False
    long, short = (tensors(network(*batch)) for batch in (clips, clips.at(order, slice(2))))
    torch.testing.assert_close([x[order, :2] for x in long], short, rtol=1e-4, atol=1e-5)


@every_network
def test_outputs_are_deterministic_and_depend_on_audio(name: str) -> None:
    network, clips = small_network(name), random_clips()
    first, second = network(*clips), network(*clips)
    assert all(map(torch.equal, tensors(first), tensors(second)))
    silent = network(*clips._replace(sound=torch.zeros_like(clips.sound)))
    assert (first.logits - silent.logits).abs().max() > 1e-4
    for one, other in zip(first.features.visual, silent.features.visual, strict=True):
        assert torch.equal(one, other)  # the visual features for ICF do not depend on audio


@every_network
@pytest.mark.parametrize("train_visual", [False, True])
def test_gradients_reach_all_trained_parameters(name: str, train_visual: bool) -> None:
    network = small_network(name, train_visual).train()
    output = network(*random_clips())
    assert all(x.requires_grad for x in (*output.features.visual, output.features.audio))
    sum(x.square().mean() for x in (output.logits, *output.auxiliary.values())).backward()
    without = {key for key, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not {key for key in without if not key.endswith(("attend.bias", "key.bias"))}  # no effect on softmax
    frozen = {key for key, p in network.named_parameters() if not p.requires_grad}
    assert all(key.startswith(("visual.", "fuse.3.skip.")) for key in frozen)
    assert any(key.startswith("visual.") for key in frozen) is not train_visual


@every_network
def test_every_tensor_is_on_the_device_of_the_input(name: str) -> None:
    network = small_network(name, classes=5).to("meta")
    output = network(*(x.to("meta") for x in random_clips()))
    assert {x.device.type for x in tensors(output)} == {"meta"}
    with torch.device("meta"):  # a network built there has no tensor elsewhere
        built = BUILDERS[name](SmallVisual(), nn.Identity())
    assert {x.device.type for x in built.state_dict().values()} == {"meta"}


@every_network
def test_bfloat16_autocast(name: str) -> None:
    network, clips = small_network(name), random_clips(1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = network(*clips).logits
    lower.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    full = network(*clips).logits
    assert (lower - full).abs().mean() < 0.05 * full.abs().mean()


def test_audio_changes_each_query_differently() -> None:
    """Cross-attention to a single audio token would shift all queries by the same vector."""
    queries = small_network("query-light").queries
    one, other = queries(torch.randn(1, 32)), queries(torch.randn(1, 32))
    moved = (one - other)[0]
    assert (moved - moved.mean(0)).norm(dim=1).min() > 0.1


def test_positions_equal_those_of_transformers() -> None:
    """Those that are not normalised; the normalised ones are compared in the decoder below."""
    shape = (2, 7, 5, 3)
    found = SinePositionEmbedding(32, normalised=False)(shape, "cpu", torch.float32)
    expected = Mask2FormerSinePositionEmbedding(16, normalize=False)(shape, "cpu", torch.float32)
    torch.testing.assert_close(found, expected[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_deformable_attention_is_initialised_as_in_transformers() -> None:
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    backbone.out_features = ["stage1", "stage2", "stage3", "stage4"]
    sizes = {"feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "encoder_layers": 2, "decoder_layers": 2}
    config = Mask2FormerConfig(backbone_config=backbone, **sizes)
    full = Mask2FormerModel(config).pixel_level_module.decoder.state_dict()
    for module in (DeformablePixelDecoder((8, 8, 8, 8), 64, layers=2), DeformableEncoder(64, 2, 128, dropout=0.0)):
        state = {key.removeprefix("decoder."): value for key, value in module.state_dict().items()}
        for key, value in state.items():
            assert value.isfinite().all(), key
            if key.endswith(("sampling_offsets.weight", "sampling_offsets.bias", "attention_weights.weight")):
                torch.testing.assert_close(value, full[key], msg=key)
            if key.endswith(("attention_weights.bias", "value_proj.bias", "output_proj.bias")):
                assert not value.any(), key
        level = state["level_embed"] if "level_embed" in state else state["level"]
        assert 0.7 < level.std() < 1.3  # standard normal, as in transformers


def test_deformable_decoder_equals_that_of_transformers() -> None:
    torch.manual_seed(0)
    ours = DeformablePixelDecoder(WIDTHS, 32, layers=1)
    theirs = type(ours.decoder)(ours.decoder.config, list(WIDTHS))  # with the library's position embedding
    theirs.load_state_dict(ours.decoder.state_dict())
    pyramid = [torch.randn(2, c, s, s + 1) for c, s in zip(WIDTHS, (16, 8, 4, 2), strict=True)]
    expected, found = theirs(pyramid), ours(pyramid)
    torch.testing.assert_close(found.mask, expected.mask_features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.maps, expected.multi_scale_features, rtol=1e-4, atol=1e-5)


def test_without_transformers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    encoders = SmallVisual(), nn.Identity()
    for build in (lambda: DeformablePixelDecoder(WIDTHS, 32), lambda: AVSegFormer(*encoders, dim=32)):
        with pytest.raises(UserError, match="needs the library transformers; install it with: pip install"):
            build()
