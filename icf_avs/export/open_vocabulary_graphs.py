"""The two graphs of a model with a tagger: from audio to tags, and from frames and tags to masks.

They are separate because frames without an active tag are not processed, and a graph cannot skip frames. The program
that runs the graphs does that: examples/onnx_segment.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders import taggers
from icf_avs.encoders.taggers import FFT, FRAME, HOP, EfficientAT
from icf_avs.encoders.voc_segmenter import GRID, SIDE, VOC_CLASSES
from icf_avs.errors import UserError
from icf_avs.export.graphs import ExportGraph, Spectrum, shared_sizes
from icf_avs.inference.postprocess import ScaleMasks, postprocess
from icf_avs.inference.predictor import second_size
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import AudioFeatures, VisualFeatures


class KaldiLogMel(nn.Module):
    """`kaldi_log_mel` up to rounding: waveforms [N, n] at 32 kHz -> log-mel [N, 128, 1 + (n - 1) // 320]."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum(torch.hann_window(FRAME, periodic=False, dtype=torch.float64), HOP, FFT)
        self.register_buffer("bank", taggers.mel_bank())

    def forward(self, waves: Tensor) -> Tensor:
        emphasised = waves[:, 1:] - taggers.PRE_EMPHASIS * waves[:, :-1]
        power = self.spectrum(F.pad(emphasised[:, None], (FRAME // 2, FRAME // 2), mode="reflect")[:, 0])
        return ((self.bank @ power + taggers.LOG_OFFSET).log() + taggers.LEVEL) / taggers.SCALE


class Resize(nn.Module):
    """`media.images.resize_frames` up to one grey level: uint8 [N,S,S,3] -> uint8 [N,side,side,3]."""

    def __init__(self, size: int, side: int) -> None:
        super().__init__()
        unit = torch.eye(size)[None, None]
        weights = F.interpolate(unit, (side, size), mode="bilinear", antialias=True)[0, 0]
        self.register_buffer("weights", weights)  # [side, size]

    def forward(self, images: Tensor) -> Tensor:
        columns = torch.einsum("jw,nhwc->nhjc", self.weights, images.float()).round()
        return torch.einsum("ih,nhjc->nijc", self.weights, columns).round().clamp(0, 255).to(torch.uint8)


class TagGraph(ExportGraph):
    """Graph: waves float32 [B,T,160000] at 32 kHz -> heard [B,T,C], the word weights, 0 if no tag is active."""

    suffix, inputs, outputs = "-tags", ("waves",), ("heard",)

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__(model)
        network = self.model.audio.heard.network
        if not isinstance(network, EfficientAT):
            raise UserError("only EfficientAT can be exported as a tagger; load the model without `tagger`")
        network.log_mel = KaldiLogMel()

    def example(self, clips: int, frames: int) -> tuple[Tensor]:
        """Return harmonic tones, struck twice per second after initial silence. The tagger predicts tags for these."""
        time = torch.arange(self.model.spec.window) / taggers.SAMPLE_RATE
        index = torch.arange(clips * frames)[:, None]
        tone = sum((2 * torch.pi * part * (220 + 5 * index) * time).sin() / part for part in range(1, 9))
        struck_tones = 0.3 * tone * torch.exp(-8 * (time % 0.5)) * (time > 0.2 * (index % 3))
        return (struck_tones.unflatten(0, (clips, frames)),)

    def forward(self, waves: Tensor) -> tuple[Tensor]:
        tagger = self.model.audio.heard
        return (tagger.weights(*tagger.evidence(waves)),)


class TaggedMaskGraph(ExportGraph):
    """Graph: (frames uint8 [B,T,S,S,3] that have active tags, heard [B,T,C]) -> post-processed logits [B,T,h,w]."""

    inputs, outputs = ("frames", "heard"), ("logits",)

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__(model)
        size = model.spec.image_size
        self.smaller = Resize(size, second_size(model))
        self.for_segmenter = Resize(size, SIDE)

    def example(self, clips: int, frames: int) -> tuple[Tensor, Tensor]:
        """Return random frames and weights of three tags per frame."""
        generator = torch.Generator().manual_seed(0)
        heard = torch.rand(clips, frames, len(self.model.classes), generator=generator)
        heard = heard * (heard >= heard.topk(min(3, heard.shape[-1])).values[..., -1:])
        return self.example_frames(clips, frames, generator), heard

    def forward(self, frames: Tensor, heard: Tensor) -> tuple[Tensor]:
        clips, count = shared_sizes(frames, heard)
        network, encoder = self.model.network, self.model.visual
        images = frames.flatten(0, 1)
        smaller = self.smaller(images)
        object_probs = torch.zeros(clips * count, VOC_CLASSES, GRID, GRID, device=frames.device)
        if encoder.segmenter is not None:
            object_probs = encoder.segmenter.logits(self.for_segmenter(images)).softmax(1)[:, 1:]
        token, parts, _ = self.model.audio.encode_tags(heard.flatten(0, 1))
        audio = AudioFeatures(token.unflatten(0, (clips, count)), parts.unflatten(0, (clips, count)), heard)
        valid = torch.ones(clips, count, dtype=torch.bool, device=frames.device)
        colours, masks = smaller.unflatten(0, (clips, count)), []
        for scale in (images, smaller):
            pyramid = encoder.network(scale)
            visual = VisualFeatures(pyramid, encoder.classifier(pyramid[-1]), object_probs)
            visual = visual.map(lambda x: x.unflatten(0, (clips, count)))
            output = network(visual, audio, valid)
            masks.append(ScaleMasks(output.logits, colours, output.segmenter))
        return (postprocess(masks, self.model),)
