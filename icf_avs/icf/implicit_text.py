"""MIT: multi-granularity implicit text (eq. 1-5), from the features of a network to the factual text z.

    F^v = F + V A,  A = softmax(Q K^T / tau) in R^(TC x TC)            channel-time attention (eq. 1, 2)
        video level: over all T frames; segment level: in windows of ceil(T/2) frames; frame level: in each frame
    l^p_n, the k_t best texts of each level's bank                     textual inversion      (eq. 3, pseudo_words.py)
    l^v = sum over p, n of softmax over all (p, n) of w l^p_n  l^p_n   weighted pyramid       (eq. 4)
    z   = F(concat(Gate(l^v), Gate(l^a)))                              gMLP gates, fusion     (eq. 5)

A frame has its own text, with that of its segment and of its video, and so a z of its own: one z a clip would be a
point, of which trace and entropy cancel in the contrasts. Where windows overlap, a frame belongs to the first; the
frames before it that fill up a short window are context. Padding frames take no part: clips are worked on by their
length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from icf_avs.distributed import average
from icf_avs.icf.pseudo_words import PseudoWords
from icf_avs.icf.settings import MIT
from icf_avs.icf.text_encoders import PUBLISHED, TextEncoder, load_minilm, load_text_encoder


@dataclass(frozen=True)
class Texts:
    """z, visual l^v and audio l^a [B,T,d]; sound: l^a without what all texts of its bank share, by which clips are told
    apart; pull: term of the loss, a number.
    """

    z: Tensor
    visual: Tensor
    audio: Tensor
    sound: Tensor
    pull: Tensor


class ImplicitText(nn.Module):
    """visual: channels of the level that is read; audio: width of the audio tokens; encoder_of: level -> text
    encoder.
    """

    def __init__(self, settings: MIT, visual: int, audio: int, encoder_of: Callable[[str], TextEncoder]) -> None:
        super().__init__()
        self.settings, dim = settings, settings.dim
        self.project = nn.Conv2d(visual, settings.width, 1)
        self.attention = nn.ModuleDict({level: ChannelTimeAttention(settings.width) for level in settings.levels})
        widths = dict.fromkeys(settings.levels, settings.width) | {"audio": audio}
        self.banks = nn.ModuleDict(
            {level: PseudoWords(level, encoder_of(level), settings, width, dim) for level, width in widths.items()}
        )
        self.weigh = nn.ParameterDict({of: nn.Parameter(torch.zeros(dim)) for of in ("visual", "audio")})
        self.gates = nn.ModuleDict(
            {of: nn.ModuleList(GatedMLP(dim, settings.most_frames) for _ in range(settings.gates)) for of in self.weigh}
        )
        self.fuse = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, visual: Tensor, audio: Tensor, valid: Tensor) -> Texts:
        """visual [B,T,C,h,w], audio [B,T,D], valid [B,T] bool, True at the beginning of each clip.

        Raises ValueError for clips of more than `most_frames` frames.
        """
        if valid.sum(1).max() > self.settings.most_frames:
            raise ValueError(f"clips of {int(valid.sum(1).max())} frames; MIT(most_frames={self.settings.most_frames})")
        maps = self.project(visual.flatten(0, 1)).unflatten(0, visual.shape[:2]).flatten(3)  # B T C P
        out = {name: maps.new_zeros(*valid.shape, self.settings.dim) for name in ("z", "visual", "audio")}
        pull, lengths = maps.new_zeros(len(maps)), valid.sum(1)
        for length in lengths.unique().tolist():
            if not length:
                continue
            clips = (lengths == length).nonzero()[:, 0]
            found, term = self._of_length(maps[clips, :length], audio[clips, :length])
            for name, text in found.items():
                out[name] = out[name].index_put((clips[:, None], torch.arange(length, device=clips.device)), text)
            pull = pull.index_put((clips,), term)
        return Texts(**out, sound=out["audio"] - self.banks["audio"].centre, pull=average(pull, lengths > 0))

    def _of_length(self, maps: Tensor, audio: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Clips [b,n,C,P] and [b,n,D] of valid frames alone -> texts [b,n,d] by name, and pull terms [b]."""
        slots, pulls = [], []
        for level in self.settings.levels:
            texts, pull = self._level(level, maps)
            slots.append(texts)
            pulls.append(pull)
        heard, pull = self.banks["audio"](audio)
        pulls.append(pull.mean(1))
        texts = {"visual": self._weighted(torch.cat(slots, 2), "visual"), "audio": self._weighted(heard, "audio")}
        gated = {}
        for name, text in texts.items():
            gated[name] = text
            for block in self.gates[name]:
                gated[name] = block(gated[name])
        return texts | {"z": self.fuse(torch.cat([gated["visual"], gated["audio"]], -1))}, torch.stack(pulls).mean(0)

    def _level(self, level: str, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The texts of a level for every frame [b,n,k_t,d], and its pull terms [b]."""
        frames = maps.shape[1]
        scopes = windows(frames, {"video": 1, "segment": self.settings.windows, "frame": frames}[level])
        seen = [self.attention[level](maps[:, scope.start : scope.stop]).mean((1, 3)) for scope in scopes]
        texts, pull = self.banks[level](torch.stack(seen, 1))  # b S k d
        of_frame = [next(number for number, scope in enumerate(scopes) if frame in scope) for frame in range(frames)]
        return texts[:, of_frame], pull.mean(1)

    def _weighted(self, texts: Tensor, of: str) -> Tensor:
        """Eq. 4: [b,n,k,d] -> [b,n,d]."""
        logits = texts @ self.weigh[of] / math.sqrt(texts.shape[-1])
        return (logits.softmax(-1)[..., None] * texts).sum(-2)


def windows(frames: int, count: int) -> list[range]:
    """Windows of ceil(frames / count) frames in order; the last begins earlier where it would be short."""
    length = math.ceil(frames / count)
    return [range(min(start, frames - length), min(start + length, frames)) for start in range(0, frames, length)]


class ChannelTimeAttention(nn.Module):
    """Eq. 1, 2 on maps [b,t,C,P]: attention among the t C channels in time, over their P positions. It starts as the
    identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.log_temperature = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, maps: Tensor) -> Tensor:
        at = maps.transpose(2, 3)  # linear in the channels, position by position
        query, key, value = (layer(at).transpose(2, 3).flatten(1, 2) for layer in (self.query, self.key, self.value))
        temperature = self.log_temperature.clamp(-3, 3).exp() * math.sqrt(maps.shape[-1])
        share = (query @ key.mT / temperature).softmax(-1)  # b (t C) (t C)
        return maps + (share @ value).unflatten(1, maps.shape[1:3])


class GatedMLP(nn.Module):
    """A gMLP block (Liu et al., arXiv 2105.08050) over the frames [b,n,d]; its spatial gate starts at 1."""

    def __init__(self, dim: int, most_frames: int) -> None:
        super().__init__()
        self.enter, self.leave = (
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU()),
            nn.Linear(dim, dim),
        )
        self.norm = nn.LayerNorm(dim)
        self.across = nn.Parameter(torch.zeros(most_frames, most_frames))
        self.bias = nn.Parameter(torch.ones(most_frames))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        kept, gate = self.enter(x).chunk(2, -1)
        gate = self.across[:frames, :frames] @ self.norm(gate) + self.bias[:frames, None]
        return x + self.leave(kept * gate)


def text_encoders(settings: MIT) -> Callable[[str], TextEncoder]:
    """The text encoder of each level, each loaded once. Raises UserError as they do."""
    loaded: dict[object, TextEncoder] = {}

    def of(level: str) -> TextEncoder:
        source = None if settings.encoders == "minilm" else PUBLISHED[level]
        if source not in loaded:
            loaded[source] = load_minilm() if source is None else load_text_encoder(source)
        return loaded[source]

    return of
