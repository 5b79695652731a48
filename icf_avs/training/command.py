"""What `icf train` is made of: the run that its options say, its progress bars, and what to do next."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.config import TrainConfig
from icf_avs.console import progress_console
from icf_avs.errors import UserError, did_you_mean
from icf_avs.glibc_malloc import keep_freed_memory
from icf_avs.training.accelerator import processes
from icf_avs.training.benchmark_data import check_set
from icf_avs.training.cli_overrides import Choices, refuse_idle, typed
from icf_avs.training.data_protocol import Report
from icf_avs.training.recipes import RECIPES
from icf_avs.training.run import check_start
from icf_avs.training.trainer import kept_steps

SHOWN = ("loss", "top1", "bce", "dice", "counterfactual")
WIDE = 120  # columns of a terminal that have room for all that is shown
COLUMNS = (  # only the bar gives way where there is no room
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(table_column=Column(no_wrap=True)),
    TimeElapsedColumn(table_column=Column(no_wrap=True)),
    TimeRemainingColumn(table_column=Column(no_wrap=True)),
    TextColumn("{task.fields[values]}"),
)
STAGES = {
    "tagging": "tagging recordings",
    "images": "rendering images",
    "clips": "rendering clips",
    "highres_images": "rendering large images",
    "highres_clips": "rendering large clips",
    "validation": "rendering validation clips",
    "pretrain": "pretraining the audio encoder",
    "train": "training masks",
}


def configured(args: argparse.Namespace) -> tuple[TrainConfig, Path, Path | None, Path | None]:
    """The run that the command line names: its configuration, its folder, that of its data, and the checkpoint that it
    starts from. This process is set up for it. Raises UserError for what is known to be wrong before any work.
    """
    if args.recipe not in RECIPES:
        raise UserError(f"no recipe {args.recipe!r}{did_you_mean(args.recipe, RECIPES)} `icf train --help` lists them")
    recipe = RECIPES[args.recipe]()
    choices = Choices(**{field.name: getattr(args, field.name) for field in fields(Choices)})
    refuse_idle(recipe, choices, args.data, args.stamps)
    folder = args.out or Path("runs") / recipe.name
    if args.resume and choices.steps is None:
        choices = replace(choices, steps=kept_steps(folder))
    config = choices.configured(recipe)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    init = find_checkpoint(args.init)[0] if args.init and not args.resume else None
    check_start(config, folder, init, args.resume, args.wandb)  # here as well, above the bars
    if config.benchmark:
        check_set(config, args.data)
    return config, folder, args.data if config.benchmark else args.stamps, init


class ProgressBar(Progress):
    """Leaves nothing where nothing was drawn: in a file or a pipe, Rich leaves an empty line, as before an error."""

    def stop(self) -> None:
        if self.console.is_terminal or any(task.visible for task in self.tasks):
            super().stop()
        else:
            self.live.stop()


def console_of(device: str) -> Console:
    """Where the run speaks: the standard error of its first process."""
    leads = processes(device).is_main_process
    return progress_console(not leads, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(config: TrainConfig, recipe: str, console: Console) -> Iterator[Report]:
    """Progress bars, one for each stage of a run of a recipe, and the function that moves them."""
    if config == replace(RECIPES[recipe](), seed=config.seed) and config.estimate:  # of no other run than it
        console.print(f"{config.name}: {config.estimate}")
    with ProgressBar(*COLUMNS, console=console) as bar:
        yield partial(_report, bar, {}, config)


def _report(
    bar: ProgressBar,
    tasks: dict[str, TaskID],
    config: TrainConfig,
    stage: str,
    done: int,
    total: int,
    values: dict[str, float],
) -> None:
    """Show how far a stage is; steps are counted from 1 in each of the two of the run itself."""
    if stage in ("pretrain", "train"):
        pretraining = total - config.steps - config.highres_steps  # the steps before the masks
        if stage == "train" and "pretrain" in tasks and not bar.tasks[tasks["pretrain"]].finished:
            taken = round(bar.tasks[tasks["pretrain"]].completed)
            bar.console.print(f"{STAGES['pretrain']}: no more progress, ended after {taken} of {pretraining} steps")
            bar.update(tasks["pretrain"], total=taken)
        done, total = (done, pretraining) if stage == "pretrain" else (done - pretraining, total - pretraining)
    if stage not in tasks:
        tasks[stage] = bar.add_task(STAGES[stage], total=total, values="")
    shown = [f"{name} {values[name]:.3f}" for name in SHOWN if name in values]
    room = len(SHOWN) if bar.console.width >= WIDE else 1  # the total loss is the first
    bar.update(tasks[stage], completed=done, total=total, values=" ".join(shown[:room]))
    if not bar.console.is_terminal and (done % 100 == 0 or done == total):  # a log file shows no bar
        bar.console.print(f"{STAGES[stage]} {done}/{total} {' '.join(shown)}")


def announce(path: Path, config: TrainConfig, source: Path | None, folder: Path, console: Console) -> None:
    """Say where the checkpoint is, and the commands that score it."""
    console.print(f"checkpoint: {path}")
    for words in scoring(path, config, source, folder):
        console.print(f"next: {shlex.join(['icf', *words])}")


def scoring(path: Path, config: TrainConfig, source: Path | None, folder: Path) -> list[list[str]]:
    """Arguments of `icf` that score a checkpoint on test clips of the data it was trained on."""
    evaluate = ["evaluate", typed(path)]
    if source is None:
        return [evaluate]
    if config.benchmark is not None:
        return [[*evaluate, "--data", typed(source)]]
    sets = typed(folder / "test")
    return [["data", "stamps", "--stamps", typed(source), "--out", sets, "--train", "0", "--val", "0", "--no-video"],
            [*evaluate, "--data", sets]]  # fmt: skip
