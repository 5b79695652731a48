"""(h) Startup time: `icf --help` and `import icf_avs` against plain Python, model loading against import torch."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.processes import finished
from benchmarks.table import Row
from benchmarks.turns import Machine, row

_LOAD = "-c", "import icf_avs; icf_avs.load('stamps')"
PROGRAMS = {
    "start-help": (("-m", "icf_avs", "--help"), "python -c pass", ("-c", "pass")),
    "start-import": (("-c", "import icf_avs"), "python -c pass", ("-c", "pass")),
    "start-load": (_LOAD, "import torch", ("-c", "import torch")),
    "start-load-without-compiler": (_LOAD, "with torch.compile", ("-c", f"import torch._dynamo; {_LOAD[1]}")),
}


def startup(machine: Machine) -> Iterator[Row]:
    """Yield rows start-help, start-import, start-load, and the extra cost of importing torch.compile."""
    for name, (ours, reference_name, reference) in PROGRAMS.items():
        turns = [(finished(machine, *ours).wall, finished(machine, *reference).wall) for _ in range(machine.turns + 1)]
        mine, theirs = zip(*turns[1:], strict=True)
        yield row(name, mine, theirs, reference_name, machine)
