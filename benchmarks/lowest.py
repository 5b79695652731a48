"""Install the oldest versions that pyproject.toml allows into a new virtual environment, and run the tests there.

    python benchmarks/lowest.py --venv .venv-lowest [--extras dev] [--out results/reliability.csv] [TEST ...]

A bound nobody has tried is a guess. First comes what the package cannot do without, with the tests of what that must be
enough for; then the extras, with all tests. `make test-lowest` runs this; it downloads the whole of an old torch (with
its CUDA libraries from the usual index; --index-url takes another for all, --torch a wheel that is here). --again
runs tests once more in the environment that is there, after a bound or a test was changed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
import venv
import xml.etree.ElementTree as tree
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version
from reliability import save_row

ROOT = Path(__file__).parents[1]
# Tests that cover every use of the base libraries: checkpoints, media, run-length masks, metrics, the model
BASE = tuple(
    f"tests/test_{name}.py" for name in ("checkpoint", "media", "segment", "metrics", "icf_plugin", "output", "shipped")
)


def lowest(extras: tuple[str, ...] = ()) -> list[str]:
    """List "name==version" for the lower bounds of all dependencies and of the given extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, waiting = {}, [*project["dependencies"], *(f"icf-avs[{extra}]" for extra in extras)]
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name == "icf-avs":
            for extra in requirement.extras:
                waiting += project["optional-dependencies"][extra]
            continue
        bounds = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
        if len(bounds) != 1:
            raise ValueError(f"{requirement}: has no lower bound")
        found[requirement.name] = max(bounds[0], found.get(requirement.name, "0"), key=Version)
    return sorted(f"{name}=={version}" for name, version in found.items())


def passed(python: Path, report: Path, tests: tuple[str, ...]) -> tuple[int, int]:
    """Run pytest with these arguments and return (tests run, tests failed). A crash counts as one failed test."""
    report.unlink(missing_ok=True)
    # in the project folder, where Python finds the package
    subprocess.run([python, "-m", "pytest", "--junitxml", report, *tests], cwd=ROOT)
    if not report.exists():
        return 1, 1
    suite = tree.parse(report).getroot().find("testsuite").attrib  # a trusted file, just written
    tried, failed = int(suite["tests"]) - int(suite["skipped"]), int(suite["failures"]) + int(suite["errors"])
    return tried, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", metavar="TEST", help="tests to run with the extras (default: all)")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-lowest", help="where (default: .venv-lowest)")
    parser.add_argument("--again", action="store_true", help="keep the environment, and only run tests with the extras")
    parser.add_argument("--extras", default="dev", help="joined by commas (default: dev, which has nearly all)")
    parser.add_argument("--index-url", help="index to install from, as pip takes it")
    parser.add_argument("--torch", metavar="VERSION", help="another version of torch, such as 2.13.0+cpu")
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    args = parser.parse_args()
    if not args.again:
        venv.create(args.venv, with_pip=True, clear=True)
    # absolute, since the tests run in another folder
    python, report = args.venv.absolute() / "bin" / "python", args.venv.absolute() / "tests.xml"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--index-url", args.index_url] if args.index_url else []
    runs = [((), BASE), (tuple(filter(None, args.extras.split(","))), tuple(args.tests))]
    counts = []
    for extras, tests in runs[args.again :]:
        bounds = lowest(extras)
        if args.torch:
            bounds = [f"torch=={args.torch}" if bound.startswith("torch==") else bound for bound in bounds]
        print("\n".join(bounds), flush=True)
        # without extras, pytest and hypothesis are the newest, as they only run the tests
        subprocess.run([*pip, *bounds, "pytest", "hypothesis"], check=True)
        counts.append(passed(python, report, tests))
    tried, failed = (sum(column) for column in zip(*counts, strict=True))
    print(f"{tried} tests ran, {failed} failed")
    if args.out:
        save_row(args.out, "tests with the oldest libraries", tried, failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
