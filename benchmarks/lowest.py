"""Install the oldest versions that pyproject.toml allows into a new virtual environment, and run tests there.

    python benchmarks/lowest.py --venv .venv-lowest [--extras dev,train] [--out results/reliability.csv] [TEST ...]

A bound nobody has tried is a guess. `make test-lowest` runs this; it downloads the whole of an old torch (with its CUDA
libraries from the usual index; --index-url takes another for all, --torch a wheel that is here).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement
from reliability import save_row

ROOT = Path(__file__).parents[1]
# Checkpoints, media, masks as run lengths, metrics, the model: what each of the base libraries is used for
TESTS = ("test_checkpoint", "test_media", "test_segment", "test_metrics", "test_icf", "test_output")


def lowest(extras: tuple[str, ...] = ()) -> list[str]:
    """ "name==version" for the lower bound of all that the project needs, and of these extras."""
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
        found[requirement.name] = bounds[0]
    return sorted(f"{name}=={version}" for name, version in found.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", metavar="TEST", default=TESTS, help="files in tests/, without .py")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-lowest", help="where (default: .venv-lowest)")
    parser.add_argument("--extras", default="", help="joined by commas (default: none)")
    parser.add_argument("--index-url", help="index to install from, as pip takes it")
    parser.add_argument("--torch", metavar="VERSION", help="another version of torch, such as 2.13.0+cpu")
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    args = parser.parse_args()
    extras = tuple(filter(None, args.extras.split(",")))
    bounds = lowest(extras)
    if args.torch:
        bounds = [f"torch=={args.torch}" if bound.startswith("torch==") else bound for bound in bounds]
    print("\n".join(bounds), flush=True)
    venv.create(args.venv, with_pip=True, clear=True)
    python = args.venv / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--index-url", args.index_url] if args.index_url else []
    constraints = args.venv / "lowest.txt"
    constraints.write_text("\n".join(bounds) + "\n", encoding="utf-8")
    # pytest and hypothesis stay as they are: they test, and are not tested
    subprocess.run([*pip, "--constraint", constraints, *bounds, "pytest", "hypothesis"], check=True)
    failed = []
    for name in args.tests:  # in the project's folder, where Python finds the package
        code = subprocess.run([python, "-m", "pytest", "-q", f"tests/{name}.py"], cwd=ROOT).returncode
        failed += [name] if code else []
    print(
        f"{len(args.tests) - len(failed)} of {len(args.tests)} test files pass; failed: {', '.join(failed) or 'none'}"
    )
    if args.out:
        save_row(args.out, "test files with the oldest libraries", len(args.tests), len(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
