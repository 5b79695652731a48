"""One run of the study in one process: teach the ear of a seed, or train and score one row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from icf_avs.atomic_io import replaced_file
from icf_avs.checkpoint import save_checkpoint
from icf_avs.evaluate import default_sets
from icf_avs.results import hardware, revision
from icf_avs.stamps.training_data import StampsData
from icf_avs.study.controls import replace_part
from icf_avs.study.rows import ROWS, teaching
from icf_avs.study.scoring import TestClip, score, test_clips
from icf_avs.training.processes import processes
from icf_avs.training.run import fit, recipe_of
from icf_avs.training.trainer import Trainer, build_model

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What to run: a row of a seed, or with row None the teaching of that seed."""

    row: str | None
    seed: int
    steps: int

    @property
    def folder(self) -> str:
        return f"{self.row or 'taught'}-seed{self.seed}"


class Result(NamedTuple):
    """A line of results/ablation.csv, and those of results/ablation_sets.csv."""

    line: dict[str, str]
    parts: list[dict[str, str]]


class Worker:
    """Does jobs one after the other; scenes are planned once for jobs of one seed in a row, test clips loaded once."""

    def __init__(self, out: Path, clips: int | None = None, say: Say = lambda text: None, device: str = "auto") -> None:
        processes(device)
        self.out, self.clips, self.say = out, clips, say
        self._data: StampsData | None = None
        self._tests: list[TestClip] | None = None

    def do(self, job: Job) -> Result | None:
        """Run a job, from its last checkpoint on if there is one. None for a teaching job."""
        return self._teach(job) if job.row is None else self._row(job)

    def _scenes(self, config) -> StampsData:
        if self._data is None or self._data.config.scene_seed != config.scene_seed:
            self.say("planning scenes")
            self._data = StampsData(config, None, 1, lambda stage, done, total, _: None)
        data = copy.copy(self._data)
        data.config = config
        return data

    def _trainer(self, job: Job, trainer: Trainer, total: int) -> None:
        if (trainer.folder / "last.pt").exists():
            trainer.restore()

        def report(stage: str, done: int, of: int, values: dict[str, float]) -> None:
            if done % 20 == 0 or done == of:
                self.say(f"{job.folder}: step {done}/{total}, loss {values['loss']:.3f}")

        fit(trainer, report)

    def _teach(self, job: Job) -> None:
        config = teaching(job.seed)
        folder = self.out / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        data = self._scenes(config)
        trainer = Trainer(config, data, build_model(config, data.classes), folder)
        self._trainer(job, trainer, config.teach_steps)
        with replaced_file(folder / "audio.safetensors") as new:
            save_file({name: value.cpu().contiguous() for name, value in trainer.model.audio.state_dict().items()}, new)

    def _row(self, job: Job) -> Result:
        row = ROWS[job.row]
        config = row.config(job.seed, job.steps)
        folder = self.out / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        data = self._scenes(config)
        model = build_model(config, data.classes)
        if row.control:
            replace_part(model, row.control)
        model.audio.load_state_dict(load_file(self.out / Job(None, job.seed, 0).folder / "audio.safetensors"))
        trainer = Trainer(config, data, model, folder)
        trainer.learner.weights = {"learn": row.weights()}
        self._trainer(job, trainer, config.steps)
        self.say(f"{job.folder}: calibrating")
        validation = data.validate(model)
        if not row.control:  # a stand-in has other weights than a checkpoint can describe
            command = f"icf study ablation --rows {job.row} --seeds {job.seed + 1} --steps {job.steps}"
            save_checkpoint(model, folder / "model.safetensors", recipe_of(config, trainer, validation, command))
        if self._tests is None:
            self._tests = test_clips(
                default_sets(), model.visual, config.spec, self.clips, progress=lambda *at: self._load(*at)
            )
        self.say(f"{job.folder}: scoring")
        scores, parts = score(model, self._tests)
        of_run = {"row": job.row, "seed": str(job.seed)}
        machine = hardware(trainer.accelerator.device)
        line = of_run | {name: f"{value:.4f}" for name, value in scores.items()}
        line |= {
            "steps": str(config.steps),
            "minutes": f"{trainer.seconds / 60:.1f}",
            "hardware": f"{machine['gpu'] or machine['processor']}, {torch.get_num_threads()} thread",
            "config_hash": row.digest(config),
            "revision": revision(),
        }
        shown = [{k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in part.items()} for part in parts]
        return Result(line, [of_run | part for part in shown])

    def _load(self, done: int, total: int) -> None:
        if done % 20 == 0:
            self.say(f"loading test clips {done}/{total}")
