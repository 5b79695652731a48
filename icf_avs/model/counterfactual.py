"""SC, semantic counterfactual: sounds that were not heard, orthogonal to the one that was.

    c = z - m,  w_k = u_k - m                                  m running mean of the factual semantics
    w_k <- w_k - <w_k,c>/<c,c> c - sum_{j<k} <w_k,w_j>/<w_j,w_j> w_j          Gram-Schmidt
    z~_k = m + s_k w_k / |w_k|                                  s_k drawn from the factual |c|
    z~_-b = z - <c,d_b> d_b,  d_b = (p_b - m) / |p_b - m|       p_b running mean of z where kind b sounds alone

Proposals u_k are plausible sounds: another clip's semantic, or words of the vocabulary turned into a semantic by a
generator that learns that from the factual pairs (reading of z, z). Both only where it is known that no class is
shared: a frame of unknown classes gives none, and gets random directions, of which nothing is claimed but that they are
not its sound. All is drawn for the whole batch, alike in every process that has a part of it. Orthogonality is taken
around the mean: all audio tokens share a large common part, and without centring only that would be removed. The last
line asks what would be marked had one source been silent: its direction is taken out of the sound, all else stays, and
so must the mask of all else. Not from the paper, which gives that representations are orthogonal, latent, diverse, and
need no edits of text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.distributed import average, own, whole
from icf_avs.model.vocabulary import Vocabulary


class Rivals(NamedTuple):
    """sounds [K,B,T,D]; kinds [K,B,C] bool, what a rival sounds like where `known` [K,B]; fit: the generator's loss, or
    None without one; rest: the factual sound less one of its kinds.
    """

    sounds: Tensor
    kinds: Tensor
    known: Tensor
    fit: Tensor | None
    rest: Rest


class Rest(NamedTuple):
    """sound [B,T,D], the factual one without kind `removed` [B] (an index into the classes); `able` [B] bool: where a
    kind that sounds is known well enough to be taken out.
    """

    sound: Tensor
    removed: Tensor
    able: Tensor


def orthogonal(factual: Tensor, proposals: Tensor, mean: Tensor, norms: Tensor) -> Tensor:
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
        vector = _without(proposal, basis)
        # A proposal inside the span (a copy of the factual, say) leaves nothing: take a random direction instead.
        lost = vector.norm(dim=-1, keepdim=True) < 1e-3 * proposal.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        vector = torch.where(lost, _without(torch.randn_like(vector), basis), vector)
        vector = _without(F.normalize(vector, dim=-1), basis)  # twice is enough (Kahan)
        basis.append(F.normalize(vector, dim=-1))
    return (mean32 + torch.stack(basis[1:]) * norms.float()[..., None]).to(factual.dtype)


def widened(kinds: Tensor, akin: Tensor | None) -> Tensor:
    """kinds [...,C] bool -> [...,C] bool: and all that they may mean, by akin [C,C] bool (None: only themselves)."""
    return kinds if akin is None else (kinds.float() @ akin.float()) > 0


def _without(vector: Tensor, basis: list[Tensor]) -> Tensor:
    for direction in basis:
        vector = vector - (vector * direction).sum(-1, keepdim=True) * direction
    return vector


class SemanticCounterfactual(nn.Module):
    """Draws K rivals for every clip: donors, and with a vocabulary every second one generated from words.

    A training loop calls `follow` after each of its steps: so the running means are the same in all parts of a batch.
    """

    def __init__(self, dim: int, classes: int, count: int, words: bool, momentum: float = 0.05) -> None:
        super().__init__()
        self.count, self.momentum = count, momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("alone", torch.zeros(classes, dim))  # p_b
        self.register_buffer("met", torch.zeros(classes, dtype=torch.bool))
        self.noted: Tensor | None = None  # what `follow` moves the means by
        words = words and count > 1  # a single rival is a donor
        self.generator = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) if words else None

    def forward(
        self,
        sound: Tensor,
        sounding: Tensor,
        valid: Tensor,
        vocabulary: Vocabulary | None = None,
        akin: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Rivals:
        """sound z [B,T,D]; sounding [B,T,C] bool, kinds known to sound (all False where unknown); valid [B,T] bool,
        False on padding, whose sound counts for nothing; akin [C,C] bool, of an open vocabulary: words that may mean
        the same. None is a rival of another, a rival is of all kinds that it may mean, and only words are taken for
        rivals that training has heard. known [B,T] bool: frames of which `sounding` is all that sounds (None: those
        of clips in which any kind sounds).

        The vocabulary must be given when the part was built with words.
        """
        every, mine = whole(sound.detach()), own()
        taken = whole(valid)
        taken = taken | ~taken.any()  # a batch of padding alone is taken as it is
        valid = taken[mine]
        kinds = whole((sounding & valid[..., None]).any(1))
        known = kinds.any(1)[:, None].expand(every.shape[:2]) if known is None else whole(known)
        if self.training:
            self._note(sound.detach()[valid], sounding[valid])
        # The rivals carry no gradient to what made them: the decoder learns to refuse, they do not learn to be refused.
        with torch.no_grad():
            proposals, rival_kinds, sure = zip(
                *(
                    self._words(every, kinds, known, vocabulary, akin)
                    if self.generator is not None and index % 2
                    else self._donors(every, kinds, known, akin)
                    for index in range(self.count)
                ),
                strict=True,
            )
            # At least 1: where all sounds are alike so is their mean, and a rival must still differ from it.
            lengths = (every[taken] - self.mean).norm(dim=-1).clamp(min=1)
            norms = lengths[torch.randint(lengths.numel(), (self.count, *every.shape[:2]), device=sound.device)]
            sounds = self.place(every, torch.stack(proposals), norms)
        fit = None
        if self.generator is not None:
            words = vocabulary.words().detach()
            reading = vocabulary.similarity(sound.detach(), words).softmax(-1).detach()
            error = self.generator(reading @ words) - sound.detach()
            fit = average(error.square().mean(-1), valid)
        rest = self._rest(sound, kinds)
        return Rivals(sounds[:, mine], torch.stack(rival_kinds)[:, mine], torch.stack(sure)[:, mine], fit, rest)

    def place(self, factual: Tensor, proposals: Tensor, norms: Tensor) -> Tensor:
        """Where the rivals lie: factual [B,T,D], proposals [K,B,T,D], norms [K,B,T] -> [K,B,T,D]."""
        return orthogonal(factual, proposals, self.mean, norms)

    def follow(self, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        """Move the running means once, by the mean over all that was heard in training since the last call; the first
        call sets them. total: sums [1+C,D+1] over the processes of a run, each of which must call this.
        """
        if self.noted is None:
            return
        sums, count = total(self.noted).split([len(self.mean), 1], dim=1)
        found, self.noted = sums / count.clamp(min=1), None
        self.mean.copy_(torch.where(self.started, torch.lerp(self.mean, found[0], self.momentum), found[0]))
        self.started.fill_(True)
        moved = torch.where(self.met[:, None], torch.lerp(self.alone, found[1:], 4 * self.momentum), found[1:])
        self.alone.copy_(torch.where(count[1:] > 0, moved, self.alone))
        self.met.logical_or_(count[1:, 0] > 0)

    def _note(self, sound: Tensor, sounding: Tensor) -> None:
        """Add to the sums over frames, and to their number: sound [n,D], of all; sounding [n,C], of those in which one
        kind sounds alone.
        """
        single = sounding & (sounding.sum(1, keepdim=True) == 1)
        member = torch.cat([sounding.new_ones(len(sounding), 1), single], dim=1).float()  # n 1+C
        with torch.autocast(sound.device.type, enabled=False):  # counts and means want all digits
            sums = member.T @ F.pad(sound.float(), (0, 1), value=1)
        self.noted = sums if self.noted is None else self.noted + sums

    def _rest(self, sound: Tensor, kinds: Tensor) -> Rest:
        """Take one of its kinds out of every clip's sound [b,T,D]; kinds [B,C] are of the whole batch. Carries the
        gradient: each source learns to be removable.
        """
        chance = torch.rand(kinds.shape, device=sound.device).masked_fill(~(kinds & self.met), -1)
        if not chance.numel():  # no classes
            return Rest(sound, sound.new_zeros(len(sound), dtype=torch.long), torch.zeros_like(kinds.any(1))[own()])
        best, removed = chance[own()].max(1)
        direction = F.normalize(self.alone[removed] - self.mean, dim=-1)[:, None].to(sound.dtype)  # B 1 D
        along = ((sound - self.mean.to(sound.dtype)) * direction).sum(-1, keepdim=True)
        return Rest(sound - along * direction, removed, best >= 0)

    def _random(self, sound: Tensor) -> Tensor:
        """A random direction for every frame, of no kind."""
        return self.mean + torch.randn_like(sound)

    def _donors(
        self, sound: Tensor, kinds: Tensor, known: Tensor, akin: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Another clip's semantic, of a clip that shares no kind; a random direction where the batch has none, and in
        frames of which it is unknown what sounds in either.
        """
        clips = sound.shape[0]
        kinds, told = widened(kinds, akin), known.any(1)
        foreign = ((kinds.float() @ kinds.float().T) == 0) & told & told[:, None]
        foreign.fill_diagonal_(False)
        donor = (torch.rand(clips, clips, device=sound.device) + foreign).argmax(1)
        found = foreign.any(1)
        usable = found[:, None] & known & known[donor]
        proposal = torch.where(usable[..., None], sound[donor], self._random(sound))
        return proposal, kinds[donor] & found[:, None], found & kinds[donor].any(1)

    def _words(
        self, sound: Tensor, kinds: Tensor, known: Tensor, vocabulary: Vocabulary, akin: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A semantic generated from one or two names that do not sound in the clip; a random direction in frames of
        which it is unknown what sounds.
        """
        kinds = widened(kinds, akin)
        if akin is not None:
            kinds = kinds | ~self.met
        chance = torch.rand(kinds.shape, device=sound.device).masked_fill(kinds, -1)
        first, second = chance.topk(2, dim=1).indices.unbind(1) if kinds.shape[1] > 1 else (chance.argmax(1),) * 2
        share = (torch.rand(len(kinds), 1, device=sound.device) - 0.5).clamp(min=0)  # mostly one word
        share = share.masked_fill(kinds.gather(1, second[:, None]), 0)  # only one word is left that does not sound
        words = vocabulary.words()
        mixed = words[first] * (1 - share) + words[second] * share
        picked = F.one_hot(first, kinds.shape[1]).bool() | (F.one_hot(second, kinds.shape[1]).bool() & (share > 0))
        proposal = torch.where(known[..., None], self.generator(mixed)[:, None], self._random(sound))
        told = known.any(1)
        return proposal, widened(picked, akin) & told[:, None], told & ~(picked & kinds).any(1)
