"""Plug ICF into your own network: ten training steps on random clips. `python examples/plug_in.py`

ICF only needs the network to return masks and named features.
"""

import torch
from torch import nn

from icf_avs.icf import CDCL, ICF, MIT, SC, segmentation_losses
from icf_avs.types import Batch, FeatureSpec, NetworkFeatures, NetworkOutput


class SmallNetwork(nn.Module):
    """frames uint8 [B,T,64,64,3] and waveforms [B,T,N] -> mask logits [B,T,16,16]. Audio scales the visual channels."""

    feature_spec = FeatureSpec(visual=(32,), audio=24)

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())
        self.sound = nn.Sequential(nn.Conv1d(1, 16, 400, 160), nn.ReLU(), nn.Conv1d(16, 24, 3), nn.ReLU())
        self.gate, self.mask = nn.Linear(24, 32), nn.Conv2d(32, 1, 1)

    def forward(self, frames: torch.Tensor, sound: torch.Tensor, valid: torch.Tensor) -> NetworkOutput:
        clips, length = valid.shape
        maps = self.image(frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255)
        audio = self.sound(sound.flatten(0, 1)[:, None]).mean(-1)
        logits = self.mask(maps * self.gate(audio).sigmoid()[..., None, None])[:, 0]
        features = NetworkFeatures((maps.unflatten(0, (clips, length)),), audio.unflatten(0, (clips, length)))
        return NetworkOutput(logits.unflatten(0, (clips, length)), features)


def random_batch(clips: int = 4, length: int = 5) -> Batch:
    shape = (clips, length)
    every, masks = torch.ones(shape, dtype=torch.bool), (torch.rand(*shape, 16, 16) > 0.7).float()
    return Batch(
        pyramid=[], frames=torch.randint(0, 256, (*shape, 64, 64, 3), dtype=torch.uint8),
        waveforms=torch.randn(*shape, 4_000), masks=masks, class_map=masks.long(), labelled=every, valid=every,
        sounding=torch.zeros(*shape, 0, dtype=torch.bool),
    )  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    network, batch = SmallNetwork(), random_batch()
    icf = ICF(network.feature_spec, mit=MIT(dim=64, width=32), sc=SC(width=64), cdcl=CDCL())
    optimizer = torch.optim.AdamW([*network.parameters(), *icf.parameters()], 1e-3)
    for step in range(10):
        output = network(batch.frames, batch.waveforms, batch.valid)
        loss = sum(segmentation_losses(output, batch).values()) + icf(output.features, batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}")
    network.eval()  # ICF is only used in training; inference needs the network alone
