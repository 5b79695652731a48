"""Provenance of a result: the source file, identified by path and content, the code revision and the hardware."""

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
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_digest(sha256: str) -> str:
    """Return the first twelve digits of a SHA-256, which identify a checkpoint in score tables."""
    return sha256[:12]


@dataclass(frozen=True)
class Source:
    """A video file, identified by its path and its content. The content is read on first use."""

    path: Path

    @cached_property
    def real_path(self) -> str:
        return os.path.realpath(self.path)

    @cached_property
    def content(self) -> dict[str, Any]:
        return {"bytes": self.path.stat().st_size, "sha256": sha256_of(self.path)}

    def matches(self, recorded: dict[str, Any]) -> bool:
        """True if a recorded result is of this video: `recorded` has the same path (`real_path` as "path"), even if the
        file has changed since, or the same `content`. Raises OSError if the file cannot be read.
        """
        if recorded.get("path") == self.real_path:
            return True
        return recorded["bytes"] == self.path.stat().st_size and recorded["sha256"] == self.content["sha256"]


def hardware(device: torch.device) -> dict[str, str | int | None]:
    """Describe the hardware and software of this process; device: the device of the model."""
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
    """Return the short git hash, plus -dirty if the package has changes; "unversioned" outside a checkout."""
    package = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", package, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):  # installed inside another repository
            return "unversioned"
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unversioned"
