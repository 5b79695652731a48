"""Two or three real processes that share a batch: loss terms, gradients and weights equal those of one process."""

from __future__ import annotations

import multiprocessing
import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_guided import NAMES, chosen, random_batch, small_host, small_model

from icf_avs.config import BenchmarkConfig, PlugInConfig, TrainConfig
from icf_avs.errors import UserError
from icf_avs.icf import CDCL, MIT, SC
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.settings import InterventionSettings
from icf_avs.training import accelerator
from icf_avs.training.recipes import RECIPES
from icf_avs.types import Batch

CLIPS, FRAMES, STEPS = 5, 2, 3  # CLIPS is no multiple of the processes; the first step is audio pretraining
CONFIG = TrainConfig("tiny", audio_pretrain_steps=1, steps=STEPS - 1, highres_steps=0, warmup=1, learning_rate=1e-6)
PLUG_IN = PlugInConfig(MIT(dim=32, width=16), SC(width=32, blocks=1, jumps=2, draws=4, keep=2), CDCL(dim=16))


def shared_batch(step: int) -> Batch:
    """Clips that differ in labels, padding, silence, full masks, classes and unknown classes."""
    batch = random_batch(CLIPS, FRAMES, seed=step)
    batch.labelled[1:3, 1:] = False
    batch.valid[3:, 1] = batch.labelled[3:, 1] = False
    for whole in (batch.masks, batch.class_map, batch.sounding):
        whole[2] = 0  # silent
    batch.masks[3], batch.class_map[3] = 1, 4
    batch.sounding[0, :, 2], batch.class_map[0, :, 8:, 8:], batch.masks[0, :, 8:, 8:] = True, 3, 0.5
    if step == 2:
        batch.onscreen = None
        batch.sounding[4], batch.class_map[4] = False, 0
    batch.other_sounds = batch.waveforms.roll(1, 0)[:, None] + batch.waveforms[:, None]
    batch.other_masks = batch.masks.roll(1, 0)[:, None]
    return batch


class Shared:
    """Stand-in for training data."""

    classes, config = NAMES, CONFIG

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        return chosen(shared_batch(step), torch.arange(CLIPS)[part::parts])


def without_dropout(model: SegmentationModel) -> SegmentationModel:
    """Switch off dropout: each process draws it for its own clips, so results would differ."""
    for module in model.modules():
        for name in ("p", "dropout", "activation_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    return model


def steps(rank: int, world: int, port: int, turns: int, network: str, folder: str) -> None:
    """One process of a run of STEPS; rank 0 saves terms and gradients of each step, and the final weights."""
    torch.set_num_threads(1)
    if world > 1:
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in where.items()})
    from icf_avs.training.trainer import Trainer

    config = replace(CONFIG, benchmark=BenchmarkConfig("S4", grad_accum_steps=turns))
    if network == "guided":
        model = small_model(semantic=True)
    elif network.endswith("-icf"):
        model = without_dropout(small_host(network.removesuffix("-icf")))
        # AdamW makes full steps of gradients that are pure rounding (before a normalisation): keep them small.
        config = replace(config, icf=PLUG_IN, learning_rate=1e-8)
    else:
        model, config = small_host(network), replace(config, interventions=InterventionSettings(other_sound=0.3))
    trainer, found = Trainer(config, Shared(), model, Path(folder)), []
    assert trainer.accelerator.num_processes == world
    for step in range(STEPS):
        terms = trainer.train_step(*trainer.batches(step))
        gradients = {n: p.grad.clone() for n, p in trainer.train_module.named_parameters() if p.grad is not None}
        found.append((terms, gradients))
    if rank == 0:
        torch.save((found, trainer.train_module.state_dict()), Path(folder) / f"{world}-{turns}-{network}.pt")
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(processes, turns, network) -> what `steps` saves; each run is made once."""
    context, folder, made = multiprocessing.get_context("forkserver"), tmp_path_factory.mktemp("runs"), {}
    context.set_forkserver_preload(["icf_avs.training.trainer", "small_guided"])

    def of(world: int, turns: int = 1, network: str = "guided") -> Any:
        if (world, turns, network) not in made:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            started = [
                context.Process(target=steps, args=(rank, world, port, turns, network, str(folder)))
                for rank in range(world)
            ]
            for process in started:
                process.start()
            for process in started:
                process.join(120)
            assert [process.exitcode for process in started] == [0] * world
            made[world, turns, network] = torch.load(folder / f"{world}-{turns}-{network}.pt", weights_only=True)
        return made[world, turns, network]

    return of


KINDS = {"other_sound", "orthogonal_sound", "other_frames", "removed_source"}
TERMS = {
    "guided": {"contrast", "visual_counterfactual", "source_removal", "counterfactual", "generator", "semantic",
               "extra_audio"},
    "icf": {"pull", "noise", "ortho", "vision-audio", "vision-text", "audio-text", "z cosine over clips",
            "z* of another class", "joint space AUC"},
}  # fmt: skip
FURTHER = ((2, 1, "guided"), (2, 2, "guided"), (3, 1, "query"), (2, 1, "tpavi"), (3, 1, "query-icf"),
           (2, 1, "tpavi-icf"), (3, 1, "avsegformer-icf"))  # fmt: skip


@pytest.mark.parametrize(
    ("world", "turns", "network"),
    [(2, 1, "query-icf"), *(pytest.param(*case, marks=pytest.mark.full) for case in FURTHER)],
)
def test_several_processes_train_as_one(world: int, turns: int, network: str, run: Any) -> None:
    """Terms, diagnostics and gradients. Networks other than the guided one and without ICF train with interventions."""
    (expected, weights), (found, other) = run(1, turns, network), run(world, turns, network)
    icf = network.endswith("-icf")
    # Otherwise as near as the order of float32 sums leaves them on AMD and Intel processors: 1.4e-3 at most.
    within = 1e-4 if icf else 2e-3
    for (mine, gradients), (theirs, others) in zip(expected, found, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-5)
        assert gradients.keys() == others.keys()
        for name, gradient in gradients.items():
            assert (others[name] - gradient).norm() < within * gradient.norm() + 1e-6, name
    asked = TERMS.get("icf" if icf else network, KINDS)
    assert asked <= found[1][0].keys() and all(found[2][0][name] > 0 for name in asked & KINDS)
    if icf:
        assert {"model", "icf"} <= {name.split(".")[0] for name, gradient in found[1][1].items() if gradient.any()}
    else:
        differences = torch.cat([(other[name].float() - value.float()).flatten() for name, value in weights.items()])
        assert differences.abs().mean() < 1e-8, "a hundredth of what a step moves a weight"


def test_more_processes_than_clips_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest batch counts."""
    for recipe, most in (("natural", 3), ("stamps", 6), ("s4-pvt", 8)):
        monkeypatch.setattr(accelerator, "processes", lambda most=most: SimpleNamespace(num_processes=most))
        accelerator.check_processes(RECIPES[recipe]())
        monkeypatch.setattr(accelerator, "processes", lambda most=most: SimpleNamespace(num_processes=most + 1))
        with pytest.raises(UserError, match=rf"recipe {recipe} .* {most} clips.* among {most + 1} .*at most {most}"):
            accelerator.check_processes(RECIPES[recipe]())
    turns = replace(RECIPES["s4-pvt"](), benchmark=BenchmarkConfig("S4", grad_accum_steps=2))
    with pytest.raises(UserError, match="among 18 processes and turns"):
        accelerator.check_processes(turns)
