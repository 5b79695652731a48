"""(b) Seconds of a training step, forward, backward and AdamW, on clips of five frames at 224x224.

Full ICF has K = 4 counterfactuals. The encoder trains, as in the recipes; the embedded one is frozen and its features
are kept, so there a step of six clips starts from them. TPAVI learns from the binary cross-entropy of its masks. The
process keeps the memory that it frees, as that of `icf train` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import EMBEDDED, PVT, RESNET, Encoder, batch, embedding, ours, tpavi
from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds
from icf_avs.glibc_malloc import keep_freed_memory
from icf_avs.training.train_module import TrainModule
from icf_avs.types import Batch


def stepping(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A whole step as a program."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def our_step(encoder: Encoder, given: Batch, baseline: bool = False) -> Callable[[], None]:
    """A step of ICF, or of its baseline row."""
    model = ours(encoder, train=True, baseline=baseline).to(given.valid.device)
    train_module = TrainModule(model).to(given.valid.device).train()
    if not model.config.train_visual:
        given.pyramid = [level.clone() for level in model.network.encode_frames(given.frames).pyramid]
    return stepping(train_module, lambda: train_module(given, "train")["loss"])


def peer_step(encoder: Encoder, given: Batch) -> Callable[[], None]:
    """A step of TPAVI."""
    peer, sound = tpavi(encoder, train=True).to(given.valid.device), embedding(given).to(given.valid.device)
    truth = F.interpolate(given.masks, scale_factor=4)
    return stepping(peer, lambda: F.binary_cross_entropy_with_logits(peer(given.frames, sound), truth))


def training_step(
    machine: Machine, encoders: Sequence[Encoder] = (PVT, RESNET, EMBEDDED), size: int = 224, clips: int = 1
) -> Iterator[Row]:
    """Rows training-step-NAME: against TPAVI (not with the embedded encoder), one clip a step; against our baseline."""
    keep_freed_memory()
    for encoder in encoders:
        alone = encoder is EMBEDDED
        given = batch(6 if alone else clips, size=size).to(torch.device(machine.device))
        steps = [our_step(encoder, given), our_step(encoder, given, baseline=True)]
        if not alone:
            steps.append(peer_step(encoder, given))
        mine, base, *theirs = seconds(machine, *steps)
        name, unit = f"training-step-{encoder.name}", "s/step"
        if theirs:
            yield row(name, mine, theirs[0], "TPAVI, same encoder", machine, unit)
        yield row(name, mine, base, "our baseline row", machine, unit)
