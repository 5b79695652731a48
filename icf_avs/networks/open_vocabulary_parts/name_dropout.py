"""Masks without the name: where a word was never trained, what the network knows of trained words misleads it.

The evidence for the words of a sound stays; what else the decoder learns of it (the sound itself, its text, how the
prior and CDCL's space compare them with positions) gives way to learnt tokens that say "what is searched for". In
training a share of the clips is segmented so, and the decoder learns to turn evidence into a mask whatever the word;
at test both masks are made, and at every position the larger logit counts. Not from the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.distributed import rand_for_batch


class NameDropout(nn.Module):
    """share: of the clips that training answers without the name; tokens: of implicit text a frame."""

    def __init__(self, dim: int, tokens: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.sound = nn.Parameter(torch.normal(0.0, 0.1, (dim,)))
        self.text = nn.Parameter(torch.normal(0.0, 0.1, (tokens, dim)))

    def draw(self, clips: int, frames: int) -> Tensor:
        """[clips * frames] bool, for training: the frames that keep their names, those of a clip alike."""
        return (rand_for_batch(clips, 1, self.sound.device) >= self.share).repeat_interleave(frames)

    def drop_names(self, sound: Tensor, text: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
        """sound [R,N,D] and text [R,N,n,D], given way where `named` [N] is False."""
        keep = named[None, :, None]
        return torch.where(keep, sound, self.sound), torch.where(keep[..., None], text, self.text)
