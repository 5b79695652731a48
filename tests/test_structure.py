"""The structure of the package (import layers, short files) and of the tests (no imports between test files)."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from documents import ROOT, blocks, notebook_code, read

import icf_avs

PACKAGE = Path(icf_avs.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(name: str) -> Iterator[str]:
    """Modules that a module of the package imports, also inside functions and for types."""
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_there_are_no_circular_imports():
    graph = {name: set(imported(name)) & set(FILES) - {name} for name in FILES}
    assert len(graph) > 100 and graph["icf_avs.inference.segment"], "the files were read"
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert len(order) == len(graph)


def package_of(name: str) -> str:
    """The folder of a module, or the module itself if it is in none."""
    return name.split(".")[1] if "." in name else name


def test_imports_of_packages_have_at_most_ten_layers():
    """Folders, and files beside them: each layer imports only lower ones."""
    packages: dict[str, set[str]] = {}
    for name in FILES:
        found = {package_of(module) for module in imported(name) if module in FILES}
        packages.setdefault(package_of(name), set()).update(found - {package_of(name)})
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


@functools.cache
def defined_names() -> dict[str, set[str]]:
    """Names that each module of the package defines or imports, as far as they are written out."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names: dict[str, set[str]] = {}
    for name, path in FILES.items():
        found = names.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return names


def missing_imports(code: str) -> list[str]:
    """Names that a program imports from the package but that do not exist, with the line."""
    modules = defined_names()
    return [
        f"{node.lineno}: {node.module}.{alias.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "icf_avs"
        for alias in node.names
        if alias.name not in modules.get(str(node.module), ()) and f"{node.module}.{alias.name}" not in modules
    ]


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "notebooks", "research", "tests", "tools"])
def test_imports_of_programs_exist(folder: str):
    """Renamed names are also renamed in programs and tests that no quick run executes."""
    found = {path.name: missing_imports(path.read_text(encoding="utf-8")) for path in (ROOT / folder).glob("*.py")}
    found |= {path.name: missing_imports(notebook_code(path)) for path in (ROOT / folder).glob("*.ipynb")}
    assert found
    assert not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_imports_of_documented_code_exist(name: str):
    assert not [
        f"block of line {block.line}, {line}"
        for block in blocks(read(name))
        if block.language == "python"
        for line in missing_imports(block.code)
    ]


def test_no_file_of_the_package_is_over_300_lines():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert not {name: lines for name, lines in lengths.items() if lines > 300}


def patched_names(node: ast.AST) -> Iterator[str]:
    """Names replaced by a call of monkeypatch.setattr, delattr or mock.patch.object, if written out."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return
    for value in node.args[:2] if node.func.attr in ("setattr", "delattr", "object", "patch") else ():
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value.split(".")[-1]


def test_tests_do_not_import_tests_or_patch_private_names():
    """Shared helpers are in separate modules."""
    files = {path.stem: path for path in Path(__file__).parent.glob("*.py")}
    for path in files.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            at = f"{path.name}:{getattr(node, 'lineno', 0)}"
            assert not {part for name in names for part in name.split(".") if part[:5] == "test_"} & set(files), at
            assert not any(name[:1] == "_" != name[1:2] for name in patched_names(node)), at
