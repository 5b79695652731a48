"""VQ-VAE of the factual text (van den Oord et al., NeurIPS 2017): the alternative in table 2 to the diffusion.

    e = E(z);  q_g = the entry of codebook g that is nearest to part g of e;  z^ = D(q, v)
    L = |z^ - z|^2 + |sg(e) - q|^2 + .25 |e - sg(q)|^2

The paper only names the space; the rest is not from it. e has several parts with one codebook each: with a single
codebook, the counterfactuals of a text would take only a few values. D gets the visual features, as the denoiser does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.settings import SC

COMMITMENT = 0.25


class VQVAE(nn.Module):
    """VQ-VAE of z. dim: width of z, which has unit variance; condition: width of the visual features, 0 for none."""

    def __init__(self, settings: SC, dim: int, condition: int) -> None:
        super().__init__()
        if dim % settings.parts:
            raise ValueError(f"z of {dim} numbers has no {settings.parts} parts: SC(parts=)")
        width = settings.width
        self.encoder = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, dim))
        self.decoder = nn.Sequential(nn.Linear(dim + condition, width), nn.SiLU(), nn.Linear(width, dim))
        self.conditioned = condition > 0
        self.codebooks = nn.Parameter(torch.randn(settings.parts, settings.codes, dim // settings.parts))

    def encode(self, z: Tensor) -> Tensor:
        """z [...,d] -> e [...,d], with unit variance like the initial codes."""
        return F.layer_norm(self.encoder(z), z.shape[-1:])

    def quantize(self, latent: Tensor) -> Tensor:
        """e [...,d] -> q [...,d]. The gradient of q goes to the codes only."""
        parts, codes = latent.unflatten(-1, self.codebooks.shape[::2]), self.codebooks
        distances = codes.square().sum(-1) - 2 * torch.einsum("...gp,gcp->...gc", parts, codes)
        return codes[torch.arange(len(codes), device=codes.device), distances.argmin(-1)].flatten(-2)

    def decode(self, quantized: Tensor, visual: Tensor) -> Tensor:
        """q [...,d], visual [...,V] -> z^ [...,d]."""
        return self.decoder(torch.cat([quantized, visual], -1) if self.conditioned else quantized)

    def loss(self, z: Tensor, visual: Tensor) -> Tensor:
        """Return L of each vector [...]; the gradient of D reaches E by the straight-through estimator."""
        latent = self.encode(z)
        quantized = self.quantize(latent)
        reconstruction = self.decode(latent + (quantized - latent).detach(), visual)
        codes = (latent.detach() - quantized).square() + COMMITMENT * (latent - quantized.detach()).square()
        return ((reconstruction - z).square() + codes).mean(-1)
