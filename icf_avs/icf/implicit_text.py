"""MIT: multi-granularity implicit text (eq. 1-5), from the features of a network to the factual text z.

    F^v, F^s, F^f                                                      channel-time attention (eq. 1, 2)
    l^p_n, the k_t best texts of each level's bank                     textual inversion      (eq. 3, pseudo_words.py)
    l^v = sum over p, n of softmax over all (p, n) of w l^p_n  l^p_n   weighted pyramid       (eq. 4)
    z   = F(concat(Gate(l^v), Gate(l^a)))                              gMLP gates, fusion     (eq. 5)

There is one z for each frame, from the texts of the frame, its segment and its video. The Gaussian of a single z for
each clip would be a point, and trace and entropy would cancel in the contrasts. Padding frames are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from icf_avs.distributed import masked_mean
from icf_avs.encoders.text_encoders import TextEncoder
from icf_avs.icf.channel_time import MultiLevelAttention
from icf_avs.icf.pseudo_words import PseudoWordBank
from icf_avs.settings import MIT
from icf_avs.types import LevelFeatures, Texts


class ImplicitText(nn.Module):
    """Implicit texts l^v and l^a (eq. 1-4). visual: channels of the visual map, None if the network applies eq. 1, 2
    itself; audio: width of the audio tokens; encoder_of: level -> text encoder, None for inference with learnt texts.
    """

    banks: Mapping[str, PseudoWordBank]

    def __init__(
        self, settings: MIT, visual: int | None, audio: int, encoder_of: Callable[[str], TextEncoder] | None
    ) -> None:
        super().__init__()
        self.levels = None if visual is None else MultiLevelAttention(visual, settings)
        widths = dict.fromkeys(settings.levels, settings.width) | {"audio": audio}
        banks = {
            level: PseudoWordBank(level, encoder_of and encoder_of(level), settings, width)
            for level, width in widths.items()
        }
        self.banks = nn.ModuleDict(banks)  # type: ignore[assignment]
        self.weigh = nn.ParameterDict({name: nn.Parameter(torch.zeros(settings.dim)) for name in ("visual", "audio")})

    def attach(self, encoder_of: Callable[[str], TextEncoder]) -> None:
        """Set the text encoder of every bank and initialise its pseudo-words, so that it can be trained."""
        for level, bank in self.banks.items():
            bank.attach(encoder_of(level))

    def forward(
        self, visual: Tensor, audio: Tensor, valid: Tensor, levels: dict[str, LevelFeatures] | None = None,
        revise: bool = False,
    ) -> Texts:  # fmt: skip
        """Return the texts. visual [B,T,C,h,w], audio [B,T,D], valid [B,T] bool, True at the beginning of each clip;
        levels: those of the network, if it applies eq. 1, 2 itself; revise: whether to return revised texts. Raises
        ValueError if levels are needed and None.
        """
        levels = levels if self.levels is None else self.levels(visual, valid)[1]
        if levels is None:
            raise ValueError("MIT(reading='refined') needs a network that refines its map: ModelConfig(mit=...)")
        clip = torch.arange(valid.shape[0], device=valid.device)[:, None]
        texts, revised_visual, pulls = [], [], []
        for name, level in levels.items():
            matched = self.banks[name](level.mean, level.windows.valid, revise)
            window_of_frame = level.windows.window_of_frame
            texts.append(matched.texts[clip, window_of_frame])
            pulls.append(_mean_over_windows(matched.pull, level.windows.valid))
            if matched.revised is not None:
                revised_visual.append(matched.revised[clip, window_of_frame])
        matched_audio, frame_mask, revised = self.banks["audio"](audio, valid, revise), valid[..., None], None
        pulls.append(_mean_over_windows(matched_audio.pull, valid))
        text = self.pyramid(torch.cat(texts, 2), "visual") * frame_mask
        audio_text = self.pyramid(matched_audio.texts, "audio") * frame_mask
        if matched_audio.revised is not None:
            with torch.no_grad():
                visual_text = self.pyramid(torch.cat(revised_visual, 3), "visual").transpose(1, 2)
                sound_text = self.pyramid(matched_audio.revised, "audio").transpose(1, 2)
                revised = visual_text * frame_mask[:, None], sound_text * frame_mask[:, None]
        pull = masked_mean(torch.stack(pulls).mean(0), valid.any(1))
        return Texts(text, audio_text, audio_text - self.banks["audio"].mean_text, pull, revised)

    def pyramid(self, texts: Tensor, modality: str) -> Tensor:
        """Eq. 4: texts of all levels [B,T,...,k,d] -> [B,T,...,d]; modality: "visual" or "audio"."""
        logits = texts @ self.weigh[modality] / math.sqrt(texts.shape[-1])
        return (logits.softmax(-1)[..., None] * texts).sum(-2)


class TextFusion(nn.Module):
    """Eq. 5: gates and fusion of l^v and l^a to the factual text z."""

    def __init__(self, settings: MIT) -> None:
        super().__init__()
        dim, count = settings.dim, settings.gates
        gates = {
            name: nn.ModuleList(GatedMLP(dim, settings.most_frames) for _ in range(count))
            for name in ("audio", "visual")
        }
        self.gates = nn.ModuleDict(gates)
        self.fuse = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, texts: Texts, valid: Tensor) -> Tensor:
        """valid [B,T] bool -> z [B,T,d], 0 on padding. Raises ValueError for more than `most_frames` frames."""
        gated = []
        for modality, text in (("visual", texts.visual), ("audio", texts.audio)):
            for block in cast(nn.ModuleList, self.gates[modality]):
                text = block(text, valid)
            gated.append(text)
        return self.fuse(torch.cat(gated, -1)) * valid[..., None]


class GatedMLP(nn.Module):
    """A gMLP block (Liu et al., arXiv 2105.08050) over the frames [B,T,d]; its spatial gate starts at 1."""

    def __init__(self, dim: int, most_frames: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU())
        self.leave, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.across = nn.Parameter(torch.zeros(most_frames, most_frames))
        self.bias = nn.Parameter(torch.ones(most_frames))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """valid [B,T] bool: no frame reads padding."""
        frames = x.shape[1]
        if frames > len(self.bias):
            raise ValueError(f"clips of {frames} frames; MIT(most_frames={len(self.bias)})")
        content, gate = self.enter(x).chunk(2, -1)
        gate = self.across[:frames, :frames] @ (self.norm(gate) * valid[..., None]) + self.bias[:frames, None]
        return x + self.leave(content * gate)


def _mean_over_windows(values: Tensor, valid: Tensor) -> Tensor:
    """Mean [B,S] -> [B] over the valid entries."""
    weight = valid.to(values.dtype)
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)
