"""Where a result comes from: its file, identified by place and content, the revision of the code and the hardware."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_digest(sha256: str) -> str:
    """Its first twelve digits, which identify a checkpoint in tables of scores."""
    return sha256[:12]


@dataclass(frozen=True)
class Source:
    """A video file, by its place and by its content, which is read on first use."""

    path: Path

    @cached_property
    def place(self) -> str:
        return os.path.realpath(self.path)

    @cached_property
    def content(self) -> dict[str, Any]:
        return {"bytes": self.path.stat().st_size, "sha256": sha256_of(self.path)}

    def is_that_of(self, recorded: dict[str, Any]) -> bool:
        """Whether a result that recorded its `place` as "path", and its `content`, is of this video: of the same file,
        whatever is in it by now, or of one with the same content. Raises OSError if it cannot be read.
        """
        if recorded.get("path") == self.place:
            return True
        return recorded["bytes"] == self.path.stat().st_size and recorded["sha256"] == self.content["sha256"]


def hardware(device: torch.device) -> dict[str, str | int | None]:
    """What this process runs on; device: what its model is on."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "system": platform.platform(terse=True),
        "processor": f"{os.cpu_count()} x {names[0] if names else platform.machine()}",
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else {"mps": "Apple"}.get(device.type),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def revision() -> str:
    """Short git hash of the code, with -dirty if the package was changed since; outside a checkout "unversioned"."""
    package = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", package, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):  # installed into a folder of some other repository
            return "unversioned"
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unversioned"
