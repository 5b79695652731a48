"""Hostile files: no pickle is executed, claimed sizes are checked before memory is allocated, archives cannot reach
outside their folder, and the code holds no shell and no eval. For the web page see test_serve.py.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import struct
import tarfile
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
from icf_avs.datasets.layouts import read_set
from icf_avs.encoders.efficientat import load_efficientat
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.vggish import load_vggish
from icf_avs.errors import UserError
from icf_avs.networks.build import build_model as assembled
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.qt_resource import QtResource
from icf_avs.training.trainer import Trainer, build_model
from icf_avs.types import ClipSpec

ROOT = Path(__file__).parents[1]
ENDINGS = (".pkl", ".pt", ".pth", ".ckpt", ".bin", ".safetensors")


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
def test_unpickling_the_canary_leaves_a_mark(form: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "x.pt", form)
    if form == "pickle":
        pickle.loads((tmp_path / "x.pt").read_bytes())
    else:
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("form", ["pickle", "torch", "torch of old"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_pickle_is_no_checkpoint(ending: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / f"model{ending}"
    mark = hostile(path, form)
    (tmp_path / "video.mp4").touch()
    config = TrainConfig("x")
    for opened in (load_checkpoint, read_recipe, icf_avs.load, lambda path: build_model(config, ("dog",), path)):
        with pytest.raises(UserError, match=r"pickle|not a safetensors file") as caught:
            opened(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        icf_avs.load(tmp_path)  # the folder with it
    assert main(f"segment {tmp_path}/video.mp4 --checkpoint {path} --out {tmp_path}/out".split()) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not mark.exists()


@pytest.mark.parametrize("form", ["pickle", "torch", "torch of old"])
def test_a_pickle_is_refused_for_resuming(form: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "last.pt", form)
    with pytest.raises(UserError, match=r"last\.pt: damaged"):
        Trainer.restore(SimpleNamespace(folder=tmp_path, config=TrainConfig("x")))
    assert not mark.exists()


@pytest.mark.parametrize("form", ["pickle", "torch", "torch of old"])
@pytest.mark.parametrize("load", [load_vggish, load_efficientat, load_efficientnet_lite0])
def test_a_pickle_is_refused_as_encoder_weights(load, form: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "weights.pth", form)
    with pytest.raises((UserError, pickle.UnpicklingError)):
        load(tmp_path / "weights.pth")
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


def claiming(valid_checkpoint: Path, path: Path, part: str, claims: dict[str, object]) -> Path:
    """Save the valid checkpoint with other values in its config or spec."""
    metadata, state = contents(valid_checkpoint)
    metadata[part] = json.dumps(json.loads(metadata[part]) | claims)
    save_file(state, path, metadata)
    return path


def _bounded(path: Path, tell) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20),) * 2)
    torch.set_num_threads(1)  # the parent's threads do not exist after a fork
    try:
        load_checkpoint(path)
        tell.send("loaded")
    except UserError as error:
        tell.send(str(error))


def refusal(path: Path) -> str:
    """The error of `load_checkpoint` with at most 256 MB of additional memory and 60 seconds."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_bounded, args=(path, sender), daemon=True)
    child.start()
    sender.close()
    try:
        assert receiver.poll(60), "it hangs"
        return receiver.recv()
    finally:
        child.kill()
        child.join()


BIG = 10**9
CLAIMS = {
    "dim": ("config", {"dim": BIG}), "dim within bounds": ("config", {"dim": 8192}),
    "dim of text": ("config", {"dim": "32"}), "dim of truth": ("config", {"dim": True}),
    "no dim": ("config", {"dim": 0}), "no heads": ("config", {"heads": 0}), "layers": ("config", {"layers": BIG}),
    "layers within bounds": ("config", {"layers": 64, "dim": 8192, "pixel_dim": 8192}),
    "a million classes": ("config", {"classes": [f"class {number}" for number in range(1_000_000)]}),
    "many classes": ("config", {"classes": ["dog"] * 50_000}), "classes of numbers": ("config", {"classes": [1, 2, 3]}),
    "free words": ("config", {"implicit_text": {"free_words": BIG, "tokens": 2, "segment": 2}}),
    "free words within bounds": ("config", {"implicit_text": {"free_words": 1_000_000, "tokens": 2, "segment": 2}}),
    "part of text": ("config", {"implicit_text": "all"}),
    "temperature": ("config", {"contrastive": {"dim": 64, "floor": 0.05, "temperature": float("nan")}}),
    "text": ("config", {"visual": ["efficientnet-lite0"]}),
    "size": ("spec", {"image_size": BIG}), "window": ("spec", {"window": BIG}), "frames": ("spec", {"frames": BIG}),
    "fps": ("spec", {"fps": float("inf")}), "fps of text": ("spec", {"fps": "1"}),
    "phase": ("spec", {"phase": float("nan")}), "a huge number": ("spec", {"image_size": 10**4000}),
}  # fmt: skip


@pytest.mark.parametrize("case", CLAIMS)
def test_claims_are_checked_before_allocation(case: str, valid_checkpoint: Path, tmp_path: Path) -> None:
    line = refusal(claiming(valid_checkpoint, tmp_path / "model.safetensors", *CLAIMS[case]))
    assert line.startswith(f"{tmp_path}/model.safetensors: ") and "\n" not in line and len(line) < 400, line
    assert "memory" not in line


