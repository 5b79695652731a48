"""Parts of `icf train`: the run described by its options, progress bars, and the command that scores the result."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from icf_avs.config_dict import with_settings
from icf_avs.console import progress_console
from icf_avs.datasets.layouts import class_names
from icf_avs.errors import UserError, did_you_mean
from icf_avs.glibc_malloc import keep_freed_memory
from icf_avs.training.accelerator import processes
from icf_avs.training.benchmark_data import check_set
from icf_avs.training.data_protocol import Report
from icf_avs.training.recipes import RECIPES, with_encoders
from icf_avs.training.run import check_start
from icf_avs.training.trainer import saved_steps

# The setting of each option, as named for --set; nested settings have a dot.
_SETTING_OF = {
    "seed": "seed", "steps": "steps", "pretrain_steps": "audio_pretrain_steps", "lr": "learning_rate", "batch": "batch",
    "text_encoder": "text_encoder", "visual_encoder": "model.visual", "audio_encoder": "model.audio",
    "audio_source": "benchmark.audio_source",
}  # fmt: skip
PROGRESS_VALUES = ("loss", "top1", "bce", "dice", "counterfactual")
WIDE = 120  # columns from which a terminal has room for all values
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


def parse_run(args: argparse.Namespace) -> tuple[TrainConfig, Path, Path | None, Path | None]:
    """Return the run that the command line describes: configuration, run folder, data folder and initial checkpoint.
    Sets up this process for it. Raises UserError for errors that are known before any work.
    """
    if args.recipe not in RECIPES:
        raise UserError(f"no recipe {args.recipe!r}{did_you_mean(args.recipe, RECIPES)} `icf train --help` lists them")
    recipe = RECIPES[args.recipe]()
    _check_settings(recipe.name, args)
    _check_options(recipe, _apply_options(recipe, args), args)
    folder = args.out or Path("runs") / recipe.name
    if args.resume and args.steps is None:
        args.steps = saved_steps(folder)
    config = _apply_options(recipe, args)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    init = find_checkpoint(args.init)[0] if args.init and not args.resume else None
    check_start(config, folder, init, args.resume, args.wandb)  # errors appear above the progress bars
    if config.benchmark:
        check_set(config, args.data)
    return config, folder, args.data if config.benchmark else args.stamps, init


def _apply_options(recipe: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    """Apply the options to a recipe."""
    config = with_encoders(recipe, args.visual_encoder, args.audio_encoder, args.text_encoder)
    values = {name: getattr(args, option) for option, name in _SETTING_OF.items() if "." not in name}
    config = replace(config, **{name: value for name, value in values.items() if value is not None})
    if args.audio_source is not None and config.benchmark is not None:
        source = args.audio_source.replace("-", "_")
        config = replace(config, benchmark=replace(config.benchmark, audio_source=source))
    return with_settings(config, args.settings or ())


def _check_options(recipe: TrainConfig, chosen: TrainConfig, args: argparse.Namespace) -> None:
    """Raise UserError for an option that has no effect in a run of the recipe, or that the recipe does not support."""
    name, data = recipe.name, args.data
    recipe_model, chosen_model = (run.model_config(("",)) for run in (recipe, chosen))
    if recipe.benchmark is None:
        if data is not None:
            raise UserError(f"recipe {name} trains on Stamps scenes and takes no --data; name stamps with --stamps")
        if args.audio_source is not None:
            raise UserError(f"recipe {name} mixes the sound of its scenes itself and takes no --audio-source")
        if chosen_model.visual != recipe_model.visual:
            raise UserError(
                f"recipe {name} has its images encoded once by {recipe_model.visual} and takes no other "
                "--visual-encoder"
            )
    elif args.stamps is not None:
        raise UserError(f"recipe {name} trains on the set of --data and takes no --stamps")
    if recipe.words is not None:
        if chosen_model.audio != recipe_model.audio or chosen.text_encoder != recipe.text_encoder:
            raise UserError(f"recipe {name} trains on words that {recipe_model.audio} predicts, embedded by "
                            f"{recipe.text_encoder}: it takes no other --audio-encoder or --text-encoder")  # fmt: skip
        if args.pretrain_steps:
            raise UserError(f"recipe {name} has an audio encoder that comes trained and takes no --pretrain-steps")
        return
    uses_text = chosen.icf.mit if chosen.icf else chosen_model.implicit_text
    if args.text_encoder is not None and not uses_text:
        raise UserError(f"recipe {name} has no text to embed (it is without MIT) and takes no --text-encoder")
    if data is None or not ((args.text_encoder and not chosen.icf) or args.pretrain_steps):
        return
    if not class_names(data):
        unused_option = "--text-encoder" if args.text_encoder else "--pretrain-steps"
        raise UserError(f"{data} has no names of classes, which {unused_option} needs; leave it out, or name them")


def _check_settings(recipe: str, args: argparse.Namespace) -> None:
    """Raise UserError for a setting that would make another recipe, and for one that is given twice."""
    options = {option: name for option, name in _SETTING_OF.items() if getattr(args, option) is not None}
    set_by = {name: f"--{option.replace('_', '-')}" for option, name in options.items()}
    for setting in args.settings or ():
        key = setting.partition("=")[0]
        if key in ("name", "benchmark", "benchmark.layout", "words"):
            raise UserError(f"--set {setting}: recipe {recipe} decides its `{key}`; choose another recipe")
        if key in set_by:
            raise UserError(f"{key} is given twice, by {set_by[key]} and by --set {setting}; leave one out")
        set_by[key] = f"--set {setting}"


class ProgressBar(Progress):
    """Prints nothing if no bar was drawn; by default, Rich writes an empty line to a file or pipe in that case."""

    def stop(self) -> None:
        if self.console.is_terminal or any(task.visible for task in self.tasks):
            super().stop()
        else:
            self.live.stop()


def console_of(device: str) -> Console:
    """Return the console of the run: standard error of the first process."""
    is_main = processes(device).is_main_process
    return progress_console(not is_main, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(config: TrainConfig, recipe: str, console: Console) -> Iterator[Report]:
    """Show a progress bar for each stage of a run of a recipe; yields the function that updates them. Steps are counted
    from 1 in each of the two training stages ("pretrain" and "train").
    """
    tasks: dict[str, TaskID] = {}
    fixed = (part(table_column=Column(no_wrap=True)) for part in (MofNCompleteColumn, TimeElapsedColumn,
             TimeRemainingColumn))  # fmt: skip
    columns = (TextColumn("{task.description}"), BarColumn(), *fixed, TextColumn("{task.fields[values]}"))

    def report(stage: str, done: int, total: int, values: dict[str, float]) -> None:
        if stage in ("pretrain", "train"):
            pretraining = total - config.steps - config.highres_steps
            if stage == "train" and "pretrain" in tasks and not bar.tasks[tasks["pretrain"]].finished:
                steps_done = round(bar.tasks[tasks["pretrain"]].completed)
                bar.console.print(
                    f"{STAGES['pretrain']}: no more progress, ended after {steps_done} of {pretraining} steps"
                )
                bar.update(tasks["pretrain"], total=steps_done)
            done, total = (done, pretraining) if stage == "pretrain" else (done - pretraining, total - pretraining)
        if stage not in tasks:
            tasks[stage] = bar.add_task(STAGES[stage], total=total, values="")
        texts = [f"{name} {values[name]:.3f}" for name in PROGRESS_VALUES if name in values]
        # A narrow terminal shows only the first, the total loss.
        max_values = len(PROGRESS_VALUES) if bar.console.width >= WIDE else 1
        bar.update(tasks[stage], completed=done, total=total, values=" ".join(texts[:max_values]))
        if not bar.console.is_terminal and (done % 100 == 0 or done == total):  # a log file shows no bar
            bar.console.print(f"{STAGES[stage]} {done}/{total} {' '.join(texts)}")

    if config == replace(RECIPES[recipe](), seed=config.seed) and config.estimate:  # measured for the unchanged recipe
        console.print(f"{config.name}: {config.estimate}")
    with ProgressBar(*columns, console=console) as bar:
        yield report


def evaluation_arguments(path: Path, config: TrainConfig, source: Path | None) -> list[str]:
    """Return `icf` arguments that score a checkpoint on test clips of its training data."""

    def as_argument(path: Path) -> str:
        return f"./{path}" if str(path).startswith("-") else str(path)

    return ["evaluate", as_argument(path), *(["--data", as_argument(source)] if source and config.benchmark else [])]
