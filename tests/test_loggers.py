"""TensorBoard by default, W&B by flag, and nothing sent anywhere without it."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from small_training import TINY, broken_off, stand_ins, tiny_data

from icf_avs.errors import UserError
from icf_avs.training.callbacks import CLIPS, COLUMNS, GAP, SIDE
from icf_avs.training.composed_data import StampsData
from icf_avs.training.run import train

pytestmark = pytest.mark.full

LONG = replace(TINY, steps=16, checkpoint_every=8)  # twenty steps


@pytest.fixture(scope="module")
def data() -> StampsData:
    return tiny_data()


@pytest.fixture(autouse=True)
def prepared(data: StampsData, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins(data, monkeypatch)


@pytest.fixture
def wandb():
    """W&B as before its first use: it reads the environment once."""
    import wandb as package

    package.teardown()
    yield package
    package.teardown()


@pytest.fixture(scope="module")
def straight(data: StampsData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted run without a tracker."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(data, patch)
        patch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
        train(LONG, folder)
    return folder


def same(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "tiny.safetensors") for folder in (one, other))
    return all(value.equal(second[name]) for name, value in first.items())


def test_tensorboard_shows_terms_by_stage_and_clips(straight: Path, tmp_path: Path) -> None:
    """A resumed run repeats steps that were logged; each is shown once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    broken_off(tmp_path, LONG, 12)  # step 10 is logged, and comes again from step 8 on
    train(LONG, tmp_path, resume=True)
    shown = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    tags = shown.Tags()
    expected = {"pretrain/naming", "pretrain/loss", "train/bce", "train/counterfactual", "validation/score"}
    assert expected <= set(tags["scalars"])
    assert [event.step for event in shown.Scalars("train/loss")] == [10, 19]
    assert [event.step for event in shown.Scalars("pretrain/loss")] == [0]
    assert [event.step for event in shown.Images("samples")] == [7, 15, 19]
    picture = shown.Images("samples")[-1]
    assert (picture.width, picture.height) == (COLUMNS * (SIDE + GAP), CLIPS * (3 * (SIDE + GAP) + 2 * GAP))
    assert any("recipe" in tag for tag in tags["tensors"])
    assert same(straight, tmp_path), "tracking does not change training"


def test_without_tensorboard(straight: Path) -> None:
    assert not (straight / "tensorboard").exists()
    assert sorted(path.name for path in (straight / "samples").iterdir()) == ["000008.png", "000016.png", "000020.png"]


def test_nothing_is_sent_without_the_flag(data: StampsData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever environment variables are set, no tracker is imported and no connection opened."""
    called = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: called.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address: called.append(address))
    for name in ("WANDB_API_KEY", "COMET_API_KEY", "MLFLOW_TRACKING_URI", "CLEARML_API_HOST", "ACCELERATE_LOG_WITH"):
        monkeypatch.setenv(name, "all")
    for module in ("wandb", "comet_ml", "mlflow", "clearml", "aim", "trackio", "swanlab"):
        monkeypatch.setitem(sys.modules, module, None)  # an import would fail
    train(TINY, tmp_path)
    assert not called and not (tmp_path / "wandb").exists() and not (tmp_path / "wandb-id.txt").exists()


def test_missing_wandb_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'icf-avs\[wandb\]'"):
        train(TINY, tmp_path, wandb=True)


def test_wandb_without_an_account_is_reported(wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"W&B: .*WANDB_MODE=offline") as raised:
        train(TINY, tmp_path / "run", wandb=True)
    assert "\n" not in str(raised.value)


def test_wandb_offline(wandb, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, W&B writes what it would send: loss terms and sample clips."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(LONG, tmp_path, wandb=True)
    identity = (tmp_path / "wandb-id.txt").read_text().strip()
    (log,) = (tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb")
    assert all(name in log.read_bytes() for name in (b"pretrain/naming", b"train/bce", b"validation/score"))
    assert len([*log.parent.glob("files/media/images/samples_*.png")]) == 3
    assert same(straight, tmp_path)


def test_sample_clips_are_those_of_the_validation(data: StampsData) -> None:
    samples, batch = data.samples(CLIPS), next(data.validation())
    assert len(samples) == CLIPS
    for sample, waves, masks in zip(samples, batch.waveforms, batch.masks, strict=False):
        assert np.allclose(sample.sound, waves, atol=1e-6)
        cells = sample.masks.unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).mean((2, 4))
        assert float((cells - masks).abs().mean()) < 0.01, "the batch has them at a quarter of the size"
        assert sample.frames.shape == (5, 224, 224, 3) and sample.frames.float().std() > 10
