"""`python -m research reproduction`: train and score every row missing in the table. Each run can be resumed."""

from __future__ import annotations

import argparse
import copy
import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import mean

from rich.progress import Progress
from safetensors.torch import load_file, save_file

from icf_avs.atomic_io import replaced_file
from icf_avs.config import TrainConfig
from icf_avs.console import progress_console
from icf_avs.device import find_device
from icf_avs.encoders.registry import build_visual
from icf_avs.errors import UserError
from icf_avs.evaluation.test_sets import FOLDERS, default_sets
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.provenance import revision
from icf_avs.synthetic.benchmark import write_stamps
from icf_avs.training.accelerator import processes
from icf_avs.training.benchmark_data import BenchmarkData
from icf_avs.training.composed_data import StampsData
from icf_avs.training.recipes import SMALL
from icf_avs.training.trainer import build_model
from research.jobs import finished, machine, shown, train_run
from research.rows import ROWS, base, digest, pretraining
from research.scoring import COLUMNS, TestClip, score, test_clips
from research.table import Line, Table

DIAGNOSTICS = {  # column -> name in the log of a run
    "z_cosine": "z cosine over clips",
    "z_other_class": "z* of another class",
    "joint_auc": "joint space AUC",
}
TRAIN_CLIPS = 400  # training clips of a set on disk
RUNS = Table(
    ("row", "seed", "steps", "clips", *COLUMNS, *DIAGNOSTICS, "minutes", "hardware", "config_hash", "revision"),
    tuple(ROWS),
)


@dataclass(frozen=True)
class Job:
    """A row and seed, or with row None the pretraining of the audio encoder for that seed. out: folder of the runs;
    clips: number of scored clips per test set.
    """

    row: str | None
    seed: int
    steps: int
    out: Path
    device: str
    clips: int

    @property
    def config(self) -> TrainConfig:
        return pretraining(self.seed) if self.row is None else ROWS[self.row].config(self.seed, self.steps)

    @property
    def folder(self) -> Path:
        return self.out / f"{self.row or 'audio'}-seed{self.seed}"

    @property
    def audio(self) -> Path:
        """Path of the weights of the pretrained audio encoder."""
        return self.out / f"audio-seed{self.seed}" / "audio.safetensors"


def pending(args: argparse.Namespace) -> list[Job]:
    """Return the jobs missing in the table, seed by seed, each with pretraining first. A run in the table counts as
    done if its configuration equals that of the row now.
    """
    names = args.rows or list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        raise UserError(f"no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    done = {(line["row"], line["seed"], line["config_hash"]) for line in RUNS.read(args.results)}
    jobs = []
    for seed in range(args.seeds):
        rows = [Job(name, seed, args.steps, args.out, args.device, args.clips) for name in names]
        rows = [job for job in rows if (job.row, str(seed), digest(job.config)) not in done]
        if rows and not rows[0].audio.exists():
            rows.insert(0, Job(None, seed, args.steps, args.out, args.device, args.clips))
        jobs += rows
    return jobs


def reproduction_command(args: argparse.Namespace) -> None:
    """Run the pending jobs, several at a time except for pretraining, and update the table after each run."""
    jobs, console = pending(args), progress_console()
    if not jobs:
        console.print(f"{args.results} has all of it; take out lines to run them again")
        return
    count = args.jobs if find_device(args.device).type == "cpu" else 1
    default_sets()  # now, as otherwise every process would write them
    with Progress(console=console) as bar:
        for seed in sorted({job.seed for job in jobs}):
            _render(seed, count, bar)
            if any(job.seed == seed and job.config.benchmark for job in jobs):
                _set_on_disk(args.out, seed)
        task = bar.add_task("runs", total=len(jobs))
        for some in ([job for job in jobs if job.row is None], [job for job in jobs if job.row is not None]):
            for job, line in finished(some, run_job, min(count, max(1, len(some)))):
                if line is not None:
                    RUNS.replace(args.results, (line["row"], line["seed"]), [line])
                    console.print(f"{job.folder.name}: mIoU {line['miou']}, G {line['g_miou']}")
                bar.advance(task)
    console.print(f"wrote {args.results}; next: python -m research summary")


def _render(seed: int, workers: int, bar: Progress) -> None:
    """Render the scene features into the cache, using all processes."""
    tasks: dict[str, object] = {}

    def report(stage: str, done: int, total: int, _: object) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(f"scenes of seed {seed}: {stage}", total=total)
        bar.update(tasks[stage], completed=done)

    next(iter(StampsData(base(seed, 1), None, workers, report).validation()))


def run_job(job: Job) -> Line | None:
    """Run a job in this process. Return the table line of a row, or None after pretraining."""
    processes(job.device)
    config = job.config
    if config.benchmark is None:
        data = copy.copy(_scenes(job.seed))
        data.config = config
    else:
        data = BenchmarkData(config, _set_on_disk(job.out, job.seed), 1)
    model = build(config, data.classes)
    if job.row is not None:
        model.audio.load_state_dict(load_file(job.audio))
    trainer = train_run(config, job.folder, data, model, _quiet)
    if job.row is None:
        with replaced_file(job.audio) as new:
            save_file({name: value.cpu().contiguous() for name, value in model.audio.state_dict().items()}, new)
        return None
    if config.benchmark is None:
        data.validate(model)  # also calibrates
    values = score(model, _tests(job.clips, model)) | _diagnostics(job.folder)
    return {
        "row": job.row,
        "seed": str(job.seed),
        "steps": str(config.steps),
        "clips": str(job.clips),
        **shown(values),
        "minutes": f"{trainer.seconds / 60:.1f}",
        "hardware": machine(trainer.accelerator.device),
        "config_hash": digest(config),
        "revision": revision(),
    }


def _diagnostics(folder: Path) -> dict[str, float]:
    """Return means over the last ten logged steps; NaN for values that the run does not log."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-10:]
    rows = [json.loads(line) for line in lines]
    values = {column: [row[name] for row in rows if name in row] for column, name in DIAGNOSTICS.items()}
    return {column: mean(column_values) if column_values else math.nan for column, column_values in values.items()}


@lru_cache(maxsize=1)
def _scenes(seed: int) -> StampsData:
    return StampsData(base(seed, 1), None, 1, _quiet)


def build(config: TrainConfig, classes: tuple[str, ...]) -> SegmentationModel:
    """Build the model of a run. Only this study trains EfficientNet-Lite0; its normalisation is in its kernels."""
    model = build_model(replace(config, model=replace(config.model, train_visual=False)), classes)
    if config.model.train_visual:
        model.visual.requires_grad_(True)
        model.network.train_visual = True
    return model


def _set_on_disk(out: Path, seed: int) -> Path:
    """Write a Stamps set in the MS3 layout for a trained encoder, once per seed, and return its folder."""
    root = out / f"stamps-seed{seed}"
    write_stamps(root, seed=seed, train=TRAIN_CLIPS, val=8, video=False)
    return root / FOLDERS["ms3"]


def _tests(clips: int, model: SegmentationModel) -> list[TestClip]:
    """Return the test clips. They are encoded once for all models with the frozen encoder."""
    if model.network.train_visual:
        return test_clips(default_sets(), model.visual, model.spec, clips)
    return _frozen_tests(clips)


@lru_cache(maxsize=1)
def _frozen_tests(clips: int) -> list[TestClip]:
    return test_clips(default_sets(), build_visual(SMALL), base(0, 1).spec, clips)


def _quiet(stage: str, done: int, total: int, values: dict[str, float]) -> None:
    """Report nothing, since the command shows which runs are done."""
