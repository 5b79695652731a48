"""The structure of the package (imports run one way, files are short) and of the tests (each file stands alone)."""

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


def imported(path: Path, modules: set[str]) -> Iterator[str]:
    """Modules of the package that a file imports, also inside functions and for types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_there_are_no_circular_imports():
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    graph = {name: set(imported(path, set(files))) & set(files) - {name} for name, path in files.items()}
    assert len(graph) > 100 and graph["icf_avs.inference.segment"], "the files were read"
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert len(order) == len(graph)


def package_of(name: str) -> str:
    """The folder of a module, or the module itself where it is in none."""
    return name.split(".")[1] if "." in name else name


def test_imports_of_packages_have_at_most_ten_layers():
    """Folders, and files beside them, stand in ten storeys: each imports what is below it."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    rooms: dict[str, set[str]] = {}
    for name, path in files.items():
        found = {package_of(module) for module in imported(path, set(files)) if module in files}
        rooms.setdefault(package_of(name), set()).update(found - {package_of(name)})
    storeys: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():  # raises CycleError
        storeys[room] = 1 + max((storeys[below] for below in rooms[room]), default=0)
    assert storeys["networks"] < storeys["training"] < storeys["cli"] and max(storeys.values()) <= 10, storeys


def test_icf_does_not_import_its_users():
    """ICF as published knows nothing of networks and of what is not from the paper; training knows all of them."""
    rooms = ("icf", "extensions", "networks", "training")
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    for number, room in enumerate(rooms):
        for name in (name for name in files if name.startswith(f"icf_avs.{room}")):
            found = {module.removeprefix("icf_avs.").split(".")[0] for module in imported(files[name], set(files))}
            assert not found & set(rooms[number + 1 :]), name


def test_data_and_encoders_import_nothing_that_calls_them():
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    below = {"media": set(), "encoders": {"media"}, "datasets": {"media"}}
    below["synthetic"] = {"media", "encoders", "datasets"}
    callers = {"training", "evaluation", "inference", "networks", "checkpoint", "serve", "batch", "cli"}
    for room in below:
        for name in (name for name in files if name.startswith(f"icf_avs.{room}")):
            found = {module.removeprefix("icf_avs.").split(".")[0] for module in imported(files[name], set(files))}
            assert not found & (callers | set(below) - below[room] - {room}), name


@functools.cache
def defined_names() -> dict[str, set[str]]:
    """Of each module of the package the names that it has once it is imported, as far as they are written out."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        found = names.setdefault(module_name(path), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return names


def missing_imports(code: str) -> list[str]:
    """What a program imports from the package that is not there, with the line."""
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
    """Programs and tests that no quick run touches do not fall behind a name that changes."""
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
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {str(path): lines for path, lines in lengths.items() if lines > 300}


def patched_names(node: ast.AST) -> Iterator[str]:
    """What monkeypatch.setattr, delattr and mock.patch.object replace in one call, where the name is written out."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return
    for value in node.args[:2] if node.func.attr in ("setattr", "delattr", "object", "patch") else ():
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value.split(".")[-1]


def test_tests_do_not_import_tests_or_patch_private_names():
    """Helpers that several files need stand in modules of their own."""
    files = {path.stem: path for path in Path(__file__).parent.glob("*.py")}
    for path in files.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            at = f"{path.name}:{getattr(node, 'lineno', 0)}"
            assert not {part for name in names for part in name.split(".") if part[:5] == "test_"} & set(files), at
            assert not any(name[:1] == "_" != name[1:2] for name in patched_names(node)), at
