"""`icf train`: a recipe by name, a progress bar, and the run's scores on validation scenes at the end."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from icf_avs.allocator import keep_freed_memory
from icf_avs.errors import UserError
from icf_avs.training.processes import processes
from icf_avs.training.recipes import RECIPES, with_encoders
from icf_avs.training.run import train

STAGES = {
    "listening": "listening to recordings",
    "pictures": "rendering pictures",
    "clips": "rendering clips",
    "finish_pictures": "rendering large pictures",
    "finish_clips": "rendering large clips",
    "validation": "rendering validation clips",
    "teach": "naming sounds",
    "learn": "learning masks",
}


def train_command(args: argparse.Namespace) -> None:
    """Run the recipe that the command line names."""
    if args.recipe not in RECIPES:
        raise UserError(f"no recipe {args.recipe!r}; there are: {', '.join(RECIPES)}")
    config = with_encoders(RECIPES[args.recipe](), args.visual, args.audio, args.text)
    if args.seed is not None:
        config = replace(config, seed=args.seed)
    if args.steps is not None:
        config = replace(config, steps=args.steps)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    if config.benchmark is None and args.data:
        raise UserError(f"recipe {config.name} trains on Stamps scenes and takes no --data; name stamps with --stamps")
    if args.sound is not None:
        if config.benchmark is None:
            raise UserError(f"recipe {config.name} mixes the sound of its scenes itself and takes no --sound")
        config = replace(config, benchmark=replace(config.benchmark, sound=args.sound.replace("-", "_")))
    folder = args.out or Path("runs") / config.name
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    console = Console(stderr=True, quiet=not processes().is_main_process)
    if config.estimate:
        console.print(f"{config.name}: {config.estimate}", soft_wrap=True)
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, int] = {}

        def report(stage: str, done: int, total: int, values: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(STAGES[stage], total=total, values="")
            shown = " ".join(
                f"{name} {values[name]:.3f}" for name in ("loss", "top1", "bce", "dice", "rivals") if name in values
            )
            bar.update(tasks[stage], completed=done, total=total, values=shown)
            if not console.is_terminal and (done % 100 == 0 or done == total):  # a log file shows no bar
                console.print(f"{STAGES[stage]} {done}/{total} {shown}", soft_wrap=True)

        source = args.data if config.benchmark else args.stamps
        path = train(config, folder, source=source, init=args.init, resume=args.resume, wandb=args.wandb, report=report)
    console.print(f"checkpoint: {path}\nnext: icf evaluate {path}, or icf report {folder}")
