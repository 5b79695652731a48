"""Read the released log-mel features, pickled tensors, without executing anything in the file.

A pickle is a program that names functions and calls them. Only the opcodes and the four functions of a pickled tensor
are allowed. The functions are replaced by our own, which make a view of float32 numbers; the numbers themselves are
read by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from icf_avs.errors import UserError
from icf_avs.media.container import check_no_pipe

SHAPE = (1, 96, 64)  # of one window: channel, steps of 10 ms, mel bands
MOST_BYTES = 8 << 20  # a clip of ten seconds has 0.25 MB
_OPERATIONS = frozenset(
    """
    PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE
    NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT SHORT_BINBYTES BINBYTES BINBYTES8 UNICODE
    SHORT_BINUNICODE BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPENDS
    """.split()  # noqa: SIM905 (quoted names are harder to read)
)
_CODES = {ord(operation.code): operation.name for operation in pickletools.opcodes}


class _Unpickler(pickle._Unpickler):
    """Unpickler in pure Python. The one in C allocates memory for the largest memo index that the file names."""

    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if _CODES[code] in _OPERATIONS
    }

    def find_class(self, module: str, name: str) -> Callable:
        allowed = {  # created for each call, so that changes by a file do not persist
            "torch._utils._rebuild_tensor_v2": lambda values, offset, size, stride, *_: values.as_strided(
                size, stride, offset
            ),  # raises if it exceeds the values
            "torch.storage._load_from_bytes": lambda content: _values(content),
            "collections.OrderedDict": lambda: None,  # hooks of a tensor: none
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # bytes in protocols before 3
        }
        if (asked := f"{module}.{name}") not in allowed:
            raise ValueError(f"refused: it asks for {module[:40]}.{name[:40]}, which was not run")
        return allowed[asked]


def _values(content: bytes) -> Tensor:
    if content.startswith(b"PK"):  # could expand to a thousand times its size
        raise ValueError("its numbers are in a ZIP archive")
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if storage.dtype != torch.float32:
        raise ValueError(f"its numbers are {storage.dtype}, want float32")
    return torch.empty(0).set_(storage)


def read_log_mel_pickle(path: Path) -> np.ndarray:
    """Read a pickled log-mel tensor, float32 [n, 1, 96, 64], n >= 1. Nothing in the file is executed.

    Raises UserError for a pickle that names any function beyond those of a tensor, and for a file that is missing,
    broken or holds something else.
    """
    check_no_pipe(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"its {path.stat().st_size >> 20} MB are more than log-mel windows take")
        tensor = _Unpickler(io.BytesIO(path.read_bytes()), fix_imports=False).load()
        if not isinstance(tensor, Tensor) or tensor.shape[1:] != SHAPE or not 0 < 4 * tensor.numel() <= MOST_BYTES:
            raise ValueError("it holds no tensor [n, 1, 96, 64] of log-mel windows")
        if not tensor.isfinite().all():
            raise ValueError("its log-mel windows are not all finite")
        return tensor.contiguous().numpy()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; unpack the set again") from None
    except Exception as error:  # a malformed pickle can raise nearly any exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no log-mel pickle as released ({reason}); unpack the set again") from error


def read_log_mel(path: Path, frames: int) -> np.ndarray:
    """Return the log-mel windows of a clip of `frames` frames, float32 [frames, 96, 64]; see `read_log_mel_pickle`.

    If there are too few windows, the last one is repeated, as in the released files. Surplus windows are dropped.
    """
    windows = read_log_mel_pickle(path)
    return windows[np.minimum(np.arange(frames), len(windows) - 1), 0]
