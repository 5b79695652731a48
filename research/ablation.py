"""`python -m research ablation`: rows and controls on the same scenes with the same pretrained audio encoder, scored
under four kinds of audio. All runs that the table lacks, several at a time, each one resumable.
"""

from __future__ import annotations

import argparse
import copy
import os
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress
from safetensors.torch import load_file, save_file

from icf_avs.atomic_io import replaced_file
from icf_avs.checkpoint.serialization import save_checkpoint
from icf_avs.config import TrainConfig
from icf_avs.console import progress_console
from icf_avs.device import find_device
from icf_avs.errors import UserError
from icf_avs.evaluation.score_tables import revision
from icf_avs.evaluation.test_sets import default_sets
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.training.accelerator import processes
from icf_avs.training.composed_data import StampsData
from icf_avs.training.run import training_metadata
from icf_avs.training.trainer import build_model
from research.ablation_rows import ROWS, teaching
from research.ablation_variants import replace_part
from research.jobs import finished, machine, shown, train_run
from research.scoring import TestClip, score, test_clips
from research.table import Line, Table

SCORES = (
    "miou", "f", "miou_silence", "miou_noise", "miou_offscreen", "fpr_silence", "fpr_noise", "fpr_offscreen", "g_miou",
)  # fmt: skip
RUNS = Table(("row", "seed", *SCORES, "steps", "minutes", "hardware", "config_hash", "revision"), tuple(ROWS))
PARTS = Table(("row", "seed", "test_set", "candidates", "frames", *SCORES), tuple(ROWS))


@dataclass(frozen=True)
class Job:
    """What to run: a row of a seed, or with row None the pretraining of that seed's audio encoder.

    out: folder of the runs. clips: score only so many clips of each test set.
    """

    row: str | None
    seed: int
    steps: int
    out: Path
    device: str = "auto"
    clips: int | None = None

    @property
    def folder(self) -> Path:
        return self.out / f"{self.row or 'taught'}-seed{self.seed}"

    @property
    def audio(self) -> Path:
        """Weights of the pretrained audio encoder."""
        return self.out / f"taught-seed{self.seed}" / "audio.safetensors"


def parts_path(table: Path) -> Path:
    """Where the parts of the runs in `table` stand."""
    return table.with_name(f"{table.stem}_sets.csv")


def pending(
    table: Path, out: Path, rows: list[str], seeds: int, steps: int, device: str = "auto", clips: int | None = None
) -> tuple[list[Job], list[Job]]:
    """Pretraining and row jobs that are still to do: main rows of all seeds first, seed by seed.

    A run of the table counts as done if its configuration is still the row's.
    """
    done = {(line["row"], line["seed"], line["config_hash"]) for line in RUNS.read(table)}
    jobs = [
        Job(row, seed, steps, out, device, clips)
        for row in rows
        for seed in range(seeds)
        if (row, str(seed), ROWS[row].digest(ROWS[row].config(seed, steps))) not in done
    ]
    jobs.sort(key=lambda job: (not ROWS[job.row].main, job.seed))
    pretraining = [Job(None, seed, steps, out, device) for seed in sorted({job.seed for job in jobs})]
    return [job for job in pretraining if not job.audio.exists()], jobs


def ablation_command(args: argparse.Namespace) -> None:
    """Do what is pending, one process a core unless told otherwise, and write the tables run by run."""
    if unknown := [name for name in args.rows or () if name not in ROWS]:
        raise UserError(f"no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    pretraining, jobs = pending(
        args.results, args.out, args.rows or list(ROWS), args.seeds, args.steps, args.device, args.clips
    )
    console = progress_console()
    if not jobs:
        console.print(f"{args.results} has all of it; take out lines to run them again")
        return
    count = args.jobs or (1 if find_device(args.device).type != "cpu" else os.cpu_count() or 1)
    default_sets()  # before the processes, which would all write them
    with Progress(console=console) as bar:
        for job in {job.seed: job for job in jobs}.values():
            _render(job, count, bar)
        for title, some in (("pretraining", pretraining), ("runs", jobs)):
            task = bar.add_task(title, total=len(some))
            for job, found in finished(some, do, min(count, max(1, len(some)))):
                if found is not None:
                    line, parts = found
                    PARTS.replace(parts_path(args.results), (line["row"], line["seed"]), parts)
                    RUNS.replace(args.results, (line["row"], line["seed"]), [line])
                    console.print(f"{job.folder.name}: mIoU {line['miou']}, G {line['g_miou']}")
                bar.advance(task)
    console.print(f"wrote {args.results}; next: python -m research summary")


def _render(job: Job, workers: int, bar: Progress) -> None:
    """Have the scenes' features in the cache, with all processes at it."""
    tasks: dict[str, object] = {}

    def report(stage: str, done: int, total: int, _: object) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(f"scenes of seed {job.seed}: {stage}", total=total)
        bar.update(tasks[stage], completed=done)

    data = StampsData(ROWS[job.row].config(job.seed, job.steps), None, workers, report)
    next(iter(data.validation()))


def do(job: Job) -> tuple[Line, list[Line]] | None:
    """Run a job in this process; of a row its lines of the two tables."""
    processes(job.device)
    return _pretrain(job) if job.row is None else _train_and_score(job)


def _pretrain(job: Job) -> None:
    config = teaching(job.seed)
    data = _scenes(config)
    trainer = train_run(config, job.folder, data, build_model(config, data.classes), _quiet)
    with replaced_file(job.audio) as new:
        save_file({name: value.cpu().contiguous() for name, value in trainer.model.audio.state_dict().items()}, new)


def _train_and_score(job: Job) -> tuple[Line, list[Line]]:
    row = ROWS[job.row]
    config = row.config(job.seed, job.steps)
    data = _scenes(config)
    model = build_model(config, data.classes)
    if row.control:
        replace_part(model, row.control)
    model.audio.load_state_dict(load_file(job.audio))
    trainer = train_run(config, job.folder, data, model, _quiet, row.weights())
    validation = data.validate(model)
    if not row.control:  # a variant has other weights than a checkpoint can describe
        trainer.command = f"python -m research ablation --rows {job.row} --seeds {job.seed + 1} --steps {job.steps}"
        save_checkpoint(model, job.folder / "model.safetensors", training_metadata(config, trainer, validation))
    scores, parts = score(model, _tests(job, model))
    run = {"row": job.row, "seed": str(job.seed)}
    line = run | shown(scores)
    line |= {
        "steps": str(config.steps),
        "minutes": f"{trainer.seconds / 60:.1f}",
        "hardware": machine(trainer.accelerator.device),
        "config_hash": row.digest(config),
        "revision": revision(),
    }
    return line, [run | shown(part) for part in parts]


# Of this process: jobs of one seed in a row share their scenes, all share the test clips, whose images are encoded.
_planned: dict[int, StampsData] = {}
_loaded: dict[int | None, list[TestClip]] = {}


def _scenes(config: TrainConfig) -> StampsData:
    if config.scene_seed not in _planned:
        _planned.clear()
        _planned[config.scene_seed] = StampsData(config, None, 1, _quiet)
    data = copy.copy(_planned[config.scene_seed])
    data.config = config
    return data


def _tests(job: Job, model: SegmentationModel) -> list[TestClip]:
    if job.clips not in _loaded:
        _loaded[job.clips] = test_clips(default_sets(), model.visual, model.spec, job.clips)
    return _loaded[job.clips]


def _quiet(stage: str, done: int, total: int, values: dict[str, float]) -> None:
    """Says nothing: the command shows which runs are done."""
