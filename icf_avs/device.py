"""Choice of the compute device by name."""

from __future__ import annotations

import torch

from icf_avs.errors import UserError


def find_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device: "cpu", "cuda", "cuda:N", "mps", or "auto", the first present of NVIDIA GPU, Apple GPU, CPU.

    Raises UserError for a device that this machine lacks; the message lists the available ones.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cuda"] * bool(gpus) + [f"cuda:{number}" for number in range(gpus)]
    here += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    expected = here[0] if name == "auto" else str(name)
    if expected not in here:
        raise UserError(f"device {expected[:40]!r}: not on this machine; choose auto or one of {', '.join(here)}")
    return torch.device(expected)
