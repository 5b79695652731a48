"""The structure of the package (imports, short files, depth of calls) and of the tests (no imports between test files);
docs/LICENCES.md lists every library.
"""

from __future__ import annotations

import ast
import re
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from avsbench_fixtures import write_ms3
from clip_maker import make_clip, tone
from documents import ROOT, blocks, notebook_code

from icf_avs.__main__ import main
from icf_avs.config import PlugInConfig
from icf_avs.icf import CDCL
from icf_avs.inference import pretrained, streaming
from icf_avs.inference.segment import Segmenter
from icf_avs.training.recipes import RECIPES, with_encoders
from tools import make_licences as licences

CALLERS = {"training", "evaluation", "inference", "networks", "checkpoint", "serve", "batch", "cli"}
FORBIDDEN = {  # ICF as published imports no network and nothing that is not from the paper
    "icf": {"extensions", "networks", "training"}, "extensions": {"networks", "training"}, "networks": {"training"},
    "media": CALLERS | {"encoders", "datasets", "synthetic"}, "encoders": CALLERS | {"datasets", "synthetic"},
    "datasets": CALLERS | {"encoders", "synthetic"}, "synthetic": CALLERS,
}  # fmt: skip


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_do_not_import_their_users(package: str):
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "icf_avs" / package).rglob("*.py")}
    assert len(sources) > 3
    for path, source in sources.items():
        assert not set(re.findall(r"(?:from|import) icf_avs(?:\.| import )(\w+)", source)) & FORBIDDEN[package], path


def programs(folder: str) -> dict[str, str]:
    """Code of a folder: programs, notebooks, and the Python blocks of documents."""
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / folder).glob("*.py")}
    found |= {path.name: notebook_code(path) for path in (ROOT / folder).glob("*.ipynb")}
    for path in (ROOT / folder).glob("*.md"):
        for block in blocks(path.read_text(encoding="utf-8")):
            found |= {f"{path.name}, line {block.line}": block.code} if block.language == "python" else {}
    return found


@pytest.mark.parametrize("folder", [".", "benchmarks", "docs", "examples", "notebooks", "research", "tools"])
def test_imports_of_programs_exist(folder: str):
    """Renamed names are also renamed in programs and documents that no quick run executes."""
    assert programs(folder)
    for name, code in programs(folder).items():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "icf_avs":
                for alias in node.names:
                    known = hasattr(import_module(node.module), alias.name)
                    whole = f"{node.module}.{alias.name}"
                    assert known or find_spec(whole), f"{name}:{node.lineno}: {whole}"


def test_no_file_of_the_package_is_over_300_lines():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "icf_avs").rglob("*.py")}
    assert not {path: lines for path, lines in lengths.items() if lines > 300}


def test_tests_do_not_import_tests_or_patch_private_names():
    """Shared helpers are in separate modules."""
    patched = r'(?:setattr|delattr|object|patch)\(\s*(?:[\w.]+,\s*)?"(?:[\w.]+\.)?_(?!_)'
    for path in (ROOT / "tests").glob("*.py"):
        found = re.findall(rf"^\s*(?:from|import) test_\w+|{patched}", path.read_text(encoding="utf-8"), re.M)
        assert not found, f"{path.name}: {found}"


def test_each_library_is_listed_with_its_licence(monkeypatch: pytest.MonkeyPatch):
    """Lines of extras that are not installed stay; a new library that is not installed is an error."""
    old = licences.DOCUMENT.read_text(encoding="utf-8")
    rows, names = licences.lines(old), licences.direct()
    told = {name: by for name, (_, by) in rows.items() if name in names}
    assert told == names, "run `python -m tools.make_licences` where the extras are installed"
    assert all(by in rows for name, (_, by) in rows.items() if name not in names)  # dependents are listed too
    assert all(licence and licence not in ("UNKNOWN", "see its files") for licence, _ in rows.values())
    new = licences.lines(licences.document(old))
    assert names.keys() <= new.keys() and new["numpy"][0].startswith("BSD") and new["filelock"]
    monkeypatch.setattr(licences, "direct", lambda: {"no-such-library": "needed"})
    with pytest.raises(ValueError, match="install no-such-library"):
        licences.document(old)


def package_frames() -> list[str]:
    """Stack frames of the package in this thread, outermost first. Readers must follow the calls: they are few."""
    package = ROOT / "icf_avs"
    ours = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(package)]
    ours = [frame for frame in ours if frame.name != "<listcomp>"]  # a frame only before Python 3.12
    return [f"{Path(frame.filename).relative_to(package)}:{frame.name}" for frame in ours]


def test_depth_from_the_command_to_the_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[list[str]] = []

    def backward(loss: torch.Tensor, **options: Any) -> None:
        stacks.append(package_frames())
        real(loss, **options)

    real = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    config = with_encoders(RECIPES["ms3-pvt"](), "efficientnet-lite0", "log-mel", "minilm")
    model, spec = replace(config.model, dim=32, heads=4, layers=1), replace(config.spec, image_size=64)
    short = {"batch": 10, "audio_pretrain_steps": 0, "steps": 1, "warmup": 1}
    config = replace(config, model=model, spec=spec, icf=PlugInConfig(None, None, CDCL(dim=16)), **short)
    monkeypatch.setitem(RECIPES, "tiny", lambda: config)
    data = tmp_path / "Multi-sources"
    write_ms3(data, [(f"many-{i:06d}", split) for i, split in enumerate(("train", "train", "val", "test"))])
    assert main(["train", "tiny", "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    (stack,) = stacks
    below = stack[stack.index("cli/train.py:_train") :]
    assert len(below) <= 4 and below[-1] == "training/trainer.py:train_step", below


def test_depth_from_the_command_to_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs in a thread: the calls before it and in it are added up."""
    stacks: list[list[str]] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *given: Any, **options: Any) -> Any:
            stacks.append(package_frames())
            return super().submit(*given, **options)

    def load(checkpoint: str, device: str) -> Segmenter:
        segmenter = real(checkpoint, device)
        segmenter.model.network.register_forward_pre_hook(lambda *_: stacks.append(package_frames()))
        return segmenter

    real = pretrained.load
    monkeypatch.setattr(pretrained, "load", load)
    monkeypatch.setattr(streaming, "ThreadPoolExecutor", Pool)
    video = make_clip(tmp_path / "clip.mp4", seconds=1, sound=tone(1))
    assert main(["segment", str(video), "--out", str(tmp_path / "out"), "--checkpoint", "stamps"]) == 0
    before, behind = stacks
    path = before[before.index("cli/segment.py:_segment") :] + behind
    assert len(path) <= 8 and path[-1] == "inference/predictor.py:segment", path
