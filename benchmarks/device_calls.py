"""Try everything that computes on a second device, which tests/fake_device.py pretends to have, and count what fails.

    python benchmarks/device_calls.py [--out results/reliability.csv]

A call fails where it raises, or answers otherwise than on the CPU. The calls are those of tests/test_devices.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from lowest import passed
from reliability import save_row

CALLS = "tests/test_devices.py::test_call"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tried, failed = passed(Path(sys.executable), Path(folder) / "calls.xml", (CALLS,))
    print(f"{tried} calls, {failed} failed")
    if args.out:
        save_row(args.out, "calls on a second device", tried, failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
