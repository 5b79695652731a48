"""SC: counterfactuals of the factual text z, made orthogonal to it inside a latent diffusion (eq. 6-12).

    r       <- normalise(r - (r . z) z), r ~ N(0, I), z normalised                            (eq. 7)
    z'_t     = sqrt(1 - c) z_t + sqrt(c) r, of z_t's length; c = alpha m over samples,
               alpha s over features, or alpha m s over both                                  (eq. 8)
    z*       : the reverse process from z'_t, given the visual features                       (eq. 9)
    L_ortho  = |z'_t - z_t|^2 + lambda_z |z'_t . z_t|^2, of unit vectors                      (eq. 10)
    L_cf     = E |eps - eps_theta(z'_t, t, v)|^2 + lambda_ortho L_ortho                       (eq. 11)
    l^cf     = the K of many z* that are nearest to z by cosine                               (eq. 12)

m and s are predicted from z_t inside fixed bounds. z, v and the pool carry no gradient: L_cf trains only the denoiser,
m and s, and the contrasts (contrastive.py) treat the pool as constant. The paper prints eq. 7 with a norm in place of
the normalised vector, and eq. 11 without v; we take both for misprints.

The other strategies of table 2 are for comparison: z'_t in the latent space of a VQ-VAE (vqvae.py), z with noise in
place of z* (sqrt(1 - alpha) z + sqrt(alpha) eps), z of other clips in place of z* (pair swap), and eq. 5 with the audio
text of other clips (audio swap) or with other words in the templates (text revision). icf.py computes the last two.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.distributed import all_gather_clips, draw_for_batch, local_slice, masked_mean
from icf_avs.icf.diffusion import Denoiser, NoiseSchedule, zero_linear
from icf_avs.icf.vqvae import VQVAE
from icf_avs.settings import SC


@dataclass(frozen=True)
class CounterfactualPool:
    """Counterfactuals of B clips. texts: l^cf [B,K,T,d], with the norm of z; weights [B,K] of eq. 17, summing to 1."""

    texts: Tensor
    weights: Tensor


class SemanticCounterfactual(nn.Module):
    """SC (eq. 6-12). dim: width of z; visual: width of the features that the denoiser is conditioned on."""

    def __init__(self, settings: SC, dim: int, visual: int) -> None:
        super().__init__()
        self.settings, self.dim, condition = settings, dim, visual if settings.conditioned else 0
        is_latent, axes = settings.strategy in ("diffusion", "vqvae"), settings.orthogonal
        # At first m and s are the same for every z.
        self.samples = zero_linear(dim, 1) if is_latent and axes in ("both", "samples") else None
        self.features = zero_linear(dim, dim) if is_latent and axes in ("both", "features") else None
        diffusion = settings.strategy == "diffusion"
        self.schedule = NoiseSchedule(settings.chain) if diffusion else None
        self.denoiser = Denoiser(dim, condition, settings.width, settings.blocks) if diffusion else None
        self.vqvae = VQVAE(settings, dim, condition) if settings.strategy == "vqvae" else None

    def forward(
        self, z: Tensor, visual: Tensor, valid: Tensor, candidates: Tensor | None = None
    ) -> tuple[CounterfactualPool, dict[str, Tensor]]:
        """z [B,T,d], visual [B,T,V] and valid [B,T] bool -> the pool, and the loss terms by name. candidates [B,J,T,d]:
        texts from which "audio-swap" and "text-revision" keep the nearest.
        """
        z, visual = z.detach(), visual.detach()
        factual = F.normalize(z.float(), dim=-1) * self.dim**0.5
        terms = self._losses(factual, visual, valid)
        with torch.no_grad():
            if self.settings.strategy == "pair-swap":
                candidates = texts_of_other_clips(factual, valid)
            if candidates is None:
                z_draws = factual[:, None].expand(-1, self.settings.draws, -1, -1)
                alpha = self._draw_alpha(z_draws[:, :, 0, 0])
                candidates = self.generate(z_draws, visual, alpha[..., None].expand(z_draws.shape[:-1]))
            else:
                candidates, alpha = F.normalize(candidates.float(), dim=-1), candidates.new_zeros(candidates.shape[:2])
            texts, alpha = self._nearest(factual, candidates, alpha, valid)
        length, weights = z.norm(dim=-1, keepdim=True)[:, None], (1 - alpha).sqrt()
        texts = (F.normalize(texts, dim=-1) * length).to(z.dtype)
        return CounterfactualPool(texts, weights / weights.sum(1, keepdim=True)), terms

    def _losses(self, factual: Tensor, visual: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Return the loss terms of eq. 10 and 11; the loss of a VQ-VAE replaces the noise term."""
        settings, terms = self.settings, {}
        alpha = self._draw_alpha(factual[:, 0, 0])[:, None].expand(factual.shape[:-1])
        if self.vqvae is not None:
            terms["reconstruction"] = masked_mean(self.vqvae.loss(factual, visual), valid)
            state = self.vqvae.encode(factual).detach()
            moved = self.orthogonalize(state, alpha)
        elif self.schedule is not None and self.denoiser is not None:
            step = 1 + (draw_for_batch(factual[:, 0, 0], torch.rand) * settings.depth).long()
            step = step[:, None].expand(factual.shape[:-1])
            noise = draw_for_batch(factual, torch.randn)
            state = self.schedule.add_noise(factual, noise, step)
            moved = self.orthogonalize(state, alpha)
            terms["noise"] = masked_mean((noise - self.denoiser(moved, step, visual)).square().mean(-1), valid)
        else:
            return terms
        unit_moved, unit_state = F.normalize(moved, dim=-1), F.normalize(state, dim=-1)
        ortho = (unit_moved - unit_state).square().sum(-1) + settings.lambda_z * (unit_moved * unit_state).sum(
            -1
        ).square()
        terms["ortho"] = settings.lambda_ortho * masked_mean(ortho, valid)
        return terms

    def orthogonalize(self, state: Tensor, alpha: Tensor) -> Tensor:
        """Eq. 7 and 8: move each state [...,d] towards a random direction orthogonal to it; alpha [...] broadcasts."""
        length = state.norm(dim=-1, keepdim=True)
        unit = state / length.clamp(min=1e-12)
        noise = draw_for_batch(state, torch.randn)
        noise = F.normalize(noise - (noise * unit).sum(-1, keepdim=True) * unit, dim=-1)
        c = alpha[..., None] * self.strength(state)
        moved = (1 - c).clamp(min=0).sqrt() * unit + c.sqrt() * noise
        return F.normalize(moved, dim=-1) * length

    def strength(self, state: Tensor) -> Tensor:
        """Return m [...,1], s [...,d] or m s [...,d] for states [...,d]; m and s are each inside the bounds."""
        low, high = self.settings.bounds
        layers = [layer for layer in (self.samples, self.features) if layer is not None]
        strengths = [low + (high - low) * layer(state / self.dim**0.5).sigmoid() for layer in layers]
        return strengths[0] if len(strengths) == 1 else strengths[0] * strengths[1]

    def generate(self, z_draws: Tensor, visual: Tensor, alpha: Tensor) -> Tensor:
        """Eq. 9: generate z* [B,J,T,d] from z [B,J,T,d] with alpha [B,J,T]; visual [B,T,V]."""
        settings, visual_draws = self.settings, visual[:, None].expand(-1, z_draws.shape[1], -1, -1)
        if self.vqvae is not None:
            return self.vqvae.decode(
                self.vqvae.quantize(self.orthogonalize(self.vqvae.encode(z_draws), alpha)), visual_draws
            )
        noise = draw_for_batch(z_draws, torch.randn)
        if self.schedule is None or self.denoiser is None:
            return (1 - alpha[..., None]).sqrt() * z_draws + alpha[..., None].sqrt() * noise
        state = self.orthogonalize(self.schedule.add_noise(z_draws, noise, settings.depth), alpha)
        steps = torch.linspace(settings.depth, 0, settings.jumps + 1).round().long().tolist()
        for step, target in pairwise(steps):
            timestep = torch.full(state.shape[:-1], step, device=state.device)
            state = self.schedule.ddim_step(state, self.denoiser(state, timestep, visual_draws), step, target)
        return state

    def _nearest(self, z: Tensor, candidates: Tensor, alpha: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 12: select the K candidates [B,J,T,d] nearest to z [B,T,d] over its valid frames, with their alpha."""
        similarity = (F.cosine_similarity(candidates, z[:, None], dim=-1) * valid[:, None]).sum(-1)
        best = similarity.topk(min(self.settings.keep, candidates.shape[1]), dim=1).indices
        texts = candidates.gather(1, best[..., None, None].expand(-1, -1, *candidates.shape[2:]))
        return texts, alpha.gather(1, best)

    def _draw_alpha(self, like: Tensor) -> Tensor:
        low, high = self.settings.alpha
        return low + (high - low) * draw_for_batch(like, torch.rand)


def texts_of_other_clips(texts: Tensor, valid: Tensor) -> Tensor:
    """Texts [B,T,d] of this process's clips -> for each clip the texts of all other clips, of all processes [B,J,T,d].
    Shorter clips are repeated from their first frame.
    """
    all_texts, valid_frames = all_gather_clips(texts), all_gather_clips(valid).sum(1, keepdim=True).clamp(min=1)
    frames = torch.arange(texts.shape[1], device=texts.device) % valid_frames
    all_texts = all_texts.gather(1, frames[..., None].expand_as(all_texts))
    clips = len(all_texts)
    others = ~torch.eye(clips, dtype=torch.bool, device=texts.device)
    return all_texts[others.nonzero()[:, 1].view(clips, clips - 1)[local_slice()]]