def test_a_valid_checkpoint_loads_within_the_same_memory(valid_checkpoint: Path) -> None:
    assert refusal(valid_checkpoint) == "loaded"


@pytest.mark.parametrize("length", [1 << 23, 1 << 40, (1 << 64) - 1])
def test_a_long_header_is_refused_without_reading_it(length: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{}")
        file.truncate(1 << 24)
    assert f"its header claims {length} bytes" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, valid_checkpoint: Path, tmp_path: Path) -> None:
    metadata, state = contents(valid_checkpoint)
    state["network.decoder.role"].view(-1)[3] = value
    save_file(state, tmp_path / "model.safetensors", metadata)
    with pytest.raises(UserError, match=r"network\.decoder\.role is not all finite"):
        load_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("recipe", ["[" * 100_000, "[1]", '"x"', "null", "{"])
def test_an_invalid_recipe_is_refused(recipe: str, valid_checkpoint: Path, tmp_path: Path) -> None:
    metadata, state = contents(valid_checkpoint)
    save_file(state, tmp_path / "model.safetensors", {**metadata, "recipe": recipe})
    with pytest.raises(UserError, match="no readable recipe"):
        read_recipe(tmp_path / "model.safetensors")


def debian(path: Path, members: list[tarfile.TarInfo]) -> None:
    """Write a Debian package with these members, some of which dpkg-deb would refuse to build."""

    def packed(content: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for info, data in content:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return out.getvalue()

    control = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: x\n"
    parts = [("debian-binary", b"2.0\n"), ("control.tar.gz", packed([(tarfile.TarInfo("./control"), control)])),
             ("data.tar.gz", packed([(info, b"x" if info.isreg() else b"") for info in members]))]  # fmt: skip
    text = b"!<arch>\n"
    for name, data in parts:
        text += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(text)


def link(name: str, to: str, hard: bool = False) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.LNKTYPE if hard else tarfile.SYMTYPE, to
    return info


def folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


INNER = [folder("./usr"), folder("./usr/inner"), tarfile.TarInfo("./usr/inner/good")]


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[tarfile.TarInfo]], Path]:
    """Fetches a Debian package with the given members as if from apt; returns its folder."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not on this system")
    real = asset_packages.run_command

    def command(arguments: list[str], place: Path, doing: str) -> None:
        if arguments[0] == "apt-get":
            shutil.copy(tmp_path / "x.deb", place)
        else:
            real(arguments, place, doing)

    def fetch(members: list[tarfile.TarInfo]) -> Path:
        debian(tmp_path / "x.deb", [*INNER, *members])
        return asset_packages.fetch(asset_packages.Package("x", "usr/inner"))

    monkeypatch.setattr(asset_packages, "run_command", command)
    monkeypatch.setenv("ICF_CACHE", str(tmp_path / "cache"))
    return fetch


@pytest.mark.parametrize(
    "members",
    {
        "a path that climbs": [tarfile.TarInfo("./../../escaped")],
        "a deep path that climbs": [tarfile.TarInfo("./usr/inner/../../../../escaped")],
        "through a link": [link("./usr/out", "../../.."), tarfile.TarInfo("./usr/out/escaped")],
        "a link to a file": [link("./usr/inner/picture.png", "/etc/passwd")],
        "a link that climbs": [link("./usr/inner/picture.png", "../../../../secret")],
        "a link to a folder": [link("./usr/inner/animals", "/etc")],
        "a hard link": [link("./usr/inner/picture.png", "../../../../secret", hard=True)],
    }.items(),
    ids=lambda case: case[0],
)
def test_a_debian_package_with_paths_outside_is_refused(members, fetched, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    try:
        root = fetched(members[1])
        assert not members[0].startswith("a link")
        assert os.listdir(root) == ["good"]  # made harmless while unpacking
    except UserError as error:
        assert "\n" not in str(error)
        assert not list((tmp_path / "cache" / "packages").iterdir())
    assert not [path for path in tmp_path.rglob("escaped") if "usr" not in path.parts]


def test_a_debian_package_with_inner_links_is_accepted(fetched) -> None:
    root = fetched([link("./usr/inner/same", "good"), link("./usr/other", "inner")])
    assert (root / "same").read_text() == "x"


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
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(allow_pickle|trust_remote_code)=(?!False)|weights_only=(?!True)", text), path
        assert not re.search(r"torch\.hub\.load\(|joblib|dill|read_pickle|shelve|getoutput|unpack_archive", text), path
        loads = r"torch\.load\("
        assert len(re.findall(loads, text)) == len(re.findall(loads + r".*weights_only=True", text)), path


def test_a_hostile_pickle_is_refused_as_log_mel(tmp_path: Path) -> None:
    from icf_avs.datasets.log_mel import read_log_mel

    mark = hostile(tmp_path / "x.pkl", "pickle")
    with pytest.raises(UserError, match="refused"):
        read_log_mel(tmp_path / "x.pkl", 5)
    assert not mark.exists()


def test_impossible_file_names_are_refused(tmp_path):
    """Found by fuzzing: the file system rejects such a name."""
    (tmp_path / "s4_meta_data.csv").write_text(f"name,category,split\n{'a' * 300},dog,train\n")
    with pytest.raises(UserError, match=r"line 2: name is 'a{300}', an empty cell or a name that cannot be a file's"):
        read_set(tmp_path, "train")
