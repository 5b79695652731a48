"""Pixel decoders and deformable attention: initialisation and positions equal those of transformers."""

from __future__ import annotations

import pytest
import torch
from small_networks import WIDTHS
from torch import nn
from transformers import Mask2FormerConfig, Mask2FormerModel, ResNetConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from icf_avs.errors import UserError
from icf_avs.networks import AVSegFormer, DeformablePixelDecoder, LightPixelDecoder, QueryNetwork
from icf_avs.networks.deformable import DeformableEncoder, SinePositionEmbedding
from icf_avs.types import AudioFeatures, VisualFeatures

RESNET50 = (256, 512, 1024, 2048)


class ResNet50(nn.Module):
    channels = RESNET50


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
        network = QueryNetwork(ResNet50(), nn.Identity(), 128, decoder(RESNET50, 256), classes=71, layers=6)
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
    for build in (lambda: DeformablePixelDecoder(WIDTHS, 32), lambda: AVSegFormer(ResNet50(), nn.Identity(), dim=32)):
        with pytest.raises(UserError, match="needs the library transformers; install it with: pip install"):
            build()
