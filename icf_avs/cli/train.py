"""`icf train`: train a model."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from icf_avs.arg_types import count, whole
from icf_avs.atomic_io import check_folder
from icf_avs.cli.options import command, device, stamps
from icf_avs.config_dict import LIMITS
from icf_avs.errors import UserError

SOUND = ("wav", "video", "log-mel")
VISUAL = ("efficientnet-lite0", "pvt-v2-b5", "resnet-50", "swin-b")  # see encoders/registry.py, which imports torch
AUDIO = ("log-mel", "vggish")
TEXT = ("minilm", "clip")


def _train(args: argparse.Namespace) -> None:
    check_folder(args.out or Path("runs"))
    try:
        from icf_avs.training.command import console_of, evaluation_arguments, parse_run, progress
        from icf_avs.training.run import train
    except ModuleNotFoundError as error:
        raise UserError(f"training needs {error.name}: pip install 'icf-avs[train]'") from error

    config, folder, source, init = parse_run(args)
    console = console_of(args.device)
    with progress(config, args.recipe, console) as report:
        path = train(
            config, folder, source=source, init=init, resume=args.resume, workers=args.workers, wandb=args.wandb,
            device=args.device, report=report, command=args.command_line,
        )  # fmt: skip
    console.print(f"checkpoint: {path}\nnext: {shlex.join(['icf', *evaluation_arguments(path, config, source)])}")


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    part = command(
        commands, "train", _train,
        "train a model on the embedded Stamps scenes, on a public set or on your own",
        "  icf train stamps                   # the shipped model\n"
        "  icf train stamps-quick             # a few minutes, to see that training works here\n"
        "  icf train stamps --seed 1 --out runs/stamps-1\n"
        "  icf train stamps --lr 0.0005 --batch 16 --set weight_decay=0.01 --out runs/stamps-slow\n"
        "  icf train stamps --resume          # go on where an interrupted run stopped\n"
        "  icf train stamps --resume --steps 6000            # the same run, made longer\n"
        "  icf train s4-pvt --data AVSBench/Single-source\n"
        "  icf train own --data own           # your own videos and masks\n"
        "  icf train ms3-from-s4 --data AVSBench/Multi-sources --init runs/s4-pvt/s4-pvt.safetensors\n"
        "  icf train s4-pvt --data S4 --visual-encoder efficientnet-lite0 --audio-encoder log-mel \\\n"
        "      --text-encoder minilm                                                         # on a CPU\n"
        "  accelerate launch -m icf_avs train avss-pvt --data AVSBench/AVSS                  # on several GPUs\n\n"
        "Recipes: stamps, stamps-quick; own (docs/OWN_DATA.md); composed (icf data compose); s4-, ms3-, avss- with\n"
        "pvt, r50, swin; ms3-from-s4; natural; and each of stamps,\n"
        "s4-pvt, ms3-pvt, avss-pvt with -baseline, -mit, -sc, -cdcl, -mit-sc, -mit-cdcl, -sc-cdcl: the parts it keeps.",
    )  # fmt: skip
    option = part.add_argument
    option("recipe", metavar="RECIPE", help="one of those below (icf_avs/training/recipes.py)")
    option("--out", metavar="DIR", type=Path, help="folder of the run (default: runs/RECIPE)")
    option("--seed", type=count, help="seed of weights, order and training scenes (default: the recipe's)")
    option(
        "--steps", metavar="N", type=LIMITS["steps"], help="steps in which masks are learned (default: the recipe's)"
    )
    option(
        "--pretrain-steps",
        metavar="N",
        type=LIMITS["audio_pretrain_steps"],
        help="most steps in which the audio encoder learns to name sounds before, 0: none (default: the recipe's)",
    )
    option("--lr", metavar="X", type=LIMITS["learning_rate"], help="learning rate (default: the recipe's)")
    option("--batch", metavar="N", type=LIMITS["batch"], help="frames of a step (default: the recipe's)")
    option(
        "--set", metavar="KEY=VALUE", dest="settings", action="append",
        help="change any setting of the recipe, such as weight_decay=0.01 or model.dim=64; may be repeated "
        "(icf_avs/config.py lists them)",
    )  # fmt: skip
    option("--resume", action="store_true", help="continue the run in the folder; --steps may lengthen it")
    option("--data", metavar="DIR", type=Path, help="folder of the public set, or of your own")
    option(
        "--audio-source",
        choices=SOUND,
        help="form of the sound of the public set (default: the first of these that all clips have)",
    )
    option("--init", metavar="CHECKPOINT", help="start from the weights of this checkpoint")
    option("--visual-encoder", choices=VISUAL, help="encoder of the frames (default: the recipe's)")
    option("--audio-encoder", choices=AUDIO, help="encoder of the sound (default: the recipe's)")
    option("--text-encoder", choices=TEXT, help="encoder of the names of the classes (default: the recipe's)")
    part.renamed = {"--sound": "--audio-source", **{f"--{of}": f"--{of}-encoder" for of in ("audio", "visual", "text")}}
    stamps(part)
    option(
        "--workers",
        metavar="N",
        type=whole(1, 1000),
        default=2,
        help="processes that render scenes, threads that read clips (default: 2)",
    )
    device(part)
    option("--threads", metavar="N", type=whole(1, 1000), help="CPU threads of the network (default: all)")
    option(
        "--wandb", action="store_true", help="send curves and images to Weights & Biases (default: TensorBoard files)"
    )
