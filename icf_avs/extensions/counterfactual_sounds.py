"""Counterfactual sounds: the sound of another clip made orthogonal to the factual sound, and the factual sound without
one of its sources.

    c = z - m,  w_k = u_k - m                                  m running mean of the factual sounds z
    w_k <- w_k - <w_k,c>/<c,c> c - sum_{j<k} <w_k,w_j>/<w_j,w_j> w_j          Gram-Schmidt
    z~_k = m + s_k w_k / |w_k|                                  s_k drawn from the |c| of all frames
    z~_-b = z - <c,d_b> d_b,  d_b = (p_b - m) / |p_b - m|       p_b running mean of z where class b sounds alone

A proposal u_k is the sound of another clip of the batch that is known to share no class. A frame of unknown classes is
no donor and gets random directions, of which only one thing is known: they are not its sound. Everything is drawn for
the whole batch, identically in all processes. Orthogonality is relative to the mean: all audio tokens share a large
common component, and without centring only that would be removed. The last line simulates that one source is silent:
its direction is removed from the sound, the rest stays.

Not from the paper, whose counterfactuals are texts (icf_avs/icf/semantic_counterfactual.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.distributed import all_gather_clips, local_slice


class Proposal(NamedTuple):
    """One sound for each clip of the whole batch. sound [B,T,D]; classes [B,C] bool: its classes, where `known` [B];
    differs [B,T] bool: frames in which it is known to share no class with the factual sound.
    """

    sound: Tensor
    classes: Tensor
    known: Tensor
    differs: Tensor


class CounterfactualSounds(NamedTuple):
    """K counterfactual sounds for each clip of this process. sounds [K,B,T,D]: orthogonal to the factual sound;
    proposals: the same before orthogonalisation; classes [K,B,C], known [K,B], differs [K,B,T]: see Proposal.
    """

    sounds: Tensor
    proposals: Tensor
    classes: Tensor
    known: Tensor
    differs: Tensor


class SourceRemoval(NamedTuple):
    """The factual sound without one source. sound [B,T,D]: without class `removed` [B] (an index into the classes);
    valid [B] bool: clips with a sounding class whose running mean exists, so that it could be removed.
    """

    sound: Tensor
    removed: Tensor
    valid: Tensor


ProposalFn = Callable[[Tensor, Tensor, Tensor], Proposal]  # sound [B,T,D], classes [B,C] and known [B,T] of all clips


def orthogonalize(factual: Tensor, proposals: Tensor, mean: Tensor, norms: Tensor) -> Tensor:
    """Gram-Schmidt around the mean, in float32.

    factual [...,D], proposals [K,...,D], mean [D], norms [K,...] -> [K,...,D] with z~_k - mean orthogonal to
    factual - mean and to each other, of the given norms. Raises ValueError when K > D - 1.
    """
    count, dim = proposals.shape[0], factual.shape[-1]
    if count > dim - 1:
        raise ValueError(f"{count} counterfactuals cannot be orthogonal to a factual one in {dim} dimensions")
    mean32 = mean.float()
    basis = [F.normalize(factual.float() - mean32, dim=-1)]
    for proposal in proposals.float() - mean32:
        vector = _reject(proposal, basis)
        # A proposal inside the span (e.g. a copy of the factual sound) has no residual: use a random direction instead.
        degenerate = vector.norm(dim=-1, keepdim=True) < 1e-3 * proposal.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        vector = torch.where(degenerate, _reject(torch.randn_like(vector), basis), vector)
        basis.append(F.normalize(_reject(F.normalize(vector, dim=-1), basis), dim=-1))  # twice is enough (Kahan)
    return (mean32 + torch.stack(basis[1:]) * norms.float()[..., None]).to(factual.dtype)


def _reject(vector: Tensor, basis: list[Tensor]) -> Tensor:
    for direction in basis:
        vector = vector - (vector * direction).sum(-1, keepdim=True) * direction
    return vector


def expand_synonyms(classes: Tensor, synonyms: Tensor | None) -> Tensor:
    """Return classes [...,C] bool together with their synonyms. synonyms [C,C] bool, or None for no synonyms."""
    return classes if synonyms is None else (classes.float() @ synonyms.float()) > 0


class CounterfactualSoundSampler(nn.Module):
    """Draws `count` counterfactual sounds for each clip. dim: width of a sound. It has running means, no parameters.

    A training loop calls `update_running_means` after each step, so that all parts of a batch use the same means.
    """

    mean: Tensor
    started: Tensor
    class_means: Tensor
    seen_classes: Tensor

    def __init__(self, dim: int, classes: int, count: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.count, self.momentum = count, momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("class_means", torch.zeros(classes, dim))  # p_b
        self.register_buffer("seen_classes", torch.zeros(classes, dtype=torch.bool))  # classes that have a p_b
        self.pending_sums: Tensor | None = None  # sums for the next `update_running_means`

    def forward(
        self, sound: Tensor, sounding: Tensor, valid: Tensor, known: Tensor | None = None,
        synonyms: Tensor | None = None, propose: ProposalFn | None = None,
    ) -> tuple[CounterfactualSounds, SourceRemoval]:  # fmt: skip
        """Draw the sounds. sound: z [B,T,D]; sounding [B,T,C] bool: classes known to sound (all False if unknown);
        valid [B,T] bool: False on padding, whose sound is ignored; known [B,T] bool: frames in which `sounding` is
        complete (None: those of clips in which any class sounds); synonyms [C,C] bool: classes that may mean the same
        and are never counterfactuals of each other; propose: source of every second proposal, None for other clips.
        """
        all_sounds, local, frame_mask = all_gather_clips(sound.detach()), local_slice(), all_gather_clips(valid)
        frame_mask = frame_mask | ~frame_mask.any()  # a batch of padding only is used as it is
        valid = frame_mask[local]
        classes = all_gather_clips((sounding & valid[..., None]).any(1))
        known = classes.any(1)[:, None].expand(all_sounds.shape[:2]) if known is None else all_gather_clips(known)
        if self.training:
            self._add_to_sums(sound.detach()[valid], sounding[valid])
        # No gradient to the sounds: the decoder must learn to reject them, not the sounds to be easy to reject.
        with torch.no_grad():
            drawn = [
                propose(all_sounds, classes, known)
                if propose is not None and index % 2
                else self._propose_from_other_clips(all_sounds, classes, known, synonyms)
                for index in range(self.count)
            ]
            proposals, *labels = (torch.stack(parts) for parts in zip(*drawn, strict=True))
            # At least 1: if all sounds are equal they equal their mean, and a counterfactual must still differ from it.
            lengths = (all_sounds[frame_mask] - self.mean).norm(dim=-1).clamp(min=1)
            norms = lengths[torch.randint(lengths.numel(), (self.count, *all_sounds.shape[:2]), device=sound.device)]
            sounds = orthogonalize(all_sounds, proposals, self.mean, norms)
        counterfactuals = CounterfactualSounds(*(part[:, local] for part in (sounds, proposals, *labels)))
        return counterfactuals, self._remove_source(sound, classes)

    def random_direction(self, sound: Tensor) -> Tensor:
        """Return a random sound of no class for each frame."""
        return self.mean + torch.randn_like(sound)

    def update_running_means(self, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        """Update the running means once with the mean over all training sounds since the last call; the first call sets
        them. total: sums a tensor [1+C,D+1] over the processes of a run, each of which must call this.
        """
        if self.pending_sums is None:
            return
        sums, count = total(self.pending_sums).split([len(self.mean), 1], dim=1)
        means, self.pending_sums, known = sums / count.clamp(min=1), None, self.seen_classes[:, None]
        self.mean.copy_(torch.where(self.started, torch.lerp(self.mean, means[0], self.momentum), means[0]))
        self.started.fill_(True)
        updated = torch.where(known, torch.lerp(self.class_means, means[1:], 4 * self.momentum), means[1:])
        self.class_means.copy_(torch.where(count[1:] > 0, updated, self.class_means))
        self.seen_classes.logical_or_(count[1:, 0] > 0)

    def _add_to_sums(self, sound: Tensor, sounding: Tensor) -> None:
        """Accumulate sums and counts of sound [n,D] over all frames, and over those of one class (sounding [n,C])."""
        single = sounding & (sounding.sum(1, keepdim=True) == 1)
        member = torch.cat([sounding.new_ones(len(sounding), 1), single], dim=1).float()  # n 1+C
        with torch.autocast(sound.device.type, enabled=False):  # counts and means need full precision
            sums = member.T @ F.pad(sound.float(), (0, 1), value=1)
        self.pending_sums = sums if self.pending_sums is None else self.pending_sums + sums

    def _propose_from_other_clips(
        self, sound: Tensor, classes: Tensor, known: Tensor, synonyms: Tensor | None
    ) -> Proposal:
        """Propose the sound of another clip that shares no class. A random direction is proposed if the batch has none,
        and in frames where the classes of either clip are unknown.
        """
        clips = sound.shape[0]
        classes, any_known = expand_synonyms(classes, synonyms), known.any(1)
        eligible = ((classes.float() @ classes.float().T) == 0) & any_known & any_known[:, None]
        eligible.fill_diagonal_(False)
        donor = (torch.rand(clips, clips, device=sound.device) + eligible).argmax(1)
        has_donor = eligible.any(1)
        differs = has_donor[:, None] & known & known[donor]
        proposal = torch.where(differs[..., None], sound[donor], self.random_direction(sound))
        return Proposal(proposal, classes[donor] & has_donor[:, None], has_donor & classes[donor].any(1), differs)

    def _remove_source(self, sound: Tensor, classes: Tensor) -> SourceRemoval:
        """Remove one of its classes from each clip's sound [b,T,D]; classes [B,C] are of the whole batch. The gradient
        is kept, so that each source learns to be removable.
        """
        chance = torch.rand(classes.shape, device=sound.device).masked_fill(~(classes & self.seen_classes), -1)
        if not chance.numel():  # no classes
            none = torch.zeros_like(classes.any(1))[local_slice()]
            return SourceRemoval(sound, sound.new_zeros(len(sound), dtype=torch.long), none)
        best, removed = chance[local_slice()].max(1)
        direction = F.normalize(self.class_means[removed] - self.mean, dim=-1)[:, None].to(sound.dtype)  # B 1 D
        projection = ((sound - self.mean.to(sound.dtype)) * direction).sum(-1, keepdim=True)
        return SourceRemoval(sound - projection * direction, removed, best >= 0)
