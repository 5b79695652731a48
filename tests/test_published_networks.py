"""TPAVI and AVSegFormer against their public descriptions: parameters, audio-visual interaction, mixer, queries."""

from __future__ import annotations

import pytest
import torch
from small_networks import small_network
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.batch_norm import FrameBatchNorm
from icf_avs.config import ModelConfig
from icf_avs.networks.avsegformer import Mixer
from icf_avs.networks.build import build_model_audio, build_network
from icf_avs.networks.tpavi import PixelWiseInteraction, ResidualUnit
from icf_avs.types import AudioFeatures, VisualFeatures

WIDTHS = {"resnet-50": (256, 512, 1024, 2048), "pvt-v2-b5": (64, 128, 320, 512)}
NORM = 2 * 256


def layer(inputs: int, outputs: int, kernel: int = 1, bias: bool = True) -> int:
    """Number of parameters of a linear or convolutional layer."""
    return inputs * outputs * kernel * kernel + (outputs if bias else 0)


def tpavi_parameters(widths: tuple[int, ...], classes: int | None) -> int:
    """From the layer list of the public code (OpenNLPLab/AVSBench at f7414af)."""
    dilated = sum(4 * layer(width, 256, 3) for width in widths)
    # Audio 128 -> 256 (no bias for classes), theta, phi and g, W_z with batch normalisation, layer normalisation.
    module = layer(128, 256, bias=classes is None) + 3 * layer(256, 128) + layer(128, 256) + 2 * NORM
    fusion = 2 * 2 * layer(256, 256, 3)  # two residual units of two convolutions, also in the first step
    output = layer(256, 128, 3) + layer(128, 32, 3) + layer(32, classes or 1)
    return dilated + 4 * module + 4 * fusion + output


def avsegformer_parameters(widths: tuple[int, ...], classes: int | None) -> int:
    """From the described layers."""

    def feed_forward(hidden: int) -> int:
        return layer(256, hidden) + layer(hidden, 256)

    attention, bare_attention = 4 * layer(256, 256), 4 * 256 * 256
    deformable = layer(256, 8 * 3 * 4 * 2) + layer(256, 8 * 3 * 4) + 2 * layer(256, 256)
    encoder = 6 * (deformable + feed_forward(2048) + 2 * NORM) + 3 * 256  # and the level embedding
    generator = 6 * (2 * bare_attention + feed_forward(1024) + 3 * NORM) + 300 * 256
    decoder = 6 * (2 * attention + feed_forward(2048) + 3 * NORM) + 300 * 256
    projections = layer(128, 256) + sum(layer(width, 256) + NORM for width in widths)
    mask = layer(256, 256) + NORM + layer(9 * 256, 256) + NORM
    mixer = 3 * layer(256, 256, bias=False) + layer(256, 256)
    fusion = layer(300, 2048) + layer(2048, 2048) + layer(2048, 256)
    head = layer(9 * 256, 128) + layer(9 * 128, 32) + layer(32, classes or 1, bias=False)
    return encoder + generator + decoder + projections + mask + mixer + fusion + head


@pytest.mark.parametrize("semantic", [False, True])
@pytest.mark.parametrize(
    ("name", "visual", "parameters"),
    [("tpavi", "resnet-50", tpavi_parameters), ("tpavi", "pvt-v2-b5", tpavi_parameters),
     ("avsegformer", "pvt-v2-b5", avsegformer_parameters)],
)  # fmt: skip
def test_as_many_parameters_as_the_public_network(name: str, visual: str, parameters, semantic: bool) -> None:
    """Without the encoders. As published, the 128 features of VGGish enter the network without a projection."""
    names, widths, classes = tuple(f"kind {number}" for number in range(70)), WIDTHS[visual], 71 if semantic else None
    options = {"implicit_text": None, "counterfactual": None, "contrastive": None, "audio": "vggish", "dim": 256}
    options |= {"layers": 6, "heads": 8, "train_visual": True, "semantic": semantic}
    config = ModelConfig(names, network=name, visual=visual, **options)
    with torch.device("meta"):
        audio = build_model_audio(config, torch.zeros(70, 1), random=True)
        encoder = nn.Module()
        encoder.channels = widths
        network = build_network(config, encoder, audio).eval()
        pyramid = [torch.empty(1, 2, c, s, s) for c, s in zip(widths, (56, 28, 14, 7), strict=True)]
        features = network.encode_visual(VisualFeatures(pyramid))
        output = network.decode(features, AudioFeatures(torch.empty(1, 2, 128)), torch.ones(1, 2, dtype=torch.bool))
    beside = sum(p.numel() for key, p in network.named_parameters() if not key.startswith("audio."))
    assert beside == parameters(widths, classes)
    assert sum(p.numel() for p in network.audio.parameters()) == 72_141_184  # VGGish alone
    assert output.logits.shape == (1, 2, 224, 224)
    assert (None if output.classes is None else output.classes.shape[2]) == classes
    assert [x.shape[-2:] for x in output.auxiliary.values()] == [(56, 56)] * (name == "avsegformer")


