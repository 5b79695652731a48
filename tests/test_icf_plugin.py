"""ICF as a plug-in: it trains the networks of the paper; replaced audio, wrong features, diagnostics, the example."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import compress, product
from pathlib import Path

import pytest
import torch
from small_guided import chosen, random_batch
from small_networks import random_clips, small_network

from icf_avs.encoders.text_encoders import load_text_encoders
from icf_avs.icf import CDCL, ICF, MIT, SC, segmentation_losses
from icf_avs.icf.icf import pool_visual
from icf_avs.types import FeatureSpec, NetworkFeatures

ROOT = Path(__file__).parents[1]
SPEC = FeatureSpec((8, 16), 24)
PARTS = {
    "mit": MIT(dim=16, width=8, prompts=3, pseudo_words=1, chosen=1, gates=1),
    "sc": SC(width=16, blocks=1, jumps=2, draws=3, keep=2),
    "cdcl": CDCL(dim=8),
}
COMBINATIONS = [frozenset(compress(PARTS, switches)) for switches in product((0, 1), repeat=3)]  # the last: all parts
TERMS = {"mit": {"pull"}, "sc": {"noise", "ortho"}, "cdcl": {"vision-audio"}}


@pytest.fixture(scope="module")
def encoder_of():
    return load_text_encoders("minilm")


def features(clips: int = 3, frames: int = 2, seed: int = 0) -> NetworkFeatures:
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(clips, frames, c, s, s, generator=generator) for c, s in zip(SPEC.visual, (8, 4), strict=True)]
    audio = torch.randn(clips, frames, SPEC.audio, generator=generator)
    return NetworkFeatures(tuple(level.requires_grad_() for level in maps), audio.requires_grad_())


def plug_in(encoder_of, **changes: object) -> ICF:
    torch.manual_seed(0)
    return ICF(SPEC, **PARTS | changes, encoder_of=encoder_of).train()


def test_audio_swap_gives_texts_of_the_own_frames_and_another_sound(encoder_of, monkeypatch):
    """Table 2, "audio replaced": eq. 5 with the audio text of each other clip, the nearest kept; by hand per clip."""
    icf = plug_in(encoder_of, sc=SC(strategy="audio-swap", keep=1)).eval()
    batch, taps = random_batch(), features()
    pools = []
    whole = icf.contrast.forward
    monkeypatch.setattr(icf.contrast, "forward", lambda clips, pool: pools.append((clips, pool)) or whole(clips, pool))
    output = icf(taps, batch)
    assert output.terms.keys() == {"pull", "vision-audio", "vision-text", "audio-text"}
    assert not list(icf.counterfactual.parameters())
    (clips, pool), valid = pools[0], batch.valid
    texts = icf.implicit_text(taps.visual[-1], taps.audio, valid)
    for own in range(3):
        found = []
        for other in {0, 1, 2} - {own}:
            frames = [t % int(valid[other].sum()) for t in range(2)]
            mixed = texts._replace(visual=texts.visual[own, None], audio=texts.audio[other, frames][None])
            found.append(icf.fusion(mixed, valid[own, None])[0])
        near = [torch.cosine_similarity(each, clips.text[own], dim=-1)[valid[own]].sum() for each in found]
        best = found[int(torch.stack(near).argmax())]
        expected = torch.nn.functional.normalize(best, dim=-1) * clips.text[own].norm(dim=-1, keepdim=True)
        torch.testing.assert_close(pool.texts[own, 0], expected.detach(), atol=1e-5, rtol=1e-4)
    assert pool.texts.shape[1] == 1 and not pool.texts.requires_grad
    for strategy in ("audio-swap", "text-revision"):
        icf = plug_in(encoder_of, sc=SC(strategy=strategy))
        assert torch.isfinite(icf(features(clips=1), random_batch(clips=1)).total), "a single clip"


WRONG = {  # the levels, one level or the audio of a batch, changed, and what is said
    "levels": (lambda maps, audio: (maps[1:], audio), "features.visual has 1 levels; want the 2 of FeatureSpec"),
    "channels": (lambda maps, audio: ((maps[0], maps[1][:, :, :9]), audio), "features.visual[-1] has shape [3, 2, 9, "
     "4, 4]; want [3, 2, 16, h, w]: clips and frames of batch.valid, width of FeatureSpec"),
    "frames": (lambda maps, audio: (maps, audio[:, :1]), "features.audio has shape [3, 1, 24]; want [3, 2, 24]"),
    "vision without gradient": (lambda maps, audio: ((maps[0], maps[1].detach()), audio), "features.visual[-1] has no "
     "gradient; want the output of a layer that is trained"),
    "audio without gradient": (lambda maps, audio: (maps, audio.detach()), "features.audio has no gradient"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_features_are_refused(what: str) -> None:
    (change, said), taps, batch, icf = WRONG[what], features(), random_batch(), ICF(SPEC, cdcl=PARTS["cdcl"])
    wrong = NetworkFeatures(*change(taps.visual, taps.audio))
    with pytest.raises(ValueError, match=re.escape(said)):
        icf(wrong, batch)
    icf(taps, batch)
    if "gradient" in what:  # only CDCL needs it, in training
        ICF(SPEC)(wrong, batch)
        icf.eval()(wrong, batch)


def test_invalid_settings_and_padding_before_frames_are_refused() -> None:
    batch = random_batch()
    batch.valid[0, 0] = False
    with pytest.raises(ValueError, match=r"batch.valid has padding before a valid frame"):
        ICF(SPEC)(features(), batch)
    with pytest.raises(ValueError, match="needs MIT"):
        ICF(SPEC, sc=SC(strategy="audio-swap"))
    for level in (2, -3):
        with pytest.raises(ValueError, match=f"level is {level}, and FeatureSpec has 2 visual levels, from 0"):
            ICF(SPEC, level=level)
    with pytest.raises(ValueError, match="MIT has no encoder clip; there are published, minilm"):
        MIT(encoders="clip")
    with pytest.raises(ValueError, match="no strategy features; there are diffusion, vqvae, pair-swap, audio-swap, "):
        SC(strategy="features")
    with pytest.raises(ValueError, match="CDCL has no contrast vision; there are vision-audio, "):
        CDCL(contrasts=("vision",))


def test_diagnostics_are_reported_and_carry_no_gradient(encoder_of):
    found = plug_in(encoder_of)(features(), random_batch()).diagnostics
    assert found.keys() == {"z cosine over clips", "z* of another class", "joint space AUC", "positive pairs"}
    assert -1 <= found["z cosine over clips"] <= 1
    assert all(0 <= value <= 1 for name, value in found.items() if name != "z cosine over clips")
    assert not any(value.requires_grad for value in found.values())


@torch.no_grad()
def test_order_of_clips_and_content_of_padding_change_no_loss(encoder_of):
    """Without counterfactuals, which are random."""
    icf, batch, taps, order = plug_in(encoder_of, sc=None), random_batch(3, 3), features(3, 3), torch.tensor([2, 0, 1])
    moved = NetworkFeatures(tuple(level[order] for level in taps.visual), taps.audio[order])
    torch.testing.assert_close(icf(taps, batch).total, icf(moved, chosen(batch, order)).total)
    batch.valid[:, 2] = batch.labelled[:, 2] = False
    found = []
    for content in (0.0, 9.0):
        taps.visual[-1][:, 2], taps.audio[:, 2] = content, -content
        found.append(icf(taps, batch).terms)
    torch.testing.assert_close(*found)


def test_vision_is_pooled_over_the_mask_where_there_is_one():
    batch = random_batch(1, 2)
    batch.masks.zero_()
    batch.masks[0, 0, :4, :4] = 1  # a quarter of the side: the first cell of 4 x 4
    maps = torch.randn(1, 2, 3, 4, 4)
    found = pool_visual(maps, batch, "mask")
    torch.testing.assert_close(found[0, 0], maps[0, 0, :, 0, 0])
    torch.testing.assert_close(found[0, 1], maps[0, 1].mean((-2, -1)))


@pytest.mark.full
def test_the_example_runs(tmp_path):
    path = ROOT / "examples" / "plug_in.py"
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    losses = [float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(losses) == 10 and losses[-1] < losses[0]
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize(
    ("network", "parts"),
    [*product(["query-deformable"], COMBINATIONS), ("tpavi", COMBINATIONS[-1]), ("avsegformer", COMBINATIONS[-1])],
    ids=lambda of: of if isinstance(of, str) else "+".join(sorted(of)) or "none",
)
def test_every_combination_and_every_host_train(network: str, parts: frozenset[str], encoder_of) -> None:
    """A few steps on one batch: the loss falls, and weights change in the network and in each selected part."""
    host = small_network(network, train_visual=True).train()
    icf = ICF(host.feature_spec, **{name: PARTS[name] for name in parts}, encoder_of=encoder_of).train()
    clips, batch = random_clips(3, 2), random_batch(3, 2)
    everything = torch.nn.ModuleDict({"host": host, "icf": icf})
    before = {name: value.clone() for name, value in everything.named_parameters()}
    optimizer, losses = torch.optim.AdamW(everything.parameters(), 3e-3), []
    for _ in range(4):
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
        losses.append(float(loss.detach()))
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
