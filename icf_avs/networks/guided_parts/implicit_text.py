"""MIT, multi-granularity implicit text of the guided network: video, segment and frame level share one vocabulary.

    H_g = Q_g + attention(Q_g + mean z, evidence of the scope, text of the coarser level)      g = video, segment, frame
    T_g = text(H_g)                                                                            (vocabulary.py)

A scope is a video, a segment or a frame; its evidence is its sound tokens z and visual tokens v. Queries start from the
sound, so that the text describes the sound. The paper only gives the three granularities and that they stay implicit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.networks.attention import CrossBlock
from icf_avs.networks.guided_parts.vocabulary import Vocabulary

LEVELS = ("video", "segment", "frame")


class GuidedImplicitText(nn.Module):
    """(z [B,T,D], v [B/R,T,P,D], valid [B,T]) -> the text of each level by its name.

    Each clip of frames has R sounds: sounds i, i + B/R, i + 2 B/R ... belong to frames i.
    """

    def __init__(self, vocabulary: Vocabulary, dim: int, heads: int, tokens: int, segment: int) -> None:
        super().__init__()
        self.vocabulary, self.segment = vocabulary, segment
        queries = {level: nn.Parameter(torch.normal(0.0, 0.1, (tokens, dim))) for level in LEVELS}
        self.queries = nn.ParameterDict(queries)
        self.read = nn.ModuleDict({level: CrossBlock(dim, heads) for level in LEVELS})

    def forward(self, sound: Tensor, visual: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Return the implicit text of each level: video [B,n,D], segment [B,S,n,D], frame [B,T,n,D].

        valid [B,T] is False on padding frames, which no real frame attends to.
        """
        frames, words = valid.shape[1], self.vocabulary.words()
        video = self.of_video(sound, visual, valid, words)
        coarser = video.repeat_interleave(-(-frames // self.segment), 0)
        segment = self.of_segments(sound, visual, valid, words, coarser)
        coarser = segment[:, self.segment_of_frame(frames, sound.device)].flatten(0, 1)
        return {"video": video, "segment": segment, "frame": self.of_frames(sound, visual, valid, words, coarser)}

    def segment_of_frame(self, frames: int, device: torch.device) -> Tensor:
        """Return [T]: index of the segment of each frame."""
        return torch.arange(frames, device=device) // self.segment

    def of_video(self, sound: Tensor, visual: Tensor, valid: Tensor, words: Tensor) -> Tensor:
        """Return the text of each video [B,n,D]."""
        return self.of_level("video", sound, _summary(sound, visual), valid, words)

    def of_segments(self, sound: Tensor, visual: Tensor, valid: Tensor, words: Tensor, coarser: Tensor) -> Tensor:
        """Return the text of each segment [B,S,n,D]. coarser: tokens of the coarser level [B*S,n,D]."""
        clips, frames = valid.shape
        segments = -(-frames // self.segment)
        pad = segments * self.segment - frames  # a last short segment is padded and masked

        def split(x: Tensor) -> Tensor:
            x = torch.cat([x, x.new_zeros(clips, pad, *x.shape[2:])], dim=1) if pad else x
            return x.reshape(clips * segments, self.segment, *x.shape[2:])

        evidence = split(_summary(sound, visual))
        return self.of_level("segment", split(sound), evidence, split(valid), words, coarser).unflatten(
            0, (clips, segments)
        )

    def of_frames(self, sound: Tensor, visual: Tensor, valid: Tensor, words: Tensor, coarser: Tensor) -> Tensor:
        """Return the text of each frame [B,T,n,D]. coarser: tokens of the coarser level [B*T,n,D]."""
        sounds, all_valid = sound.flatten(0, 1)[:, None], torch.ones_like(valid).flatten()[:, None]
        shared = visual.flatten(0, 1)  # (B/R T) P D
        return self.of_level("frame", sounds, sounds[:, :, None], all_valid, words, coarser, shared).unflatten(
            0, valid.shape
        )

    def of_level(
        self, level: str, sound: Tensor, evidence: Tensor, valid: Tensor, words: Tensor, coarser: Tensor | None = None,
        shared: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """One granularity over N scopes of t frames: sound [N,t,D], evidence [N,t,e,D], valid [N,t], coarser tokens
        `coarser` [N,n,D] -> [N,n,D]. shared [N/R,s,D]: evidence of valid frames, common to scopes n, n + N/R, ...
        """
        scopes, frames, tokens_per_frame, dim = evidence.shape
        weights = valid.to(sound.dtype)[..., None]
        mean = (sound * weights).sum(1) / weights.sum(1).clamp(min=1)
        queries = self.queries[level] + mean[:, None]
        keys = evidence.reshape(scopes, frames * tokens_per_frame, dim)
        allowed = valid[..., None].expand(scopes, frames, tokens_per_frame).reshape(scopes, frames * tokens_per_frame)
        if coarser is None:  # a scope with padding only must still attend to something
            allowed = allowed | ~allowed.any(1, keepdim=True)
        else:
            keys = torch.cat([keys, coarser], dim=1)
            allowed = torch.cat([allowed, allowed.new_ones(scopes, coarser.shape[1])], dim=1)
        if shared is not None:
            allowed = torch.cat([allowed.new_ones(scopes, shared.shape[1]), allowed], dim=1)
        return self.vocabulary.read(self.read[level](queries, keys, allowed[:, None, None], shared), words)


def _summary(sound: Tensor, visual: Tensor) -> Tensor:
    """Return [B,T,2,D]: sound and mean visual token of each frame, sufficient evidence for the coarse levels."""
    mean_visual = visual.mean(2).repeat(sound.shape[0] // visual.shape[0], 1, 1)
    return torch.stack([sound, mean_visual], dim=2)
