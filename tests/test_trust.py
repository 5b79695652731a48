"""Hostile files: no pickle is executed, claimed sizes are checked before memory is allocated, archives cannot reach
outside their folder, and the code holds no shell and no eval. For the web page see test_serve.py.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
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
from icf_avs.synthetic.qt_resource import QtResource
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


FORMS = pytest.mark.parametrize("form", ["pickle", "torch", "torch of old"])


@FORMS
def test_unpickling_the_canary_leaves_a_mark(form: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "x.pt", form)
    if form == "pickle":
        pickle.loads((tmp_path / "x.pt").read_bytes())
    else:
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert mark.exists()


@FORMS
def test_a_pickle_is_no_checkpoint(form: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config, video = TrainConfig("x"), tmp_path / "video.mp4"
    video.touch()
    for ending in (".pkl", ".pt", ".bin", ".safetensors"):
        path = tmp_path / f"model{ending}"
        mark = hostile(path, form)
        for opened in (load_checkpoint, read_recipe, icf_avs.load, lambda path: build_model(config, ("dog",), path)):
            with pytest.raises(UserError, match=r"pickle|not a safetensors file") as caught:
                opened(path)
            assert "\n" not in str(caught.value)
        assert main(f"segment {video} --checkpoint {path} --out {tmp_path}/out".split()) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError):
        icf_avs.load(tmp_path)  # the folder with them
    assert not mark.exists()


@FORMS
def test_a_pickle_is_refused_for_resuming_and_as_weights(form: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "last.pt", form)
    with pytest.raises(UserError, match=r"last\.pt: damaged"):
        Trainer.restore(SimpleNamespace(folder=tmp_path, config=TrainConfig("x")))
    for load in (load_vggish, load_efficientat, load_efficientnet_lite0):
        with pytest.raises((UserError, pickle.UnpicklingError)):
            load(tmp_path / "last.pt")
    assert not mark.exists()


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


def refusals(valid: Path, paths: list[Path]) -> list[str]:
    """The errors of `load_checkpoint` with at most 256 MB of additional memory; the valid checkpoint loads in it."""
    command = [sys.executable, "-c", BOUNDED, *map(str, (valid, *paths))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    loaded, *lines = done.stdout.splitlines()
    assert loaded == "loaded" and len(lines) == len(paths)
    return lines


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


def test_claims_are_checked_before_allocation(valid_checkpoint: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{case}.safetensors" for case in CLAIMS]
    for path, (part, claims) in zip(paths, CLAIMS.values(), strict=True):
        metadata, state = contents(valid_checkpoint)
        metadata[part] = json.dumps(json.loads(metadata[part]) | claims)
        save_file(state, path, metadata)
    for path, line in zip(paths, refusals(valid_checkpoint, paths), strict=True):
        assert line.startswith(f"{path}: ") and len(line) < 400 and "memory" not in line


def test_a_long_header_is_refused_without_reading_it(valid_checkpoint: Path, tmp_path: Path) -> None:
    paths = [tmp_path / str(length) for length in (1 << 23, (1 << 64) - 1)]
    for path in paths:
        with path.open("wb") as file:
            file.write(int(path.name).to_bytes(8, "little") + b"{}")
            file.truncate(1 << 24)
    for path, line in zip(paths, refusals(valid_checkpoint, paths), strict=True):
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


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    """Fetches a Debian package with the given symbolic links as if from apt; returns its folder."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not on this system")
    real, tree = asset_packages.run_command, tmp_path / "tree"

    def command(arguments: list[str], place: Path, doing: str) -> None:
        build = ["dpkg-deb", "--build", str(tree), "x.deb"]
        real(build if arguments[0] == "apt-get" else arguments, place, doing)

    def fetch(links: dict[str, str]) -> Path:
        for name in ("DEBIAN", "usr/inner"):
            (tree / name).mkdir(parents=True)
        control = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: x\n"
        (tree / "DEBIAN/control").write_text(control)
        (tree / "usr/inner/good").write_text("x")
        for name, to in links.items():
            (tree / name).symlink_to(to)
        return asset_packages.fetch(asset_packages.Package("x", "usr/inner"))

    monkeypatch.setattr(asset_packages, "run_command", command)
    monkeypatch.setenv("ICF_CACHE", str(tmp_path / "cache"))
    return fetch


@pytest.mark.parametrize(
    "link", [("picture.png", "/etc/passwd"), ("picture.png", "../../../../secret"), ("animals", "/etc")]
)
def test_a_debian_package_with_links_to_the_outside_is_refused(link: tuple[str, str], fetched, tmp_path: Path) -> None:
    """`dpkg-deb` itself lets no member out of the folder."""
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(UserError) as caught:
        fetched({f"usr/inner/{link[0]}": link[1]})
    assert "\n" not in str(caught.value) and not list((tmp_path / "cache" / "packages").iterdir())


def test_a_debian_package_with_inner_links_is_accepted(fetched) -> None:
    assert (fetched({"usr/inner/same": "good", "usr/other": "inner"}) / "same").read_text() == "x"


def test_qt_resources_with_nested_folders_take_little_memory(tmp_path: Path) -> None:
    """20,000 folders that each claim the 10,000 records after them; then a chain of 20,000 nested folders."""
    count = 20_000
    for children in (count // 2, 1):
        tree = b"".join(
            struct.pack(">IHIIQ", 0, 2, min(children, count - 1 - number), number + 1, 0) for number in range(count)
        )
        name = struct.pack(">HI", 1000, 0) + "x".encode("utf-16-be") * 1000
        header = b"qres" + struct.pack(">IIIII", 3, 24, 24 + len(tree), 24 + len(tree), 0)
        (tmp_path / "x.rcc").write_bytes(header + tree + name)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match=r"share entries|too long"):
            QtResource(tmp_path / "x.rcc")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_the_source_never_enables_unpickling() -> None:
    """What ruff's security rules (S, in pyproject.toml) do not find."""
    sources = [path for part in ("icf_avs", "examples", "benchmarks") for path in (ROOT / part).rglob("*.py")]
    assert len(sources) > 100
    enabled = r"(allow_pickle|trust_remote_code)=(?!False)|weights_only=(?!True)|torch\.load\((?!.*weights_only=True)"
    others = r"torch\.hub\.load\(|joblib|dill|read_pickle|shelve|getoutput|unpack_archive"
    for path in sources:
        assert not re.search(f"{enabled}|{others}", path.read_text(encoding="utf-8")), path
