"""`icf train` and `icf study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_avs.cli.options import command, device, stamps
from icf_avs.cli.values import count, positive, whole
from icf_avs.errors import UserError
from icf_avs.output.writable import check_file, check_folder

SOUND = ("wav", "video", "log-mel")
VISUAL = ("efficientnet-lite0", "pvt-v2-b5", "resnet-50", "swin-b")  # of backbones/registry.py, which imports torch
AUDIO = ("log-mel", "vggish")
TEXT = ("minilm", "clip")
MOST = 10**8  # steps


def _train(args: argparse.Namespace) -> None:
    check_folder(args.out or Path("runs"))
    try:
        from icf_avs.training.command import train_command
    except ModuleNotFoundError as error:
        raise UserError(f"training needs {error.name}: pip install 'icf-avs[train]'") from error

    train_command(args)


def _ablation(args: argparse.Namespace) -> None:
    check_folder(args.out)
    check_file(args.results, "--results")
    try:
        from icf_avs.study.command import study_command
    except ModuleNotFoundError as error:
        raise UserError(f"the study needs {error.name}: pip install 'icf-avs[study]'") from error

    study_command(args)


def _natural(args: argparse.Namespace) -> None:
    check_folder(args.out or Path("runs/natural"))
    check_file(args.results, "--results")
    try:
        from icf_avs.study.natural import natural_command
    except ModuleNotFoundError as error:
        raise UserError(f"the study needs {error.name}: pip install 'icf-avs[study]'") from error

    natural_command(args)


def _summary(args: argparse.Namespace) -> None:
    check_folder(args.pictures, "--pictures")
    try:
        from icf_avs.study.summary import summary_command

        summary_command(args.results, args.out, args.pictures)
    except ModuleNotFoundError as error:
        raise UserError(f"the summary needs {error.name}: pip install 'icf-avs[study]'") from error


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    part = command(
        commands,
        "train",
        _train,
        "train a model on the embedded Stamps scenes, on a public set or on your own",
        "  icf train stamps                   # the shipped model\n"
        "  icf train stamps-quick             # a few minutes, to see that training works here\n"
        "  icf train stamps --seed 1 --out runs/stamps-1\n"
        "  icf train stamps --resume          # go on where an interrupted run stopped\n"
        "  icf train stamps --resume --steps 6000            # the same run, made longer\n"
        "  icf train s4-pvt --data AVSBench/Single-source\n"
        "  icf train own --data own           # your own videos and masks\n"
        "  icf train ms3-from-s4 --data AVSBench/Multi-sources --init runs/s4-pvt/s4-pvt.safetensors\n"
        "  icf train s4-pvt --data S4 --visual efficientnet-lite0 --audio log-mel --text minilm      # on a CPU\n"
        "  accelerate launch -m icf_avs train avss-pvt --data AVSBench/AVSS                  # on several GPUs\n\n"
        "Recipes: stamps, stamps-quick; own (docs/OWN_DATA.md); composed (icf data compose); s4-, ms3-, avss- with\n"
        "pvt, r50, swin; ms3-from-s4; natural; and each of stamps,\n"
        "s4-pvt, ms3-pvt, avss-pvt with -baseline, -mit, -sc, -cdcl, -mit-sc, -mit-cdcl, -sc-cdcl: the parts it keeps.",
    )
    part.add_argument("recipe", metavar="RECIPE", help="one of those below (icf_avs/training/recipes.py)")
    part.add_argument("--out", metavar="DIR", type=Path, help="folder of the run (default: runs/RECIPE)")
    part.add_argument("--seed", type=count, help="seed of weights, order and training scenes (default: the recipe's)")
    part.add_argument(
        "--steps", metavar="N", type=whole(1, MOST), help="steps in which masks are learnt (default: the recipe's)"
    )
    part.add_argument(
        "--pretrain-steps",
        metavar="N",
        type=whole(0, MOST),
        help="most steps in which the audio encoder learns to name sounds before, 0: none (default: the recipe's)",
    )
    part.add_argument("--resume", action="store_true", help="continue the run in the folder; --steps may lengthen it")
    part.add_argument("--data", metavar="DIR", type=Path, help="folder of the public set, or of your own")
    part.add_argument(
        "--sound",
        choices=SOUND,
        help="form of the sound of the public set (default: the first of these that all clips have)",
    )
    part.add_argument("--init", metavar="CHECKPOINT", type=Path, help="start from the weights of this checkpoint")
    part.add_argument("--visual", choices=VISUAL, help="encoder of the pictures (default: the recipe's)")
    part.add_argument("--audio", choices=AUDIO, help="encoder of the sound (default: the recipe's)")
    part.add_argument("--text", choices=TEXT, help="encoder of the names of the classes (default: the recipe's)")
    stamps(part)
    part.add_argument(
        "--workers",
        metavar="N",
        type=whole(1, 1000),
        default=2,
        help="processes that render scenes, threads that read clips (default: 2)",
    )
    device(part)
    part.add_argument("--threads", metavar="N", type=whole(1, 1000), help="CPU threads of the network (default: all)")
    part.add_argument(
        "--wandb", action="store_true", help="send curves and pictures to Weights & Biases (default: TensorBoard files)"
    )

    study = commands.add_parser("study", help="take the method apart: rows, controls, seeds")
    study = study.add_subparsers(title="commands", metavar="COMMAND", required=True)
    part = command(
        study,
        "ablation",
        _ablation,
        "train and score every row of the ablation, as many at a time as there are cores",
        "  icf study ablation                            # all that results/ablation.csv lacks\n"
        "  icf study ablation --rows baseline all --seeds 1 --steps 100 --clips 10 --results try.csv\n\n"
        "Rows: baseline, all, each part and pair of mit, sc, cdcl; and stand-ins (icf_avs/study/rows.py).\n"
        "Interrupted, it goes on where each run stopped. Each finished run is a line of the table.",
    )
    part.add_argument("--rows", metavar="ROW", nargs="+", help="only these rows (default: all)")
    part.add_argument(
        "--seeds", metavar="N", type=whole(1, 1000), default=3, help="seeds 0 to N-1 of each row (default: 3)"
    )
    part.add_argument("--steps", metavar="N", type=whole(1, MOST), default=600, help="steps of a run (default: 600)")
    part.add_argument("--clips", metavar="N", type=positive, help="score only the first N clips of each test set")
    device(part)
    part.add_argument("--jobs", metavar="N", type=whole(1, 1000), help="processes (default: cores, or 1 with a GPU)")
    part.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/ablation"), help="folder of the runs (runs/ablation)"
    )
    part.add_argument(
        "--results", metavar="CSV", type=Path, default=Path("results/ablation.csv"), help="table (results/ablation.csv)"
    )

    part = command(
        study,
        "natural",
        _natural,
        "score the open vocabulary on composed scenes of kinds that training knows and does not know",
        "  icf study natural                             # all that results/natural.csv lacks\n"
        "  icf study natural --rows shipped              # the shipped checkpoint alone, in a minute\n\n"
        "Rows: shipped; open, open-mit, open-baseline: the recipe natural, whole and without parts, kept from the\n"
        "kinds that are tested, seed 0 alone; and these cut short: all, mit, baseline. Interrupted, it goes on later.",
    )
    part.add_argument("--rows", metavar="ROW", nargs="+", help="only these rows, anew (default: all that lack)")
    part.add_argument(
        "--split", choices=("test", "val"), default="test", help="choose on val, score on test (default: test)"
    )
    device(part)
    part.add_argument("--seeds", metavar="N", type=whole(1, 1000), help="seeds 0 to N-1 of each row (default: 3)")
    part.add_argument("--steps", metavar="N", type=whole(1, MOST), help="steps of a run (default: 300)")
    part.add_argument("--out", metavar="DIR", type=Path, help="folder of the runs (runs/natural)")
    part.add_argument(
        "--results", metavar="CSV", type=Path, default=Path("results/natural.csv"), help="table (results/natural.csv)"
    )

    part = command(
        study,
        "summary",
        _summary,
        "mean, deviation and paired tests of the runs in the table, and the study's plots",
        "  icf study summary",
    )
    part.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/ablation"), help="folder of the runs (runs/ablation)"
    )
    part.add_argument(
        "--results", metavar="CSV", type=Path, default=Path("results/ablation.csv"), help="table (results/ablation.csv)"
    )
    part.add_argument("--pictures", metavar="DIR", type=Path, default=Path("docs"), help="folder of the plots (docs)")
