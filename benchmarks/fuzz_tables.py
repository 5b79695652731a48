"""Damage tables, JSON texts, checkpoints and pickles at random, and give each to the code that reads such files.

    python benchmarks/fuzz_tables.py --inputs 20000 [--seed 0] [--out results/reliability.csv]

The readers (untrusted_readers.py) take turns. One fails on anything but an answer or a UserError of one line: another
exception, a crash, more than 10 s, more than 2 GB beyond what the libraries take, also where a UserError hides that,
and a file that a pickle made. Input number i of a seed is always the same; --first and --keep bring one back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from fuzz_media import MAX_BYTES, SECONDS, in_time
from mutations import mutated
from reliability import save_row
from untrusted_readers import Reader, readers

from icf_avs.errors import UserError

Outcome = tuple[str, str]  # "answered", "refused" or "failed", and why


def damaged_input(table: list[Reader], seed: int, number: int) -> tuple[Reader, bytes]:
    """Return the reader and the damaged content of input `number` of a seed."""
    reader = table[number % len(table)]
    return reader, mutated(reader.form, reader.originals, np.random.default_rng([seed, number]))


def read(reader: Reader, content: bytes, folder: Path) -> Outcome:
    """Read the content in this process, in a new folder in `folder` as working directory, and return the outcome."""
    work = Path(tempfile.mkdtemp(dir=folder))
    for name, data in {**reader.beside, reader.file: content}.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(data)
    before = os.getcwd()
    os.chdir(work)
    try:
        reader.read(work)
        outcome = "answered", ""
    except UserError as error:
        line = str(error).replace(str(work), "DIR")
        whole = "\n" not in line and not _lacked_memory(error)
        outcome = ("refused", line) if whole else ("failed", f"{line}\n{traceback.format_exc()}")
    except BaseException:
        outcome = "failed", traceback.format_exc()
    if any(path.name == "CANARY" for path in work.rglob("*")):
        outcome = "failed", "a pickle was run"
    os.chdir(before)
    shutil.rmtree(work)
    return outcome


def _lacked_memory(error: BaseException | None) -> bool:
    """True if a UserError was caused by a lack of memory."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _child(table: list[Reader], seed: int, numbers: range, folder: Path, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the threads of the parent do not exist after a fork
    bytes_before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (bytes_before + MAX_BYTES, bytes_before + MAX_BYTES))
    for number in numbers:
        sender.send((number, read(*damaged_input(table, seed, number), folder)))


def outcomes(table: list[Reader], seed: int, numbers: range, folder: Path) -> Iterator[tuple[int, Outcome]]:
    """Yield the outcome of each number. A child process reads them in turn, and is replaced when it hangs or dies."""
    context = multiprocessing.get_context("fork")  # libraries are loaded only once
    while numbers:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(table, seed, numbers[:500], folder, sender), daemon=True)
        child.start()
        sender.close()
        try:
            for number in numbers[:500]:
                try:
                    late = number, ("failed", f"more than {SECONDS} s")
                    numbered = receiver.recv() if in_time(receiver, child.pid) else late
                except EOFError:
                    child.join()
                    numbered = number, ("failed", f"the process ended with code {child.exitcode}")
                yield numbered
                numbers = numbers[1:]
                if numbered[1][1].startswith(("more than", "the process ended")):
                    break
        finally:
            child.kill()
            child.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=400, help="how many (default: 400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the inputs that fail here")
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    args = parser.parse_args()
    if args.out:
        args.out = args.out.resolve()
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        table = readers(Path(name))
        for number, (kind, why) in outcomes(table, args.seed, range(args.first, args.first + args.inputs), Path(name)):
            reader, content = damaged_input(table, args.seed, number)
            counts.setdefault(reader.name, Counter())[kind] += 1
            if kind == "failed":
                print(f"input {number}, {reader.name}: {why}", flush=True)
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{args.seed}_{number}_{Path(reader.file).name}").write_bytes(content)
    for name, kind_counts in counts.items():
        print(f"{name:20} " + ", ".join(f"{kind_counts[kind]:5d} {kind}" for kind in ("answered", "refused", "failed")))
    total = sum(counts.values(), Counter())
    print(", ".join(f"{total[kind]} {kind}" for kind in ("answered", "refused", "failed")))
    if args.out:
        save_row(args.out, "mutated tables, JSON, checkpoints, pickles", total.total(), total["failed"], args.seed)
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
