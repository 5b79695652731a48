"""Write docs/LICENCES.md: required and optional libraries of icf-avs, with licences from their package metadata.

    python -m tools.make_licences

Run it where the extras are installed. A library that is not installed keeps its line in the file.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "LICENCES.md"
HEAD = """# Licences of the libraries

icf-avs is Apache-2.0 and contains no third-party code. The table lists its libraries, those of its extras
(pyproject.toml gives the versions), and their dependencies. `python -m tools.make_licences` writes it from the metadata
of the installed packages. This is not legal advice. Tests also use pytest, pytest-xdist, hypothesis, ruff, mypy, srt
and efficientnet-lite-pytorch.

Wheels of `av` contain FFmpeg with x264 and x265 (GPL); wheels of `torch` and `opencv` contain further libraries, which
their distributions list. The repository contains none of these.

| library | licence | required by |
| --- | --- | --- |
"""
LINE = re.compile(r"^\| (?P<name>[\w.-]+) \| (?P<licence>[^|]*) \| (?P<by>[^|]*) \|$", re.M)


def normal(name: str) -> str:
    """Return the normalised name of a package, as the package index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> dict[str, str]:
    """Return the libraries in pyproject.toml and where each is listed: "needed", or the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = {"needed": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for part, requirements in parts.items():
        for requirement in map(Requirement, requirements):
            if normal(requirement.name) != "icf-avs" and part != "dev":
                found.setdefault(normal(requirement.name), []).append(part)
    return {name: ", ".join(parts) for name, parts in found.items()}


def licence(package: Distribution) -> str:
    """Return the licence that a package states: an SPDX expression, its classifiers, or a short text."""
    metadata = package.metadata
    classifiers = [
        text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or () if text.startswith("License ::")
    ]
    text = (metadata.get("License") or "").strip()
    stated = metadata.get("License-Expression") or ", ".join(classifiers) or text.partition("\n")[0]
    if stated in ("", "UNKNOWN"):
        stated = (package.read_text("LICENSE") or "see its files").strip().partition("\n")[0]
    stated = " ".join(stated.replace("|", "/").split())
    return stated if len(stated) <= 80 else f"{stated[:80]} ..."


def closure(names: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return licence and dependent of each installed library among these and their transitive dependencies."""
    found: dict[str, tuple[str, str]] = {}
    waiting = dict(names)
    while waiting:
        name, by = waiting.popitem()
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = licence(package), by
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.setdefault(normal(requirement.name), name)
    return found


def lines(text: str) -> dict[str, tuple[str, str]]:
    """Parse the table of the document."""
    return {
        match["name"]: (match["licence"], match["by"])
        for match in LINE.finditer(text)
        if match["name"] not in ("library", "---")
    }


def document(old: str) -> str:
    """Return the updated document. Raises ValueError for a library in pyproject.toml neither installed nor in `old`."""
    names = direct()
    rows = {name: row for name, row in lines(old).items() if name in names or row[1] in names} | closure(names)
    if missing := names.keys() - rows.keys():
        raise ValueError(f"install {', '.join(sorted(missing))}: nothing is known of their licences")
    order = sorted(rows, key=lambda name: (name not in names, name))
    return HEAD + "".join(f"| {name} | {rows[name][0]} | {rows[name][1]} |\n" for name in order)


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""), encoding="utf-8")
    print(f"wrote {DOCUMENT.relative_to(ROOT)}")
