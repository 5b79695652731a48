"""python -m benchmarks: time everything into results/bench.csv, each program in turn with what it is compared with."""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from icf_avs.errors import UserError

if TYPE_CHECKING:
    from benchmarks.table import Row
    from benchmarks.turns import Machine

NAMES = {  # name: (MODULE.FUNCTION that takes the machine and yields rows, description)
    "inference": ("inference.inference", "a clip of five frames: each network, TPAVI as published, the encoder alone"),
    "engines": ("engines.engines", "the shipped model by ONNX Runtime and by torch.compile"),
    "training": ("training.training", "a step of each network and of TPAVI as published, with ICF and without; memory"),
    "memory": ("memory.memory", "peak memory of inference of each network"),
    "optimisations": ("optimisations.optimisations", "what each optimisation buys: done so and otherwise"),
    "segment": ("segmenting.segmenting", "`icf segment` by length of video, time and memory"),
    "segment-natural": ("segmenting.segmenting_natural", "the same with the checkpoint `natural`"),
    "live": ("live.live", "`icf live`, half an hour at the speed of the clock: delay and memory"),
    "log-mel": ("spectrograms.spectrograms", "the audio front end against librosa and NumPy"),
    "decoding": ("data.decoding", "pictures of a video"),
    "loading": ("data.loading", "composed scenes; batches with 0, 1, 2 workers"),
    "f-curve": ("scores.scores", "F over 255 thresholds against the formula"),
    "startup": ("startup.startup", "`icf --help`, import, load"),
    "bf16": ("lower_precision.lower_precision", "with a GPU: lower precision, compiled, share of the peak"),
}


def benchmark(name: str) -> Callable[[Machine], Iterable[Row]]:
    """Import and return the function behind a name. Lazy, since --help should be fast and each needs other packages."""
    module, function = NAMES[name][0].split(".")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)


def main(arguments: list[str] | None = None) -> None:
    lines = "\n".join(f"  {name:15s} {what}" for name, (_, what) in NAMES.items())
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help="these alone; the other rows stay")
    parser.add_argument("--out", type=Path, default=Path("results/bench.csv"), help="table to write")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of inference, training and bf16")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    args = parser.parse_args(arguments)
    if "bf16" in (args.only or ()) and args.device == "cpu":
        parser.error("bf16 needs a GPU: give --device cuda")

    from benchmarks.table import save_rows
    from benchmarks.turns import Machine
    from icf_avs.glibc_malloc import keep_freed_memory

    keep_freed_memory()  # as the `icf` commands do
    machine = Machine(threads=args.threads, device=args.device)
    machine.pin()
    on_gpu = ("inference", "training", "bf16")
    for name in args.only or (on_gpu if args.device == "cuda" else [name for name in NAMES if name != "bf16"]):
        began = time.monotonic()
        rows = []
        for row in benchmark(name)(machine):
            rows.append(row)
            figures = f"{row.ours:>9s} {row.reference:>9s} {row.ratio:>7s}x"
            print(f"{row.benchmark:34s} {figures}  {row.unit}, {row.reference_name}", flush=True)
        save_rows(args.out, rows)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
