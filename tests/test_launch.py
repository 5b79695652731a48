"""Training in processes of its own: `accelerate launch -m icf_avs train` with two CPU processes has the losses of one,
and only one of them writes; a killed run resumes.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from avsbench_fixtures import write_s4
from safetensors.torch import load_file

from icf_avs.checkpoint.serialization import read_recipe

pytestmark = pytest.mark.full

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
kill_training = importlib.import_module("kill_training")

# The command line with small recipes `tiny` and `tiny-baseline`.
MODULE = """
import sys
from dataclasses import replace
import torch
from icf_avs.__main__ import main
from icf_avs.types import ClipSpec
from icf_avs.training.recipes import RECIPES, with_encoders
torch.set_num_threads(1)
for name in ("s4-pvt", "s4-pvt-baseline"):
    config = with_encoders(RECIPES[name](), "efficientnet-lite0", "log-mel", "minilm")
    model, teach = replace(config.model, dim=32, pixel_dim=16, heads=4), int(name.endswith("baseline"))
    config = replace(config, name=name.replace("s4-pvt", "tiny"), model=model, audio_pretrain_steps=teach,
                     steps=11 - teach, batch=20, warmup=1, spec=ClipSpec(image_size=64))
    RECIPES[config.name] = lambda config=config: config
if __name__ == "__main__":
    sys.exit(main())
"""
# With --cpu accelerate starts one process, or several by MPI; --multi_gpu asks for several, whatever they run on.
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m")  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set of eight training clips; a batch has four, two per process. One validation clip."""
    root = tmp_path_factory.mktemp("set")
    (root / "tiny_icf.py").write_text(MODULE)
    kinds = [("dog", "cat")[i % 2] for i in range(9)]
    write_s4(root / "S4", [(f"clip-{i:06d}", 3, kind, "val" if i == 8 else "train") for i, kind in enumerate(kinds)])
    return root


def trained(source: Path, folder: Path, recipe: str, *launch: str) -> list[dict[str, float]]:
    """Train a recipe in separate processes; return the rows of its log."""
    path = os.pathsep.join((str(Path(__file__).parent.parent), str(source)))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, *(launch or ("-m",)), "tiny_icf", "train", recipe, "--data", str(source / "S4")]
    done = subprocess.run([*line, "--out", str(folder)], env=environment, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("checkpoint: ") == 1, "one of them speaks"
    return [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]


def listing(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if "tensorboard" not in path.parts}


@pytest.mark.parametrize("recipe", ["tiny-baseline", "tiny"])
def test_two_processes_have_the_losses_of_one(recipe: str, source: Path, tmp_path: Path) -> None:
    found, expected = trained(source, tmp_path / "two", recipe, *LAUNCH), trained(source, tmp_path / "one", recipe)
    assert read_recipe(tmp_path / "two" / f"{recipe}.safetensors")["processes"] == 2
    steps = [(row["step"], row["stage"]) for row in expected]
    assert steps == [(0, "train" if recipe == "tiny" else "pretrain"), (10, "train"), (10, "validation")]
    assert [(row["step"], row["stage"]) for row in found] == steps, "each row is written once"
    for mine, other in zip(found, expected, strict=True):
        assert mine.pop("gradient", 0) == pytest.approx(other.pop("gradient", 0), rel=1e-4)  # validation has none
        assert mine == pytest.approx(other | {"seconds": mine["seconds"]}, abs=1e-4)
    weights = load_file(tmp_path / "two" / f"{recipe}.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert listing(tmp_path / "two") == listing(tmp_path / "one")


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """A short run of benchmarks/kill_training.py, with kill times from another seed."""
    kill_training.run(tmp_path / "unbroken")
    chance = random.Random(11)
    for _ in range(2):
        reached, whole = kill_training.killed(tmp_path / "killed", chance)
        assert whole, f"after step {reached}"
    kill_training.run(tmp_path / "killed")
    assert kill_training.differences(tmp_path / "killed", tmp_path / "unbroken") == []
