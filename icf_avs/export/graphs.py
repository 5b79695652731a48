"""A model as a graph of plain tensor operations: the computation of `Predictor`, for any number of clips and frames.

Two parts are computed differently, with the same result. The log-mel front end uses a strided convolution, which equals
a windowed DFT and exists in every runtime. The frames of segments are gathered for each frame instead of padded and
split, since a graph cannot branch on the number of frames.
"""

from __future__ import annotations

import copy
import json
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.inference.postprocess import ScaleMasks, postprocess
from icf_avs.media import vggish_frontend
from icf_avs.media.vggish_frontend import FFT, FRAME, HOP, LOG_OFFSET
from icf_avs.networks.guided import GuidedNetwork
from icf_avs.networks.guided_parts.implicit_text import GuidedImplicitText
from icf_avs.networks.guided_parts.vocabulary import Vocabulary
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import VisualFeatures


class Spectrum(nn.Module):
    """Power spectrogram: waveforms [N, n] -> [N, fft / 2 + 1, 1 + (n - len(window)) // hop]."""

    def __init__(self, window: Tensor, hop: int, fft: int) -> None:
        super().__init__()
        self.hop = hop
        time = torch.arange(len(window), dtype=torch.float64)
        angle = 2 * math.pi / fft * torch.arange(fft // 2 + 1, dtype=torch.float64)[:, None] * time
        basis = torch.cat([angle.cos(), angle.sin()]) * window.double()
        self.register_buffer("basis", basis.float()[:, None])  # [fft + 2, 1, len(window)], real parts first

    def forward(self, waves: Tensor) -> Tensor:
        real, imaginary = F.conv1d(waves[:, None], self.basis, stride=self.hop).chunk(2, dim=1)
        return real.square() + imaginary.square()


class LogMel(nn.Module):
    """`vggish_frontend.log_mel` up to rounding: waveforms [N, n] at 16 kHz -> log-mel [N, 1 + (n - 400) // 160, 64]."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum(torch.hann_window(FRAME, periodic=True, dtype=torch.float64), HOP, FFT)
        self.register_buffer("filters", vggish_frontend.mel_filters().T.contiguous()[..., None])  # [64, 257, 1]

    def forward(self, waves: Tensor) -> Tensor:
        return (F.conv1d(self.spectrum(waves).sqrt(), self.filters) + LOG_OFFSET).log().transpose(1, 2)


class UnpaddedImplicitText(nn.Module):
    """`GuidedImplicitText` without padding: the frames of its segment are gathered for every frame."""

    def __init__(self, text: GuidedImplicitText) -> None:
        super().__init__()
        self.text = text

    @property
    def vocabulary(self) -> Vocabulary:
        return self.text.vocabulary

    def forward(self, sound: Tensor, visual: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Return only the frame level, [B,T,n,D], which is all that masks need. All frames are treated as valid."""
        clips, frames = valid.shape
        size = self.text.segment
        frame_index = torch.arange(frames, device=sound.device)
        segment_frames = (frame_index // size * size)[:, None] + torch.arange(size, device=sound.device)  # T size
        is_valid = (segment_frames < frames).expand(clips, -1, -1).flatten(0, 1)
        segment_frames = segment_frames.clamp(max=frames - 1).flatten()

        words = self.vocabulary.words()
        video = self.text.of_video(sound, visual, valid, words)  # B n D
        video = video[:, None].expand(-1, frames, -1, -1).flatten(0, 1)  # (B T) n D
        parts = sound[:, segment_frames].unflatten(1, (frames, size)).flatten(0, 1)  # (B T) size D
        mean_visual = visual.mean(2)[:, segment_frames].unflatten(1, (frames, size)).flatten(0, 1)[:, :, None]
        segment = self.text.of_segments(parts, mean_visual, is_valid, words, video)[:, 0]  # of each frame's segment
        return {"frame": self.text.of_frames(sound, visual, valid, words, segment)}


def shared_sizes(frames: Tensor, audio: Tensor) -> tuple[int, int]:
    """Return the numbers of clips and frames. Tells the tracer that both inputs have the same sizes."""
    for axis in (0, 1):
        torch._check(audio.shape[axis] == frames.shape[axis])
    return frames.shape[0], frames.shape[1]


class ExportGraph(nn.Module, ABC):
    """Base class of exported graphs, with a copy of the model on the CPU.

    suffix: appended to the checkpoint's name in the file name; inputs, outputs: names of the inputs and outputs of
    `forward`, each [clips, frames, ...].
    """

    suffix = ""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        network = self.model.network
        if isinstance(network, GuidedNetwork) and network.implicit_text is not None:
            network.implicit_text = UnpaddedImplicitText(network.implicit_text)

    @abstractmethod
    def example(self, clips: int, frames: int) -> tuple[Tensor, ...]:
        """Return deterministic example inputs with that many clips and frames."""

    def metadata(self) -> dict[str, str]:
        """Return metadata for users of the file as JSON texts: clip specification and names of words and classes."""
        return {
            "spec": json.dumps(vars(self.model.spec)),
            "words": json.dumps(list(self.model.classes) if "heard" in (*self.inputs, *self.outputs) else []),
            "classes": json.dumps(["background", *self.model.classes] if "classes" in self.outputs else []),
        }

    def example_frames(self, clips: int, frames: int, generator: torch.Generator) -> Tensor:
        """Return random frames, uint8 [clips,frames,S,S,3]."""
        shape = clips, frames, self.model.spec.image_size, self.model.spec.image_size, 3
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


class WaveformGraph(ExportGraph):
    """Graph: (frames uint8 [B,T,S,S,3], waves float32 [B,T,N]) -> the outputs named in `outputs`, in that order.

    logits [B,T,h,w] mask logits | heard [B,T,C] presence of each class in the audio, in [0, 1] (with MIT)
    classes [B,T,C+1,h,w] class logits, background first (with a class head)
    """

    inputs = ("frames", "waves")

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__(model)
        self.log_mel = LogMel()
        has_words = len(model.classes) > 0 and getattr(model.network, "implicit_text", None) is not None
        present = {"heard": has_words, "classes": model.config.semantic}
        self.outputs = ("logits", *(name for name, is_present in present.items() if is_present))

    def example(self, clips: int, frames: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        images = self.example_frames(clips, frames, generator)
        return images, 0.1 * torch.randn(clips, frames, self.model.spec.window, generator=generator)

    def forward(self, frames: Tensor, waves: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        clips, count = shared_sizes(frames, waves)
        visual = VisualFeatures([level.unflatten(0, (clips, count)) for level in model.visual(frames.flatten(0, 1))])
        mel = self.log_mel(waves.flatten(0, 1)).unflatten(0, (clips, count))
        output = model.network(visual, mel, torch.ones(clips, count, dtype=torch.bool, device=frames.device))
        results = [postprocess([ScaleMasks(output.logits)], model)]
        if "heard" in self.outputs:
            results.append(output.word_probs[..., : len(model.classes)])
        if "classes" in self.outputs:
            results.append(output.classes)
        return tuple(results)
