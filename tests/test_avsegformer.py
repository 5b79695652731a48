"""AVSegFormer against its published description: parameters, mixer, queries."""

from __future__ import annotations

import torch
from small_networks import random_clips, small_network
from torch import nn

from icf_avs.config import ModelConfig
from icf_avs.networks import AVSegFormer
from icf_avs.networks.avsegformer import Mixer
from icf_avs.networks.build import build_model_audio, build_network
from icf_avs.types import AudioFeatures, VisualFeatures

PVT = (64, 128, 320, 512)


def public_parameters(widths: tuple[int, ...], classes: int) -> int:
    """Number of parameters without the encoders, counted from the described layers."""

    def linear(inputs: int, outputs: int, bias: bool = True) -> int:
        return inputs * outputs + (outputs if bias else 0)

    def feed_forward(hidden: int) -> int:
        return linear(256, hidden) + linear(hidden, 256)

    norm = 2 * 256
    attention, bare_attention = 4 * linear(256, 256), 4 * 256 * 256
    deformable = linear(256, 8 * 3 * 4 * 2) + linear(256, 8 * 3 * 4) + 2 * linear(256, 256)
    encoder = 6 * (deformable + feed_forward(2048) + 2 * norm) + 3 * 256  # and the level embedding
    generator = 6 * (2 * bare_attention + feed_forward(1024) + 3 * norm) + 300 * 256
    decoder = 6 * (2 * attention + feed_forward(2048) + 3 * norm) + 300 * 256
    projections = linear(128, 256) + sum(linear(width, 256) + norm for width in widths)
    mask = linear(256, 256) + norm + linear(9 * 256, 256) + norm
    mixer = 3 * linear(256, 256, bias=False) + linear(256, 256)
    fusion = linear(300, 2048) + linear(2048, 2048) + linear(2048, 256)
    head = linear(9 * 256, 128) + linear(9 * 128, 32) + linear(32, classes, bias=False)
    return encoder + generator + decoder + projections + mask + mixer + fusion + head


class Encoder(nn.Module):
    channels = PVT


def test_parameters_and_shapes_at_published_widths() -> None:
    with torch.device("meta"):
        network = AVSegFormer(Encoder(), nn.Identity(), classes=71).eval()
        pyramid = [torch.empty(1, 2, c, s, s) for c, s in zip(PVT, (56, 28, 14, 7), strict=True)]
        output = network.decode(
            network.encode_visual(VisualFeatures(pyramid)),
            AudioFeatures(torch.empty(1, 2, 128)),
            torch.ones(1, 2, dtype=torch.bool),
        )
    assert sum(p.numel() for p in network.parameters()) == public_parameters(PVT, 71)
    assert output.classes.shape == (1, 2, 71, 224, 224)
    assert output.auxiliary["mixer"].shape == (1, 2, 56, 56)


def test_a_recipe_uses_vggish_without_a_projection() -> None:
    options = {"implicit_text": None, "counterfactual": None, "contrastive": None, "audio": "vggish", "dim": 256}
    config = ModelConfig((), network="avsegformer", train_visual=True, layers=6, heads=8, **options)
    with torch.device("meta"):
        network = build_network(config, Encoder(), build_model_audio(config, torch.zeros(0, 1), random=True))
    beside = sum(p.numel() for key, p in network.named_parameters() if not key.startswith("audio."))
    assert beside == public_parameters(PVT, 1)
    assert sum(p.numel() for p in network.audio.parameters()) == 72_141_184  # of VGGish alone


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


def test_mixer_mask_trains_all_layers_before_it() -> None:
    network = small_network("avsegformer").train()
    network(*random_clips()).auxiliary["mixer"].sum().backward()
    reached = {key.split(".")[0] for key, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"audio", "project", "project_audio", "encoder", "lateral", "smooth", "mixer"}


def test_generated_queries_differ_and_depend_on_the_audio() -> None:
    generator = small_network("avsegformer").generator
    one, other = generator(torch.randn(1, 1, 32)), generator(torch.randn(1, 1, 32))
    assert torch.pdist(one[0]).min() > 0.1
    assert (one - other).norm(dim=2).min() > 0.1
