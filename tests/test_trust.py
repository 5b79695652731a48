"""Hostile files: no pickle is executed, claimed sizes are checked before memory is allocated, archives cannot reach
outside their folder, and the code holds no shell and no eval. For the web page see test_serve.py.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import icf_avs
from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe, save_checkpoint
from icf_avs.config import ModelConfig, TrainConfig
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.taggers import load_efficientat
from icf_avs.encoders.vggish import load_vggish
from icf_avs.errors import UserError
from icf_avs.networks.build import build_model as assembled
from icf_avs.synthetic import asset_packages
from icf_avs.training.trainer import Trainer, build_model
from icf_avs.types import ClipSpec

ROOT = Path(__file__).parents[1]


class Canary:
    """Creates the folder `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def hostile(path: Path, form: str) -> Path:
    """Write a file that creates path.parent/sang when unpickled; return that path."""
    canary = Canary(path.parent / "sang")
    if form == "pickle":
        path.write_bytes(pickle.dumps(canary))
    else:
        torch.save({"model": canary}, path, _use_new_zipfile_serialization=form == "torch")
    return path.parent / "sang"


@pytest.mark.parametrize("form", ["pickle", "torch", "torch of old"])
def test_a_pickle_is_not_run_as_a_checkpoint_for_resuming_or_as_weights(form: str, tmp_path: Path, capsys) -> None:
    config, video = TrainConfig("x"), tmp_path / "video.mp4"
    video.touch()
    for name in ("model.pkl", "model.bin", "model.safetensors", "last.pt"):
        path = tmp_path / name
        mark = hostile(path, form)
        for opened in (load_checkpoint, read_recipe, icf_avs.load, lambda path: build_model(config, ("dog",), path)):
            with pytest.raises(UserError, match=r"pickle|not a safetensors file") as caught:
                opened(path)
            assert "\n" not in str(caught.value)
        assert main(f"segment {video} --checkpoint {path} --out {tmp_path}/out".split()) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError):
        icf_avs.load(tmp_path)  # the folder with them
    with pytest.raises(UserError, match=r"last\.pt: damaged"):
        Trainer.restore(SimpleNamespace(folder=tmp_path, config=config))
    for load in (load_vggish, load_efficientat, load_efficientnet_lite0):
        with pytest.raises((UserError, pickle.UnpicklingError)):
            load(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes()) if form == "pickle" else torch.load(path, weights_only=False)
    assert mark.exists(), "the file is not hostile"


@pytest.fixture(scope="module")
def valid_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(("bell", "cat", "dog"), dim=32, pixel_dim=16)
    path = tmp_path_factory.mktemp("valid_checkpoint") / "model.safetensors"
    save_checkpoint(assembled(config, ClipSpec(image_size=64), load_efficientnet_lite0(), torch.randn(3, 16)), path, {})
    return path


def contents(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and state of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}


BOUNDED = """
import resource, sys
from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.errors import UserError
load_checkpoint(sys.argv[1])  # so that all modules are imported
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        load_checkpoint(path)
        print("loaded")
    except UserError as error:
        print(error)
"""


BIG = 10**9
CLAIMS = {
    "dim": ("config", {"dim": BIG}), "dim within bounds": ("config", {"dim": 8192}),
    "dim of text": ("config", {"dim": "32"}), "no heads": ("config", {"heads": 0}),
    "layers": ("config", {"layers": 64, "dim": 8192, "pixel_dim": 8192}),
    "a million classes": ("config", {"classes": [f"class {number}" for number in range(1_000_000)]}),
    "many classes": ("config", {"classes": ["dog"] * 50_000}), "classes of numbers": ("config", {"classes": [1, 2, 3]}),
    "free words": ("config", {"implicit_text": {"free_words": 1_000_000, "tokens": 2, "segment": 2}}),
    "temperature": ("config", {"contrastive": {"dim": 64, "floor": 0.05, "temperature": float("nan")}}),
    "text": ("config", {"visual": ["efficientnet-lite0"]}), "size": ("spec", {"image_size": BIG}),
    "fps": ("spec", {"fps": float("inf")}), "a huge number": ("spec", {"image_size": 10**4000}),
}  # fmt: skip


@pytest.mark.full
def test_claims_are_checked_before_allocation(valid_checkpoint: Path, tmp_path: Path) -> None:
    """With at most 256 MB of additional memory, in which the valid checkpoint loads."""
    paths = [tmp_path / f"{case}.safetensors" for case in CLAIMS]
    for path, (part, claims) in zip(paths, CLAIMS.values(), strict=True):
        metadata, state = contents(valid_checkpoint)
        metadata[part] = json.dumps(json.loads(metadata[part]) | claims)
        save_file(state, path, metadata)
    headers = [tmp_path / str(length) for length in (1 << 23, (1 << 64) - 1)]  # these claim so many bytes
    for path in headers:
        path.write_bytes(int(path.name).to_bytes(8, "little") + b"{}")
        os.truncate(path, 1 << 24)
    command = [sys.executable, "-c", BOUNDED, *map(str, (valid_checkpoint, *paths, *headers))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    loaded, *lines = done.stdout.splitlines()
    assert loaded == "loaded" and len(lines) == len(paths) + len(headers)
    for path, line in zip(paths, lines, strict=False):
        assert line.startswith(f"{path}: ") and len(line) < 400 and "memory" not in line
    for path, line in zip(headers, lines[len(paths) :], strict=True):
        assert f"its header claims {path.name} bytes" in line


def test_weights_that_are_not_finite_and_unreadable_recipes_are_refused(valid_checkpoint: Path, tmp_path: Path) -> None:
    (metadata, state), path = contents(valid_checkpoint), tmp_path / "model.safetensors"
    for recipe in ("[" * 100_000, "[1]", "{"):
        save_file(state, path, {**metadata, "recipe": recipe})
        with pytest.raises(UserError, match="no readable recipe"):
            read_recipe(path)
    state["network.decoder.role"].view(-1)[3] = float("inf")
    save_file(state, path, metadata)
    with pytest.raises(UserError, match=r"network\.decoder\.role is not all finite"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "links",
    [{"usr/inner/picture.png": "/etc/passwd"}, {"usr/inner/picture.png": "../../../../secret"},
     {"usr/inner/animals": "/etc"}, {"usr/inner/same": "good", "usr/other": "inner"}],
)  # fmt: skip
def test_a_debian_package_with_links_to_the_outside_is_refused(links: dict[str, str], tmp_path: Path, monkeypatch):
    """`dpkg-deb` itself lets no member out of the folder."""
    real, tree, cache = asset_packages.run_command, tmp_path / "tree", tmp_path / "cache"

    def command(arguments: list[str], place: Path, doing: str) -> None:
        build = ["dpkg-deb", "--build", str(tree), "x.deb"]
        real(build if arguments[0] == "apt-get" else arguments, place, doing)

    monkeypatch.setattr(asset_packages, "run_command", command)
    monkeypatch.setenv("ICF_CACHE", str(cache))
    for name in ("DEBIAN", "usr/inner"):
        (tree / name).mkdir(parents=True)
    control = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    for path in (tree / "usr/inner/good", tmp_path / "secret"):
        path.write_text("x")
    for name, to in links.items():
        (tree / name).symlink_to(to)
    package = asset_packages.Package("x", "usr/inner")
    if "usr/inner/same" in links:
        assert (asset_packages.fetch(package) / "same").read_text() == "x"
    else:
        with pytest.raises(UserError) as caught:
            asset_packages.fetch(package)
        assert "\n" not in str(caught.value) and not list((cache / "packages").iterdir())


def test_the_source_never_enables_unpickling() -> None:
    """What ruff's security rules (S, in pyproject.toml) do not find."""
    sources = [path for part in ("icf_avs", "examples", "benchmarks") for path in (ROOT / part).rglob("*.py")]
    assert len(sources) > 100
    enabled = r"(allow_pickle|trust_remote_code)=(?!False)|weights_only=(?!True)|torch\.load\((?!.*weights_only=True)"
    others = r"torch\.hub\.load\(|joblib|dill|read_pickle|shelve|getoutput|unpack_archive"
    for path in sources:
        assert not re.search(f"{enabled}|{others}", path.read_text(encoding="utf-8")), path
