"""The released log-mel features, pickled tensors, read without executing anything that is in the file.

A pickle is a program: it names functions and calls them. Only the few that a float tensor needs are known here, each as
a stand-in of ours that checks plain numbers and bytes; whatever else a file names, it is refused before anything of it
runs. Two forms are known: `pickle.dump(tensor)` as in the public sets, and the one of the Stamps sets.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from icf_avs.errors import UserError

SHAPE = (1, 96, 64)  # of one window
MOST_BYTES = 8 << 20  # a clip of ten seconds has 0.25 MB
_MOST_MEMO = 10_000  # the unpickler allocates as many places as the largest memo number says
# torch.save's legacy format: these two, a dictionary, the storage, its keys, each a pickle; then count and values
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_OPCODES = frozenset(  # without those that look up extensions or make objects otherwise than by a call
    """
    PROTO FRAME STOP MARK POP GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET
    LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT SHORT_BINBYTES BINBYTES
    BINBYTES8 UNICODE SHORT_BINUNICODE BINUNICODE SHORT_BINSTRING BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    """.split()  # noqa: SIM905 (fifty quoted names are harder to read)
)


class _Refused(Exception):
    """The file asks for something that a log-mel tensor does not need."""


class _Storage(NamedTuple):
    values: np.ndarray  # float32 [n]


class _Tensor(NamedTuple):
    values: np.ndarray


# The stand-ins have no attributes that a pickle could set (__slots__), and are made anew for each file.
class _LoadFromBytes:
    """torch.storage._load_from_bytes"""

    __slots__ = ()

    def __call__(self, blob: bytes) -> _Storage:
        stream = io.BytesIO(blob)
        if _load(stream, {}) != _MAGIC or _load(stream, {}) != _PROTOCOL:
            raise ValueError("the storage is not in torch's legacy format")
        if not _load(stream, {})["little_endian"]:
            raise ValueError("the storage has another byte order")
        claimed = _load(stream, {("torch", "FloatStorage"): _FLOAT}, _claimed)
        _load(stream, {})  # the key of the storage
        count = int.from_bytes(stream.read(8), "little")
        values = np.frombuffer(stream.read(), "<f4")
        if not count == claimed == len(values):
            raise ValueError(f"{claimed} numbers are announced, {len(values)} are there")
        return _Storage(values)


_FLOAT = "float32"  # stands for the class torch.FloatStorage


def _claimed(identifier: object) -> int:
    kind, storage_type, _key, _device, count, *_view = identifier
    if (kind, storage_type) != ("storage", _FLOAT):
        raise ValueError("not a float storage")
    return count


class _RebuildTensor:
    """torch._utils._rebuild_tensor_v2"""

    __slots__ = ()

    def __call__(self, storage, offset, size, stride, requires_grad, hooks, metadata=None) -> _Tensor:
        values = storage.values
        if not all(type(number) is int and 0 <= number < MOST_BYTES for number in (offset, *size, *stride)):
            raise ValueError("sizes and strides are no counts")
        if len(size) != len(stride) or 4 * math.prod(size) > MOST_BYTES:
            raise ValueError("the tensor is larger than log-mel windows are")
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if not 0 <= last < len(values):
            raise ValueError("the tensor reaches beyond its storage")
        steps = tuple(4 * step for step in stride)
        return _Tensor(np.lib.stride_tricks.as_strided(values[offset:], size, steps).copy())


class _OrderedDict:
    """collections.OrderedDict, of the tensor's hooks: none"""

    __slots__ = ()

    def __call__(self) -> None:
        return None


class _Encode:
    """_codecs.encode, as which pickles before protocol 3 store bytes"""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError("not bytes")
        return text.encode("latin1")


_FUNCTIONS = "torch functions"  # stands for the class torch._C._VariableFunctionsClass


class _GetAttr:
    """builtins.getattr, of torch.tensor only"""

    __slots__ = ()

    def __call__(self, owner: str, name: str) -> _TensorOf:
        if (owner, name) != (_FUNCTIONS, "tensor"):
            raise _Refused("builtins.getattr")
        return _TensorOf()


