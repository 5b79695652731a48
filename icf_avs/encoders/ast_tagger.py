"""Audio tagger: AST, a transformer of 86 M parameters over patches of a log-mel spectrogram (library transformers).

Gong, Chung and Glass, arXiv 2104.01778. Weights: MIT/ast-finetuned-audioset-10-10-0.4593 (BSD-3-Clause), AudioSet's 527
classes in AudioSet's order. The classifier was trained on the two global tokens; here it is applied to the mean patch
token of each time step, as in class activation mapping. Not yet run with its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from icf_avs.encoders.weights import download_command, model_folder, read_pretrained, require_transformers
from icf_avs.errors import UserError
from icf_avs.media.audio_file import resample

REPO = "MIT/ast-finetuned-audioset-10-10-0.4593"
SAMPLE_RATE = 16_000
_HOP = 0.01  # seconds between frames of the spectrogram


class AST(nn.Module):
    """AST tagger for encoders/tagger_encoder.py. network: ASTForAudioClassification; sample_rate: of the waveforms."""

    def __init__(self, network: Any, sample_rate: int) -> None:
        super().__init__()
        from transformers import ASTFeatureExtractor

        self.network, self.sample_rate = network.eval().requires_grad_(False), sample_rate
        config = network.config
        self.step = config.time_stride * _HOP
        self.rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        self.spectrogram = ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)

    def classifier(self, columns: Tensor) -> Tensor:
        """Classify features [..., D] -> logits [..., 527]."""
        return self.network.classifier(columns)

    def columns(self, waves: Tensor) -> Tensor:
        """Encode waveforms [N, n], at most the network's input length (10.24 s) -> [N, D, L], one column per 0.1 s."""
        waveforms = list(resample(waves, self.sample_rate, SAMPLE_RATE).cpu().numpy())
        spectrum = self.spectrogram(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        patches = self.network.audio_spectrogram_transformer(spectrum.to(waves.device)).last_hidden_state[:, 2:]
        columns = patches.unflatten(1, (self.rows, -1)).mean(1).transpose(1, 2)
        return columns[..., : round(waves.shape[-1] / self.sample_rate / self.step)]

    def train(self, mode: bool = True) -> AST:
        """Stay in evaluation mode."""
        return super().train(False)


def load_ast(weights: str | Path | None = None, sample_rate: int = SAMPLE_RATE, random: bool = False) -> AST:
    """Load the published network; weights: see model_folder, which also raises UserError; random: no weights."""
    require_transformers("AST")
    from transformers import ASTConfig, ASTForAudioClassification

    if random:
        return AST(ASTForAudioClassification(ASTConfig(num_labels=527)), sample_rate)
    network, missing = read_pretrained(ASTForAudioClassification, folder := model_folder(REPO, weights), REPO)
    if missing:
        raise UserError(f"{folder}: lacks the tensor {missing[0]}; get the weights with: {download_command(REPO)}")
    return AST(network, sample_rate)
