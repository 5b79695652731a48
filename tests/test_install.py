"""`pip install .` into an empty environment gives a working `icf`; a feature of an extra works only with the extra.

`make test-install` runs this: it downloads torch (ICF_TORCH overrides the Makefile's) and all extras.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clip_maker import make_clip, tone

pytestmark = pytest.mark.install
ROOT = Path(__file__).parent.parent
NOT_PACKAGE = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__", "tests", "demo_out")
# Packages that only extras install, by import name.
OPTIONAL = ("accelerate", "gradio", "huggingface_hub", "matplotlib", "onnx", "onnxruntime", "ray", "scipy",
            "tensorboard", "transformers", "wandb")  # fmt: skip


class Environment:
    """Virtual environment, and an empty working folder for its programs."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.home = folder / "venv" / "bin", folder / "home"
        self.home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)

    def run(self, *command: str | Path, fails: bool = False) -> str:
        """Run a program of the environment and return what it prints to both streams."""
        program, *rest = map(str, command)
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [self.programs / program, *rest], cwd=self.home, env=inherited, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The package, built from a copy of the sources, without any extra; a video of three seconds."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_PACKAGE)
    made = Environment(folder)
    made.run("pip", "install", "-q", os.environ.get("ICF_TORCH", "torch"))
    made.run("pip", "install", "-q", folder / "source")
    shutil.rmtree(folder / "source")
    make_clip(made.home / "street.mp4", seconds=3, fps=10, sound=tone(3))
    return made


LACKING = {  # commands that need an extra
    "web": "serve", "onnx": "export stamps --out model", "track": "convert masks/street --to tracks",
    "ray": "segment --manifest street.csv --out many --ray local", "train": "train stamps-quick",
    "hub": "segment street.mp4 --checkpoint user/name --out x",
}  # fmt: skip


def test_the_package_alone(environment: Environment) -> None:
    """It segments, contains its data files, and names the missing extra for other commands."""
    run, home = environment.run, environment.home
    assert "no broken requirements" in run("pip", "check").lower()
    where = run("python", "-c", "import icf_avs; print(icf_avs.__file__)").strip()
    assert where.startswith(str(environment.programs.parent))
    assert "segment" in run("icf", "--help")
    run("icf", "segment", "street.mp4", "--out", "masks", "--checkpoint", "stamps")
    written = {path.name for path in (home / "masks/street").iterdir()}
    assert {"overlay.mp4", "masks", "segmentation.json", "sheet.png"} <= written
    run("icf", "convert", "masks/street", "--to", "coco", "srt")
    files = {path.name for path in Path(where).parent.rglob("*.*") if path.suffix in (".csv", ".safetensors")}
    assert files == {path.name for path in (ROOT / "icf_avs").rglob("*.*") if path.suffix in (".csv", ".safetensors")}
    listing = run("python", "-c", f"import importlib.util as u; print([n for n in {OPTIONAL} if u.find_spec(n)])")
    assert listing.strip() == "[]", "the base is light"
    (home / "street.csv").write_text("video\nstreet.mp4\n")
    for extra, command in LACKING.items():
        said = run("icf", *command.split(), fails=True)
        assert f"icf-avs[{extra}]" in said and "Traceback" not in said, said


SAVED = "import icf_avs; icf_avs.load('stamps').save_pretrained('saved')"
TRAINED = (  # two steps of a recipe, with curves
    "from dataclasses import replace; from icf_avs.__main__ import main; from icf_avs.config import DataConfig;"
    "from icf_avs.training.recipes import RECIPES; config = RECIPES['stamps-quick']();"
    "small = replace(config, data=DataConfig(images=8, clips=2, validation=4), audio_pretrain_steps=1, steps=2);"
    "RECIPES['stamps-quick'] = lambda: small;"
    "raise SystemExit(main(['train', 'stamps-quick', '--out', 'run']))"
)
EXAMPLE = ROOT / "examples" / "onnx_segment.py"
WORKING = {  # by extra: commands, and a path that the last one writes
    "track": (["icf convert masks/street --to tracks palette"], "masks/street/tracks.json"),
    "onnx": (["icf export stamps --out model", f"python {EXAMPLE} model/stamps.onnx street.mp4 plain"], "plain"),
    "hub": ([["python", "-c", SAVED], "icf segment street.mp4 --checkpoint saved --out again"], "again/street"),
    "train,log": ([["python", "-c", TRAINED]], "run/tensorboard"),
    "ray": (["icf segment --manifest street.csv --out many --ray local --jobs 1"], "many/street/segmentation.json"),
    "web": ([["python", "-c", "import icf_avs.serve.page"]], "street.mp4"),
}


@pytest.mark.parametrize("extra", WORKING)
def test_with_an_extra(extra: str, environment: Environment) -> None:
    environment.run("pip", "install", "-q", f"icf-avs[{extra}]")  # as the messages of `icf` say
    commands, written = WORKING[extra]
    for command in commands:
        environment.run(*(command.split() if isinstance(command, str) else command))
    assert (environment.home / written).exists()
