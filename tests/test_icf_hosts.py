"""Every combination of MIT, SC and CDCL trains every network that the paper combines with ICF."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress, product

import pytest
import torch
from small_guided import random_batch
from small_networks import random_clips, small_network

from icf_avs.encoders.text_encoders import load_text_encoders
from icf_avs.icf import CDCL, ICF, MIT, SC, segmentation_losses

PARTS = {
    "mit": MIT(dim=16, width=8, prompts=3, pseudo_words=1, chosen=1, gates=1),
    "sc": SC(width=16, blocks=1, jumps=2, draws=3, keep=2),
    "cdcl": CDCL(dim=8),
}
COMBINATIONS = [frozenset(compress(PARTS, switches)) for switches in product((0, 1), repeat=3)]
TERMS = {"mit": {"pull"}, "sc": {"noise", "ortho"}, "cdcl": {"vision-audio"}}
STEPS = 4


@pytest.fixture(scope="module")
def encoder_of():
    return load_text_encoders("minilm")


@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "+".join(sorted(parts)) or "none")
@pytest.mark.parametrize("network", ["query-deformable", "tpavi", "avsegformer"])
def test_every_combination_trains_every_host(network: str, parts: frozenset[str], encoder_of) -> None:
    """A few steps on one batch: the loss falls, and weights change in the network and in each selected part."""
    host = small_network(network, train_visual=True).train()
    icf = ICF(host.feature_spec, **{name: PARTS[name] for name in parts}, encoder_of=encoder_of).train()
    clips, batch = random_clips(3, 2), random_batch(3, 2)
    batch = replace(batch, frames=clips.frames, valid=clips.valid)
    everything = torch.nn.ModuleDict({"host": host, "icf": icf})
    before = {name: value.clone() for name, value in everything.named_parameters()}
    optimizer, losses = torch.optim.AdamW(everything.parameters(), 3e-3), []
    for _ in range(STEPS):
        torch.manual_seed(0)  # the same counterfactuals and dropout
        output = host(*clips)
        extra = icf(output.features, batch)
        loss = torch.stack(list(segmentation_losses(output, batch).values())).sum() + extra.total
        if not losses and "cdcl" in parts:  # the contrasts alone reach the network
            taps = output.features.visual[-1], output.features.audio
            assert all(gradient.any() for gradient in torch.autograd.grad(extra.total, taps, retain_graph=True))
        optimizer.zero_grad()
        loss.backward()
        if not losses and "cdcl" in parts:
            assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in icf.parameters())
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] and all(torch.isfinite(torch.tensor(losses)))
    expected = set().union(*(TERMS[name] for name in parts))
    expected |= {"vision-text", "audio-text"} if "cdcl" in parts and len(parts) > 1 else set()
    assert extra.terms.keys() == expected
    changed = (name for name, value in everything.named_parameters() if not value.equal(before[name]))
    moved = {".".join(name.split(".")[:2]) for name in changed}
    own = {"mit": "implicit_text", "sc": "counterfactual", "cdcl": "contrast"}
    assert {name for name, module in own.items() if getattr(icf, module) is not None} == parts
    assert parts or not list(icf.parameters()), "what is absent has no parameters"
    assert {"host.visual", "host.audio"} <= moved
    assert {part for part in PARTS if f"icf.{own[part]}" in moved} == parts