def all_pairs(block: PixelWiseInteraction, maps: Tensor, audio: Tensor) -> Tensor:
    """The block on one clip [T,D,h,w] without padding, via the matrix [Thw,Thw] of all pairs of positions."""
    frames, dim, height, width = maps.shape
    x = maps.permute(0, 2, 3, 1).reshape(-1, dim)
    sound = block.align(audio).repeat_interleave(height * width, 0)  # each position gets the audio of its frame
    theta, g, out = (layer.weight[:, :, 0, 0] for layer in (block.theta, block.g, block.out))
    pairs = (x @ theta.T + block.theta.bias) @ block.phi(sound).T
    read = pairs / len(x) @ (x @ g.T + block.g.bias)
    norm = block.batch_norm
    w = read @ out.T + block.out.bias
    w = (w - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    z = F.layer_norm(x + w, (dim,), block.norm.weight, block.norm.bias)
    return z.reshape(frames, height, width, dim).permute(0, 3, 1, 2)


def test_interaction_is_that_of_all_pairs_of_valid_positions() -> None:
    torch.manual_seed(0)
    block = PixelWiseInteraction(8, 5, audio_bias=True).eval()
    maps, audio = torch.randn(2, 4, 8, 3, 5), torch.randn(2, 4, 5)
    start, _ = block(maps, audio, torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(start, F.layer_norm(maps.movedim(2, -1), (8,)).movedim(-1, 2))
    for tensor in (block.batch_norm.weight, block.batch_norm.running_mean, block.batch_norm.bias):
        nn.init.normal_(tensor)
    found, _ = block(maps, audio, torch.tensor([[True] * 4, [True, True, False, False]]))
    torch.testing.assert_close(found[0], all_pairs(block, maps[0], audio[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1, :2], all_pairs(block, maps[1, :2], audio[1, :2]), rtol=1e-4, atol=1e-5)


def test_residual_unit_is_that_of_in_place_relu() -> None:
    unit, x = ResidualUnit(4), torch.randn(1, 4, 6, 6)
    rectified = x.clamp(min=0)
    inner = F.conv2d(rectified, unit.first.weight, unit.first.bias, padding=1).clamp(min=0)
    expected = F.conv2d(inner, unit.second.weight, unit.second.bias, padding=1) + rectified
    torch.testing.assert_close(unit(x), expected)


def test_batch_normalisation_is_that_of_the_valid_frames() -> None:
    torch.manual_seed(0)
    ours, theirs = FrameBatchNorm(6), nn.BatchNorm3d(6)
    for norm in (ours, theirs):
        nn.init.constant_(norm.weight, 1.5)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    for _ in range(2):
        x = (3 + 2 * torch.randn(2, 3, 6, 4, 5)).requires_grad_()
        found, frames = ours(x, valid)[valid], x[valid]  # n 6 4 5
        expected = theirs(frames[..., None])[..., 0]
        weights = torch.randn_like(expected)
        gradients = [torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (found, expected)]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close([*ours.state_dict().values()], [*theirs.state_dict().values()])
    torch.testing.assert_close(ours.eval()(x, valid)[valid], theirs.eval()(frames[..., None])[..., 0])


def test_mixer_scales_channels_by_attention_over_all_pixels() -> None:
    torch.manual_seed(0)
    mixer, maps, audio = Mixer(32), torch.randn(3, 32, 4, 5), torch.randn(3, 1, 32)
    reference = nn.MultiheadAttention(32, 8, batch_first=True)
    reference.in_proj_weight.data = torch.cat([layer.weight for layer in (mixer.query, mixer.key, mixer.value)])
    reference.in_proj_bias.data.zero_()
    reference.out_proj.load_state_dict(mixer.out.state_dict())
    pixels = maps.flatten(2).transpose(1, 2)
    gate = reference(audio, pixels, pixels)[0].sigmoid().transpose(1, 2)[..., None]
    torch.testing.assert_close(mixer(maps, audio), maps * gate)
    torch.testing.assert_close(mixer(maps[:1], audio[:1]), (maps * gate)[:1])  # a single frame too


def test_generated_queries_differ_and_depend_on_the_audio() -> None:
    generator = small_network("avsegformer").generator
    one, other = generator(torch.randn(1, 1, 32)), generator(torch.randn(1, 1, 32))
    assert torch.pdist(one[0]).min() > 0.1
    assert (one - other).norm(dim=2).min() > 0.1
