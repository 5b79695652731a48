"""The released log-mel features, pickled tensors: read without executing anything in the file, and written.

A pickle is a program: it names functions and calls them. Only the operations and the four functions that a tensor's
pickle has are allowed here, the functions as own ones that make a view of float32 numbers; the numbers themselves are
read by `torch.load(weights_only=True)`. Any other file is refused before anything of it runs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icf_avs.errors import UserError
from icf_avs.media.vggish_frontend import WINDOW, log_mel

SHAPE = (1, 96, 64)  # of one window
MOST_BYTES = 8 << 20  # a clip of ten seconds has 0.25 MB
_MOST_MEMO = 10_000  # the unpickler allocates as many places as the largest memo number says
_OPERATIONS = frozenset(
    """
    PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE
    NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT SHORT_BINBYTES BINBYTES BINBYTES8 UNICODE
    SHORT_BINUNICODE BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPENDS
    """.split()  # noqa: SIM905 (quoted names are harder to read)
)


class _Refused(Exception):
    """The file asks for something that a tensor does not need."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        allowed = {  # functions of this call alone, so that nothing that a file does to them lasts
            ("torch._utils", "_rebuild_tensor_v2"): lambda values, offset, size, stride, *_: values.as_strided(
                size, stride, offset
            ),  # raises where it would reach beyond the values
            ("torch.storage", "_load_from_bytes"): lambda content: _values(content),
            ("collections", "OrderedDict"): lambda: None,  # of a tensor's hooks: none
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes before protocol 3
        }
        if (module, name) not in allowed:
            raise _Refused(f"{module}.{name}"[:80])
        return allowed[module, name]


def _values(content: bytes) -> Tensor:
    if content.startswith(b"PK"):  # could be unpacked to a thousand times its size
        raise ValueError("its numbers are in a ZIP archive")
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if storage.dtype != torch.float32:
        raise ValueError(f"its numbers are {storage.dtype}, want float32")
    return torch.empty(0).set_(storage)


def read_log_mel_pickle(path: Path) -> np.ndarray:
    """Read a pickled log-mel tensor, float32 [n, 1, 96, 64], n >= 1.

    Raises UserError, without having executed anything, for a pickle that names any function beyond those of a tensor,
    and for a file that is broken or holds something else.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"its {path.stat().st_size >> 20} MB are more than log-mel windows take")
        content = path.read_bytes()
        for operation, argument, _ in pickletools.genops(content):
            if operation.name not in _OPERATIONS:
                raise _Refused(f"the operation {operation.name}")
            if "PUT" in operation.name and int(argument) > _MOST_MEMO:
                raise ValueError("too many memo places")
        tensor = _Unpickler(io.BytesIO(content), fix_imports=False).load()
    except _Refused as error:
        raise UserError(
            f"{path}: refused, its pickle asks for {error}, which no log-mel tensor needs; nothing of it was run, "
            "delete the file"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing; unpack the set again") from None
    except Exception as error:  # a malformed pickle can make the machine raise nearly anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no log-mel pickle as released ({reason}); unpack the set again") from error
    if not isinstance(tensor, Tensor) or tensor.shape[1:] != SHAPE or not 0 < 4 * tensor.numel() <= MOST_BYTES:
        raise UserError(f"{path}: holds no tensor [n, 1, 96, 64] of log-mel windows; unpack the set again")
    if not tensor.isfinite().all():
        raise UserError(f"{path}: its log-mel windows are not all finite; unpack the set again")
    return tensor.contiguous().numpy()


class _Call:
    """Pickles as the call of a function."""

    def __init__(self, *call: object) -> None:
        self._call = call

    def __reduce__(self) -> tuple:
        return self._call[0], self._call[1:]


class _StoragePickler(pickle.Pickler):
    def persistent_id(self, item: object) -> object:
        return item if isinstance(item, tuple) else None


def _storage(values: bytes) -> bytes:
    """float32 as torch.save writes a storage into a pickle, where its key would be a memory address that differs from
    run to run: magic number, version, system, the storage, its keys, the count, the values.
    """
    content, count = io.BytesIO(), len(values) // 4
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, content, 2)
    _StoragePickler(content, 2).dump(("storage", torch.FloatStorage, "0", "cpu", count, None))
    pickle.dump(["0"], content, 2)
    return content.getvalue() + count.to_bytes(8, "little") + values


def pickled_log_mel(samples: np.ndarray) -> bytes:
    """int16 [N] at 16 kHz -> a pickled tensor [5, 1, 96, 64] that requires grad, of windows 0.96 s apart."""
    waveform = torch.from_numpy(samples.astype(np.float32) / 32768)
    starts = range(0, 5 * 15_360, 15_360)
    windows = torch.stack([waveform[start : start + WINDOW] for start in starts])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the last bits of a sum depend on how many threads share it
    try:
        mel = log_mel(windows)[:, None].contiguous()
    finally:
        torch.set_num_threads(threads)
    storage = _Call(torch.storage._load_from_bytes, _storage(mel.numpy().tobytes()))
    tensor = _Call(torch._utils._rebuild_tensor_v2, storage, 0, tuple(mel.shape), mel.stride(), True, OrderedDict())
    return pickle.dumps(tensor, protocol=4)
