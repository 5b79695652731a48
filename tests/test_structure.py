"""The structure of the package (import layers, short files) and of the tests (no imports between test files)."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from documents import ROOT, blocks, notebook_code

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "icf_avs").rglob("*.py")
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(name: str) -> set[str]:
    """Modules that a module of the package imports, also inside functions and for types."""
    found = set()
    for node in ast.walk(tree_of(FILES[name])):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(whole if whole in FILES else node.module for whole in names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_imports_are_not_circular_and_packages_have_at_most_ten_layers():
    """Folders, and files beside them: each layer imports only lower ones."""
    graph = {name: (imported(name) & FILES.keys()) - {name} for name in FILES}
    assert len(graph) > 100 and graph["icf_avs.inference.segment"], "the files were read"
    assert len([*TopologicalSorter(graph).static_order()]) == len(graph)  # raises CycleError
    packages: dict[str, set[str]] = {}
    for name, found in graph.items():
        package, *others = ((*module.split("."), "icf_avs")[1] for module in (name, *found))
        packages.setdefault(package, set()).update({*others} - {package})
    layers: dict[str, int] = {}
    for package in TopologicalSorter(packages).static_order():  # raises CycleError
        layers[package] = 1 + max((layers[below] for below in packages[package]), default=0)
    assert layers["networks"] < layers["training"] < layers["cli"] and max(layers.values()) <= 10, layers


CALLERS = {"training", "evaluation", "inference", "networks", "checkpoint", "serve", "batch", "cli"}
FORBIDDEN = {  # ICF as published imports no network and nothing that is not from the paper
    "icf": {"extensions", "networks", "training"}, "extensions": {"networks", "training"}, "networks": {"training"},
    "media": CALLERS | {"encoders", "datasets", "synthetic"}, "encoders": CALLERS | {"datasets", "synthetic"},
    "datasets": CALLERS | {"encoders", "synthetic"}, "synthetic": CALLERS,
}  # fmt: skip


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_do_not_import_their_users(package: str):
    for name in (name for name in FILES if name.startswith(f"icf_avs.{package}")):
        found = {module.removeprefix("icf_avs.").split(".")[0] for module in imported(name)}
        assert not found & FORBIDDEN[package], name


@cache
def defined_names(module: str) -> set[str]:
    """Names that a module of the package defines or imports, as far as they are written out."""
    found = set()
    for node in ast.walk(tree_of(FILES[module])) if module in FILES else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return found


def programs(folder: str) -> dict[str, str]:
    """Code of a folder: programs, notebooks, and the Python blocks of documents."""
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / folder).glob("*.py")}
    found |= {path.name: notebook_code(path) for path in (ROOT / folder).glob("*.ipynb")}
    for path in (ROOT / folder).glob("*.md"):
        parts = [block for block in blocks(path.read_text(encoding="utf-8")) if block.language == "python"]
        found |= {f"{path.name}, block of line {block.line}": block.code for block in parts}
    return found


@pytest.mark.parametrize("folder", [".", "benchmarks", "docs", "examples", "notebooks", "research", "tests", "tools"])
def test_imports_of_programs_exist(folder: str):
    """Renamed names are also renamed in programs, documents and tests that no quick run executes."""
    assert programs(folder)
    assert not [
        f"{name}:{node.lineno}: {node.module}.{alias.name}"
        for name, code in programs(folder).items()
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "icf_avs"
        for alias in node.names
        if alias.name not in defined_names(node.module) and f"{node.module}.{alias.name}" not in FILES
    ]


def test_no_file_of_the_package_is_over_300_lines():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert not {name: lines for name, lines in lengths.items() if lines > 300}


PATCHES = ("setattr", "delattr", "object", "patch")  # of monkeypatch and mock


def test_tests_do_not_import_tests_or_patch_private_names():
    """Shared helpers are in separate modules."""
    files = {path.stem: path for path in (ROOT / "tests").glob("*.py")}
    for path in files.values():
        for node in ast.walk(tree_of(path)):
            names, patched = set(), set()
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in PATCHES:
                values = {value.value for value in node.args[:2] if isinstance(value, ast.Constant)}
                patched = {value.split(".")[-1] for value in values if isinstance(value, str)}
            at = f"{path.name}:{getattr(node, 'lineno', 0)}"
            assert not {part for name in names for part in name.split(".") if part[:5] == "test_"} & set(files), at
            assert not any(name[:1] == "_" != name[1:2] for name in patched), at
