"""Properties of every network, and the features that ICF taps; pixel decoders equal those of transformers."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import BUILDERS, WIDTHS, SmallVisual, random_clips, small_network
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerModel, ResNetConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from icf_avs.errors import UserError
from icf_avs.networks import AVSegFormer, DeformablePixelDecoder, LightPixelDecoder, QueryNetwork
from icf_avs.networks.deformable import DeformableEncoder, SinePositionEmbedding
from icf_avs.types import AudioFeatures, NetworkOutput, VisualFeatures

every_network = pytest.mark.parametrize("name", BUILDERS)
RESNET50 = (256, 512, 1024, 2048)
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
@pytest.mark.parametrize("train", [False, True])
def test_padding_changes_no_other_frame(name: str, train: bool) -> None:
    clips, changed, found = random_clips(), random_clips(seed=1), []
    clips.valid[0, 2] = clips.valid[1, 1:] = False
    for other, own in zip(changed, clips, strict=True):
        other[clips.valid] = own[clips.valid]
    for batch in (clips, changed._replace(valid=clips.valid)):
        network = small_network(name).train(train)
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
def test_a_frozen_encoder_is_only_under_the_prefix_visual(name: str) -> None:
    network = small_network(name)
    visual = {id(p) for p in network.visual.parameters()}
    names = {key for key, p in network.named_parameters(remove_duplicate=False) if id(p) in visual}
    assert names and all(key.startswith("visual.") for key in names)
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("visual.")}
    other = small_network(name, train_visual=True)
    assert not any(other.load_state_dict(state, strict=False).unexpected_keys)


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


def test_two_layers_use_maps_of_every_stride() -> None:
    """With two layers, maps of stride 8 still reach the mask, and every layer has a map."""
    network, clips = small_network("query-light", layers=2), random_clips()
    visual = network.encode_frames(clips.frames).map(Tensor.requires_grad_)
    network(visual, clips.sound, clips.valid).logits.sum().backward()
    assert all(x.grad.any() for x in visual.pyramid)


@pytest.mark.parametrize("normalised", [False, True])
def test_positions_equal_those_of_transformers(normalised: bool) -> None:
    shape = (2, 7, 5, 3)
    found = SinePositionEmbedding(32, normalised)(shape, "cpu", torch.float32)
    expected = Mask2FormerSinePositionEmbedding(16, normalize=normalised)(shape, "cpu", torch.float32)
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


@pytest.mark.parametrize("decoder", [LightPixelDecoder, DeformablePixelDecoder])
def test_query_network_at_the_widths_of_a_resnet_50(decoder: type) -> None:
    with torch.device("meta"):
        encoder = nn.Module()
        encoder.channels = RESNET50
        network = QueryNetwork(encoder, nn.Identity(), 128, decoder(RESNET50, 256), classes=71, layers=6)
        pyramid = [torch.empty(1, 5, c, s, s) for c, s in zip(RESNET50, (56, 28, 14, 7), strict=True)]
        visual = network.eval().encode_visual(VisualFeatures(pyramid))
        output = network.decode(visual, AudioFeatures(torch.empty(1, 5, 128)), torch.ones(1, 5, dtype=torch.bool))
    assert output.classes.shape == (1, 5, 71, 56, 56)
    assert [tuple(x.shape) for x in output.features.visual] == [(1, 5, 256, s, s) for s in (56, 28, 14, 7)]
    if decoder is DeformablePixelDecoder:  # transformers has 5.32 million at the widths of PVT-v2; these are wider
        wider = 256 * (sum(RESNET50) - (64 + 128 + 320 + 512))
        assert sum(p.numel() for p in network.pixel_decoder.parameters()) == pytest.approx(5_320_000 + wider, abs=5_000)


def test_without_transformers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    encoders = SmallVisual(), nn.Identity()
    for build in (lambda: DeformablePixelDecoder(WIDTHS, 32), lambda: AVSegFormer(*encoders, dim=32)):
        with pytest.raises(UserError, match="needs the library transformers; install it with: pip install"):
            build()