class _TensorOf:
    """torch.tensor, of nested lists of arrays"""

    __slots__ = ()

    def __call__(self, values: list) -> _Tensor:
        return _Tensor(np.array(values, np.float32))


class _Partial:
    """functools.partial, of torch.tensor only; its keywords do not change the values"""

    __slots__ = ()

    def __call__(self, function: _TensorOf) -> _PartialTensorOf:
        if not isinstance(function, _TensorOf):
            raise ValueError("not a partial torch.tensor")
        return _PartialTensorOf()


class _PartialTensorOf(_TensorOf):
    __slots__ = ()

    def __setstate__(self, state: tuple) -> None:
        if state[1:] != ((), {"requires_grad": True}, None):
            raise ValueError("not a tensor that requires grad")


class _ArrayOf:
    """array._array_reconstructor, of little-endian float32 (format 14 of the array module)"""

    __slots__ = ()

    def __call__(self, kind: str, typecode: str, form: int, content: bytes) -> list[float]:
        if (kind, typecode, form) != ("array", "f", 14):
            raise ValueError("not an array of little-endian float32")
        return np.frombuffer(content, "<f4").tolist()


def _stand_ins() -> dict[tuple[str, str], object]:
    return {
        ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch.storage", "_load_from_bytes"): _LoadFromBytes(),
        ("collections", "OrderedDict"): _OrderedDict(),
        ("functools", "partial"): _Partial(),
        ("_codecs", "encode"): _Encode(),
        ("builtins", "getattr"): _GetAttr(),
        ("torch._C", "_VariableFunctionsClass"): _FUNCTIONS,
        ("array", "_array_reconstructor"): _ArrayOf(),
        ("array", "array"): "array",
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, known: dict, persistent: Callable | None) -> None:
        super().__init__(stream, fix_imports=False)
        self._known, self._persistent = known, persistent

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._known:
            raise _Refused(f"{module}.{name}"[:80])
        return self._known[module, name]

    def persistent_load(self, pid: object) -> object:
        if self._persistent is None:
            raise ValueError("a reference to nothing")
        return self._persistent(pid)


def _load(stream: BinaryIO, known: dict, persistent: Callable | None = None) -> object:
    """Read one pickle from `stream`; nothing is called before all of its opcodes have been looked through."""
    begin = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in _OPCODES:
            raise _Refused(f"the operation {opcode.name}")
        if "PUT" in opcode.name and int(argument) > _MOST_MEMO:
            raise ValueError("too many memo places")
    stop = stream.tell()
    stream.seek(begin)
    loaded = _Unpickler(io.BytesIO(stream.read(stop - begin)), known, persistent).load()
    stream.seek(stop)
    return loaded


def read_log_mel_pickle(path: Path) -> np.ndarray:
    """Read a pickled log-mel tensor, float32 [n, 1, 96, 64], n >= 1.

    Raises UserError, without having executed anything, for a pickle that names any function beyond those of a tensor,
    and for a file that is broken or holds something else.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"its {path.stat().st_size >> 20} MB are more than log-mel windows take")
        loaded = _load(io.BytesIO(path.read_bytes()), _stand_ins())
    except _Refused as error:
        raise UserError(
            f"{path}: refused, its pickle asks for {error}, which no log-mel tensor needs; nothing of it was run, "
            "delete the file"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing; unpack the set again") from None
    except Exception as error:  # a malformed pickle can make the machine raise nearly anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no log-mel pickle as released ({reason}); unpack the set again") from error
    if not isinstance(loaded, _Tensor) or loaded.values.shape[1:] != SHAPE or not len(loaded.values):
        raise UserError(f"{path}: holds no tensor [n, 1, 96, 64] of log-mel windows; unpack the set again")
    if not np.isfinite(loaded.values).all():
        raise UserError(f"{path}: its log-mel windows are not all finite; unpack the set again")
    return loaded.values
