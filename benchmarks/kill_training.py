"""Training killed with SIGKILL at random moments: every time it must go on, and end in the weights of an unbroken run.

    python benchmarks/kill_training.py [--kills 20] [--seed 0] [--out results/reliability.csv]

A tiny recipe, three stages, a checkpoint at every second step. A run is killed at a random moment of a random step,
resumed, killed again, four times over, and then left to its end; so are as many runs as it takes. A kill fails if
last.pt cannot be read after it, or lost more than two steps; a run whose last weights, best weights or
log differ from those of the unbroken run fails as well, and counts as one more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from reliability import save_row
from safetensors.torch import load_file

from icf_avs.config import DataConfig, ModelConfig, TrainConfig
from icf_avs.training.run import train

EVERY, KILLS_A_RUN = 2, 4
RECIPE = TrainConfig(
    name="tiny",
    model=ModelConfig(dim=32, pixel_dim=16, implicit_text=None),  # the text encoder takes ten seconds to load
    data=DataConfig(images=16, clips=4, highres_images=4, highres_clips=2, validation=4),
    audio_pretrain_steps=6,
    audio_pretrain_batch=8,
    steps=10,
    highres_steps=6,
    highres_size=256,
    batch=10,
    clip_share=0.4,
    warmup=2,
    checkpoint_every=EVERY,
)
TOTAL = RECIPE.audio_pretrain_steps + RECIPE.steps + RECIPE.highres_steps


def run(folder: Path) -> None:
    """Start or resume the run in `folder`. Prints one line per step on standard output."""

    def report(stage: str, done: int, total: int, values: dict[str, float]) -> None:
        if stage in ("pretrain", "train"):
            print(done, flush=True)

    torch.set_num_threads(1)
    train(RECIPE, folder, resume=(folder / "last.pt").exists(), workers=1, report=report)


def start(folder: Path) -> subprocess.Popen[str]:
    """Start `run` in a new process."""
    command = [sys.executable, __file__, "--run", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(folder: Path, chance: random.Random) -> tuple[int, bool]:
    """Resume the run and kill it shortly after a random step: return the step, and whether its files are intact."""
    process = start(folder)
    at, reached, began, pause = chance.randint(1, EVERY + 1), 0, 0.0, 0.0
    for count, line in enumerate(process.stdout, 1):
        pause, began, reached = time.monotonic() - began, time.monotonic(), int(line)
        if count > at:  # at least one step has been timed
            break
    time.sleep(chance.uniform(0, 1.5) * min(pause, 2.0))
    process.send_signal(signal.SIGKILL)
    died = process.wait() == -signal.SIGKILL
    process.communicate()
    last = folder / "last.pt"
    if not last.exists():
        return reached, died and reached <= EVERY
    try:
        kept = torch.load(last, weights_only=True)["step"]
    except Exception:  # a half-written file can raise any error
        return reached, False
    return reached, died and kept >= reached - EVERY


def differences(folder: Path, unbroken: Path) -> list[str]:
    """List what differs between a finished run and the unbroken one."""
    found = []
    for name in ("tiny.safetensors", "best.safetensors"):
        expected, state = load_file(unbroken / name), load_file(folder / name)
        found += [f"{name}: {key}" for key, value in expected.items() if not value.equal(state[key])]
    rows = []
    for path in (unbroken, folder):
        lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        rows.append([{key: value for key, value in row.items() if key != "seconds"} for row in lines])
    return found + (["metrics.jsonl"] if rows[0] != rows[1] else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of steps and moments (default: 0)")
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args.run)
        return 0
    chance, failed, kills = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        unbroken = start(root / "unbroken")
        if unbroken.wait() and print(unbroken.stderr.read(), file=sys.stderr) is None:
            return 1
        runs = 0
        while kills < args.kills:
            runs, folder = runs + 1, root / f"run-{runs}"
            for _ in range(min(KILLS_A_RUN, args.kills - kills)):
                reached, whole = killed(folder, chance)
                kills += 1
                failed += not whole
                print(f"kill {kills}: run {runs} after step {reached} of {TOTAL}, {'whole' if whole else 'FAILED'}")
            process = start(folder)
            _, said = process.communicate()
            other = differences(folder, unbroken=root / "unbroken") if process.returncode == 0 else [said]
            failed += bool(other)
            print(f"run {runs}: {'bit for bit the same' if not other else other[:3]}", flush=True)
    if args.out:
        save_row(args.out, "training killed", kills, failed, args.seed)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
