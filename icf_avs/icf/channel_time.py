"""Channel-time attention (eq. 1, 2) at the levels of a video.

    Q, K, V linear in F;  A = softmax(Q K^T / tau) in R^(TC x TC);  F^v = F + V A             (eq. 1, 2)

The video level has one window, the clip. The segment level has `windows` windows (2 by default) of ceil(T/windows)
frames. Windows of the frame level have one frame. A last window that would be too short starts earlier. Where windows
overlap, a frame belongs to the first; in the later window it is only context. Padding is in no window.

maps [B,T,C,h,w], valid [B,T] -> F^v, F^s, F^f of S windows of at most L frames [B,S,L,width,P], P = h w
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from icf_avs.settings import MIT
from icf_avs.types import LevelFeatures, Windows


def sliding_windows(valid: Tensor, count: int, longest: int) -> Windows:
    """Return `count` windows of at most `longest` frames over the valid frames [B,T] of each clip, which come first."""
    frames, device = valid.shape[1], valid.device
    index, offset = torch.arange(count, device=device), torch.arange(longest, device=device)
    length = valid.sum(1)[:, None]  # B 1
    size = (length + count - 1) // count
    start = torch.minimum(index * size, length - size)
    frame_mask = (offset < size[..., None]) & (index * size < length)[..., None]
    window_of_frame = (torch.arange(frames, device=device) // size.clamp(min=1)).clamp(max=count - 1)
    return Windows((start[..., None] + offset).clamp(max=frames - 1), frame_mask, window_of_frame)


def maps_of_frames(level: LevelFeatures) -> Tensor:
    """The map of each frame in its window [B,T,width,P]; anything for padding."""
    frames, _, window_of_frame = level.windows
    clip = torch.arange(window_of_frame.shape[0], device=window_of_frame.device)[:, None]
    offset = torch.arange(window_of_frame.shape[1], device=window_of_frame.device) - frames[clip, window_of_frame, 0]
    return level.maps[clip, window_of_frame, offset.clamp(max=level.maps.shape[2] - 1)]


class ChannelTimeAttention(nn.Module):
    """Eq. 1, 2 on maps [N,L,C,P]: attention among L C channels in time over P positions. Initialised as identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.log_temperature = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, maps: Tensor, frame_mask: Tensor) -> Tensor:
        """Return the attended maps. frame_mask [N,L] bool: the frames that are attended to."""
        pixels = maps.transpose(2, 3)
        q, k, v = (layer(pixels).transpose(2, 3).flatten(1, 2) for layer in (self.query, self.key, self.value))
        temperature = self.log_temperature.clamp(-3, 3).exp() * math.sqrt(maps.shape[-1])
        scores = q @ k.mT / temperature  # N (L C) (L C)
        padding = ~frame_mask.repeat_interleave(maps.shape[2], 1)[:, None]
        attention = scores.masked_fill(padding, torch.finfo(scores.dtype).min).softmax(-1)
        return maps + (attention @ v).unflatten(1, maps.shape[1:3])


class MultiLevelAttention(nn.Module):
    """Linear projection from `channels` to settings.width, then eq. 1, 2 at each level of settings.levels."""

    def __init__(self, channels: int, settings: MIT) -> None:
        super().__init__()
        self.windows = settings.windows
        self.project = nn.Conv2d(channels, settings.width, 1)
        self.attention = nn.ModuleDict({level: ChannelTimeAttention(settings.width) for level in settings.levels})

    def forward(self, visual: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, LevelFeatures]]:
        """visual [B,T,C,h,w], valid [B,T] bool -> projected maps [B,T,width,P], and features by level name."""
        maps = self.project(visual.flatten(0, 1)).unflatten(0, visual.shape[:2]).flatten(3)
        frames, levels, clip = valid.shape[1], {}, torch.arange(maps.shape[0], device=maps.device)[:, None, None]
        # During export the number of frames is symbolic and cannot be divided: use it as the maximum window length.
        segment = frames if torch.compiler.is_compiling() else -(-frames // self.windows)
        sizes = {"video": (1, frames), "segment": (self.windows, segment), "frame": (frames, 1)}
        for level, attention in self.attention.items():
            windows = sliding_windows(valid, *sizes[level])
            attended = attention(maps[clip, windows.frames].flatten(0, 1), windows.frame_mask.flatten(0, 1))
            levels[level] = LevelFeatures(attended.unflatten(0, windows.frames.shape[:2]), windows)
        return maps, levels


class FeatureRefinement(nn.Module):
    """Eq. 2 in the network: the mean of F^v, F^s and F^f replaces the map that is decoded. Initialised as the identity.
    Attention among `width` channels and a single map for all levels are our choices; the paper does not specify them.
    """

    def __init__(self, channels: int, settings: MIT) -> None:
        super().__init__()
        self.levels = MultiLevelAttention(channels, settings)
        self.back = nn.Conv2d(settings.width, channels, 1, bias=False)

    def forward(self, visual: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, LevelFeatures]]:
        """visual [B,T,C,h,w], valid [B,T] bool -> refined map [B,T,C,h,w], and features by level name."""
        maps, levels = self.levels(visual, valid)
        change = torch.stack([maps_of_frames(level) - maps for level in levels.values()]).mean(0)
        change = change.unflatten(3, visual.shape[-2:]).flatten(0, 1)
        return visual + self.back(change).unflatten(0, visual.shape[:2]), levels
