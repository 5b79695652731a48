"""A VQ-VAE of the factual text (van den Oord et al., NeurIPS 2017): the space of table 2 beside the diffusion.

    e = E(z);  q_g = the entry of codebook g that is nearest to part g of e;  z^ = D(q, v)
    L = |z^ - z|^2 + |sg(e) - q|^2 + .25 |e - sg(q)|^2

The paper names the space alone; all else is this project's choice. e has several parts with a codebook each: with one
codebook all counterfactuals of a text would be among a few. D is given the visual features, as the denoiser is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.icf.settings import SC

COMMITMENT = 0.25


class VQVAE(nn.Module):
    """dim: of z, of unit variance; condition: width of the visual features, 0: D does without them."""

    def __init__(self, settings: SC, dim: int, condition: int) -> None:
        super().__init__()
        if dim % settings.parts:
            raise ValueError(f"z of {dim} numbers has no {settings.parts} parts: SC(parts=)")
        self.encoder = nn.Sequential(nn.Linear(dim, settings.width), nn.SiLU(), nn.Linear(settings.width, dim))
        self.decoder = nn.Sequential(
            nn.Linear(dim + condition, settings.width), nn.SiLU(), nn.Linear(settings.width, dim)
        )
        self.conditioned = condition > 0
        self.codebooks = nn.Parameter(torch.randn(settings.parts, settings.codes, dim // settings.parts))

    def encode(self, z: Tensor) -> Tensor:
        """[...,d] -> e [...,d], of unit variance as the codes are at first."""
        return F.layer_norm(self.encoder(z), z.shape[-1:])

    def quantised(self, latent: Tensor) -> Tensor:
        """[...,d] -> q [...,d], whose gradient goes to the codes."""
        parts, codes = latent.unflatten(-1, self.codebooks.shape[::2]), self.codebooks
        distances = codes.square().sum(-1) - 2 * torch.einsum("...gp,gcp->...gc", parts, codes)
        number = torch.arange(len(codes), device=codes.device)
        return codes[number, distances.argmin(-1)].flatten(-2)

    def decode(self, quantised: Tensor, visual: Tensor) -> Tensor:
        """q [...,d], visual [...,V] -> z^ [...,d]."""
        return self.decoder(torch.cat([quantised, visual], -1) if self.conditioned else quantised)

    def loss(self, z: Tensor, visual: Tensor) -> Tensor:
        """L of every vector [...]; D's gradient reaches E straight through the codes."""
        latent = self.encode(z)
        quantised = self.quantised(latent)
        rebuilt = self.decode(latent + (quantised - latent).detach(), visual)
        codes = (latent.detach() - quantised).square() + COMMITMENT * (latent - quantised.detach()).square()
        return ((rebuilt - z).square() + codes).mean(-1)
