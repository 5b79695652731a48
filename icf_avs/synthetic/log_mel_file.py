"""The pickled audio feature of the public sets, with the same bytes for the same sound."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict

import numpy as np
import torch

from icf_avs.media.vggish_frontend import WINDOW, log_mel


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
