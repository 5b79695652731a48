"""Channel-time attention (eq. 1, 2) of a map, at the levels of a video.

    Q, K, V linear in F;  A = softmax(Q K^T / tau) in R^(TC x TC);  F^v = F + V A             (eq. 1, 2)

At the video level all frames of a clip are one scope; at the segment level windows of ceil(T/2) frames are, of which
the last begins earlier where it would be short; at the frame level each frame is. Where windows overlap, a frame
belongs to the first; the frames before it that fill up a short window are context. Padding is in no scope.

maps [B,T,C,h,w], valid [B,T] -> F^v, F^s, F^f of S scopes of at most L frames [B,S,L,width,P], P = h w
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from icf_avs.icf.settings import MIT


class Scopes(NamedTuple):
    """frames [B,S,L] long: the frames of each scope. member [B,S,L] bool: which of them there are. of_frame [B,T] long:
    the scope that each frame belongs to.
    """

    frames: Tensor
    member: Tensor
    of_frame: Tensor

    @property
    def real(self) -> Tensor:
        """[B,S] bool: the scopes that have frames."""
        return self.member.any(-1)


def scopes(valid: Tensor, count: int, longest: int) -> Scopes:
    """`count` windows of at most `longest` frames over the valid frames of each clip; valid [B,T] bool, True at the
    beginning.
    """
    frames, device = valid.shape[1], valid.device
    number, place = torch.arange(count, device=device), torch.arange(longest, device=device)
    there = valid.sum(1)[:, None]  # B 1
    size = (there + count - 1) // count
    start = torch.minimum(number * size, there - size)
    member = (place < size[..., None]) & (number * size < there)[..., None]
    of_frame = (torch.arange(frames, device=device) // size.clamp(min=1)).clamp(max=count - 1)
    return Scopes((start[..., None] + place).clamp(max=frames - 1), member, of_frame)


class Level(NamedTuple):
    """What a level makes of the maps of its scopes [B,S,L,width,P]."""

    maps: Tensor
    scopes: Scopes

    @property
    def mean(self) -> Tensor:
        """Mean over the frames and positions of each scope [B,S,width]; 0 of one without frames."""
        member = self.scopes.member[..., None, None].to(self.maps.dtype)
        return (self.maps * member).sum((2, 4)) / (member.sum((2, 4)).clamp(min=1) * self.maps.shape[-1])

    @property
    def of_frames(self) -> Tensor:
        """The map of each frame in the scope that it belongs to [B,T,width,P]."""
        frames, _, of_frame = self.scopes
        clip = torch.arange(of_frame.shape[0], device=of_frame.device)[:, None]
        place = torch.arange(of_frame.shape[1], device=of_frame.device) - frames[clip, of_frame, 0]
        return self.maps[clip, of_frame, place.clamp(max=self.maps.shape[2] - 1)]  # padding: any


class ChannelTimeAttention(nn.Module):
    """Eq. 1, 2 on maps [N,L,C,P]: attention among the L C channels in time, over their P positions. It starts as the
    identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.log_temperature = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, maps: Tensor, member: Tensor) -> Tensor:
        """member [N,L] bool: the frames that are attended to."""
        at = maps.transpose(2, 3)  # linear in the channels, position by position
        query, key, value = (layer(at).transpose(2, 3).flatten(1, 2) for layer in (self.query, self.key, self.value))
        temperature = self.log_temperature.clamp(-3, 3).exp() * math.sqrt(maps.shape[-1])
        scores = query @ key.mT / temperature  # N (L C) (L C)
        absent = ~member.repeat_interleave(maps.shape[2], 1)[:, None]
        share = scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(-1)
        return maps + (share @ value).unflatten(1, maps.shape[1:3])


class ChannelTimeLevels(nn.Module):
    """channels: of the map, which a linear projection to `width` of the settings comes before."""

    def __init__(self, channels: int, settings: MIT) -> None:
        super().__init__()
        self.windows = settings.windows
        self.project = nn.Conv2d(channels, settings.width, 1)
        self.attention = nn.ModuleDict({level: ChannelTimeAttention(settings.width) for level in settings.levels})

    def forward(self, visual: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Level]]:
        """visual [B,T,C,h,w], valid [B,T] bool -> the projected maps [B,T,width,P], and the levels by name."""
        maps = self.project(visual.flatten(0, 1)).unflatten(0, visual.shape[:2]).flatten(3)
        frames, found, clip = valid.shape[1], {}, torch.arange(maps.shape[0], device=maps.device)[:, None, None]
        # A graph that is exported is for any number of frames, of which no half can be taken.
        segment = frames if torch.compiler.is_compiling() else -(-frames // self.windows)
        sizes = {"video": (1, frames), "segment": (self.windows, segment), "frame": (frames, 1)}
        for level, attention in self.attention.items():
            of = scopes(valid, *sizes[level])
            attended = attention(maps[clip, of.frames].flatten(0, 1), of.member.flatten(0, 1))
            found[level] = Level(attended.unflatten(0, of.frames.shape[:2]), of)
        return maps, found


class Refinement(nn.Module):
    """Eq. 2 in the network: the mean of F^v, F^s and F^f in place of the map that is decoded. It starts as the
    identity. Not from the paper, which says neither: attention among `width` channels, and one map of all levels.
    """

    def __init__(self, channels: int, settings: MIT) -> None:
        super().__init__()
        self.levels = ChannelTimeLevels(channels, settings)
        self.back = nn.Conv2d(settings.width, channels, 1, bias=False)

    def forward(self, visual: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Level]]:
        """visual [B,T,C,h,w], valid [B,T] bool -> the refined map [B,T,C,h,w], and the levels by name."""
        maps, levels = self.levels(visual, valid)
        change = torch.stack([level.of_frames - maps for level in levels.values()]).mean(0)
        change = change.unflatten(3, visual.shape[-2:]).flatten(0, 1)
        return visual + self.back(change).unflatten(0, visual.shape[:2]), levels
