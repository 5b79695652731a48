"""ICF as a plug-in: replaced audio, errors for wrong features and settings, diagnostics, invariances, the example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_guided import chosen, random_batch
from transformers.utils import logging

from icf_avs.encoders.text_encoders import load_text_encoders
from icf_avs.icf import CDCL, ICF, MIT, SC
from icf_avs.icf.icf import pool_visual
from icf_avs.types import Batch, FeatureSpec, NetworkFeatures

ROOT = Path(__file__).parents[1]
SPEC = FeatureSpec((8, 16), 24)
PARTS = {"mit": MIT(dim=32, width=16), "sc": SC(width=32, blocks=1, jumps=2, draws=4, keep=2), "cdcl": CDCL(dim=16)}


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


def test_audio_swap_of_a_single_clip(encoder_of):
    icf = plug_in(encoder_of, sc=SC(strategy="audio-swap"))
    assert torch.isfinite(icf(features(clips=1), random_batch(clips=1)).total)
    with pytest.raises(ValueError, match="needs MIT"):
        ICF(SPEC, sc=SC(strategy="audio-swap"))


def spoilt(what: str) -> tuple[NetworkFeatures, Batch]:
    """Features and batch with one mistake."""
    taps, batch = features(), random_batch()
    maps, audio = taps.visual[-1], taps.audio
    if what == "valid":
        batch.valid[0] = torch.tensor([False, True])
    elif what == "visual":
        taps.visual = taps.visual[1:]
    elif what.startswith("visual"):
        changed = {"channels": maps[:, :, :9], "rank": maps.mean(-1), "gradient": maps.detach()}
        taps.visual = (taps.visual[0], changed[what.split()[1]])
    else:
        taps.audio = {"frames": audio[:, :1], "gradient": audio.detach()}[what.split()[1]]
    return taps, batch


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("visual", " has 1 levels; want the 2 of FeatureSpec"),
        ("visual channels", "[-1] has shape [3, 2, 9, 4, 4]; want [3, 2, 16, h, w]: clips and frames of batch.valid"),
        ("visual rank", "[-1] has shape [3, 2, 16, 4]; want [3, 2, 16, h, w]"),
        ("visual gradient", "[-1] has no gradient; want the output of a layer that is trained"),
        ("audio frames", " has shape [3, 1, 24]; want [3, 2, 24]"),
        ("audio gradient", " has no gradient"),
        ("valid", "batch.valid has padding before a valid frame"),
    ],
)  # fmt: skip
def test_wrong_features_are_refused(what: str, said: str) -> None:
    icf, wrong = ICF(SPEC, cdcl=PARTS["cdcl"]), spoilt(what)
    with pytest.raises(ValueError, match=re.escape(said if what == "valid" else f"features.{what.split()[0]}{said}")):
        icf(*wrong)
    icf(features(), random_batch())
    if what.endswith("gradient"):  # only CDCL needs it, in training
        ICF(SPEC)(*wrong)
        icf.eval()(*wrong)


def test_invalid_settings_are_refused() -> None:
    for level in (2, -3):
        with pytest.raises(ValueError, match=f"level is {level}, and FeatureSpec has 2 visual levels, from 0"):
            ICF(SPEC, level=level)
    with pytest.raises(ValueError, match="MIT has no encoder clip; there are published, minilm"):
        MIT(encoders="clip")
    with pytest.raises(ValueError, match="CDCL has no contrast vision; there are vision-audio, "):
        CDCL(contrasts=("vision",))


def test_text_encoders_load_without_output(capfd: pytest.CaptureFixture[str]) -> None:
    logging.enable_progress_bar()
    ICF(SPEC, mit=PARTS["mit"])
    assert capfd.readouterr() == ("", "") and logging.is_progress_bar_enabled()


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


def test_the_example_runs(tmp_path):
    path = ROOT / "examples" / "plug_in.py"
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    losses = [float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(losses) == 10 and losses[-1] < losses[0]
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
