"""Which device computes: the name that a user gives, and what it stands for on this machine."""

from __future__ import annotations

import torch

from icf_avs.errors import UserError


def find_device(name: str | torch.device = "auto") -> torch.device:
    """ "auto": an NVIDIA GPU where there is one, else Apple's, else the CPU; or "cpu", "cuda", "cuda:N", "mps".

    Raises UserError for a device that is not here; the line names those that are.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cuda"] * bool(gpus) + [f"cuda:{number}" for number in range(gpus)]
    here += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    expected = here[0] if name == "auto" else str(name)
    if expected not in here:
        raise UserError(f"device {expected[:40]!r}: not on this machine; choose auto or one of {', '.join(here)}")
    return torch.device(expected)
