"""Damage small media files at random, give each to `icf segment`'s own code, and count what is neither answer nor line.

    python benchmarks/fuzz_media.py --files 20000 [--seed 0] [--out results/reliability.csv]

Each damaged file is segmented whole, results written, in a child process with a stand-in for the model. It
fails on anything but masks or a UserError of one line: another exception, a crash, more than 10 s, more than 2 GB
beyond what the libraries take. File number i of a seed is always the same (on the same release of FFmpeg, which makes
the originals); --first and --keep bring one back: `--first 417 --files 1 --keep DIR`.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from media_seeds import write_seeds
from reliability import save_row

from icf_avs.errors import UserError
from icf_avs.inference.segment import segment_video
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.types import ClipSpec, Prediction

SECONDS, MAX_BYTES = 10, 2 << 30  # limits per file
WALL_CLOCK_FACTOR = 30  # wall-clock limit in units of SECONDS: a hung process uses no CPU time, like one that gets none
FILES_PER_PROCESS = 25  # since a fork takes longer than most files
_BOUNDARY_VALUES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_EDGE_BYTES = 2048  # bytes at both ends of a file, where most headers lie


class FakeModel(MaskPredictor):
    """Stand-in for a model: segments bright pixels while there is sound."""

    spec = ClipSpec(image_size=32)
    classes = ("noise",)

    def predict(self, frames: torch.Tensor, waves: torch.Tensor) -> Prediction:
        """See MaskPredictor.predict."""
        loud = waves.abs().amax(1)
        return Prediction((frames.float().mean(-1) - 128) * loud[:, None, None], loud[:, None], self.classes)


def damaged(originals: list[bytes], rng: np.random.Generator) -> bytes:
    """Return one of the originals after one to eight mutations, four of five of them near its ends."""
    data = bytearray(originals[rng.integers(len(originals))])
    for _ in range(rng.integers(1, 9)):
        if len(data) < 16:
            break
        edge = min(_EDGE_BYTES, len(data))
        place = int(rng.integers(edge) if rng.random() < 0.5 else len(data) - 1 - rng.integers(edge))
        if rng.random() < 0.2:
            place = int(rng.integers(len(data)))
        size = int(rng.integers(1, 1 + min(64, len(data) - place)))
        match rng.integers(7):
            case 0:
                data[place] ^= 1 << int(rng.integers(8))
            case 1:
                data[place : place + size] = rng.bytes(size)
            case 2:
                width, value = int(rng.choice([1, 2, 4, 8])), int(rng.choice(_BOUNDARY_VALUES))
                order = "big" if rng.random() < 0.7 else "little"
                data[place : place + width] = (value % (1 << 8 * width)).to_bytes(width, order)
            case 3:
                del data[place : place + size]
            case 4:
                data[place:place] = data[place : place + size]
            case 5:
                other = originals[rng.integers(len(originals))]
                begin = int(rng.integers(len(other)))
                data[place : place + size] = other[begin : begin + size]
            case 6 if rng.random() < 0.3:
                del data[place:]
    return bytes(data)


def _child(receiver: Connection, sender: Connection) -> None:
    """Segment the files whose paths arrive, one after the other."""
    bytes_before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (bytes_before + MAX_BYTES, bytes_before + MAX_BYTES))
    torch.set_num_threads(1)  # the threads of the parent do not exist after a fork
    while path := receiver.recv():
        try:
            result = segment_video(FakeModel(), path, path.parent / "out")
            sender.send(("answered", "") if result.masks.any() or len(result) else ("failed", "no masks"))
        except UserError as error:
            sender.send(("failed" if "\n" in str(error) else "refused", str(error).replace(str(path), "FILE")))
        except BaseException:
            sender.send(("failed", traceback.format_exc()))


def in_time(receiver: Connection, process: int) -> bool:
    """Wait for a message from a process. Return True if one comes (or the process ends) within SECONDS of its CPU time.

    CPU time of other programs does not count, up to WALL_CLOCK_FACTOR * SECONDS of wall-clock time.
    """
    end, before = time.monotonic() + WALL_CLOCK_FACTOR * SECONDS, _cpu_seconds(process)
    while not receiver.poll(min(1, SECONDS)):
        if time.monotonic() > end or _cpu_seconds(process) - before > SECONDS:
            return False
    return True


def _cpu_seconds(process: int) -> float:
    """Return the CPU seconds of a process (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A child process that segments files in turn, replaced after FILES_PER_PROCESS files and after a failure.

    Close it at the end, since its folder belongs to the caller.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._child, self._left = folder, None, 0

    def outcome(self, data: bytes, name: str = "damaged.mp4") -> tuple[str, str]:
        """Return ("answered" | "refused" | "failed", reason) for one file. The process is killed after SECONDS."""
        if not self._left:
            self._start()
        self._left -= 1
        work = Path(tempfile.mkdtemp(dir=self._folder))
        path = work / name
        path.write_bytes(data)
        try:
            self._sender.send(path)
            late = "failed", f"more than {SECONDS} s"
            kind, why = self._receiver.recv() if in_time(self._receiver, self._child.pid) else late
        except (EOFError, OSError):
            self._child.join()
            kind, why = "failed", f"the process ended with code {self._child.exitcode}"
        finally:
            shutil.rmtree(work)
        if kind == "failed" or not self._left:
            self.close()
        return kind, why

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # libraries are loaded only once
        (self._receiver, sender), (receiver, self._sender) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        self._child = context.Process(target=_child, args=(receiver, sender), daemon=True)
        self._left = FILES_PER_PROCESS
        self._child.start()
        sender.close()  # so that the pipe closes when the child ends
        receiver.close()

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._receiver.close()
            self._sender.close()
        self._child, self._left = None, 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300, help="how many (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file (default: 0)")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the files that fail here")
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    args = parser.parse_args()
    counts, reasons = Counter(), Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_seeds(folder)
        originals = [path.read_bytes() for path in paths]
        torch.set_num_threads(1)
        segment_video(FakeModel(), paths[0], folder / "out")  # lazy imports happen once, before the forks
        gc.freeze()
        worker = Worker(folder)
        for number in range(args.first, args.first + args.files):
            data = damaged(originals, np.random.default_rng([args.seed, number]))
            kind, why = worker.outcome(data)
            counts[kind] += 1
            if kind == "refused":
                reasons[why.split(";")[0][:60]] += 1
            if kind == "failed":
                print(f"file {number}: {why}", flush=True)
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{args.seed}_{number}.bin").write_bytes(data)
        worker.close()
    for why, count in reasons.most_common(12):
        print(f"{count:6d} {why}")
    print(", ".join(f"{counts[kind]} {kind}" for kind in ("answered", "refused", "failed")))
    if args.out:
        save_row(args.out, "mutated media", counts.total(), counts["failed"], args.seed)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
