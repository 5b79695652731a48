"""Released log-mel pickles are read exactly, and a pickle with anything else in it is refused before it runs."""

from __future__ import annotations

import collections
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from avsbench_fixtures import log_mel, tone, write_pickle

from icf_avs.datasets.log_mel import read_log_mel, read_log_mel_pickle
from icf_avs.errors import UserError


def released(windows: int) -> torch.Tensor:
    """As made by the public tool: not a leaf, a view, requires grad."""
    return torch.randn(windows, 96, 64, requires_grad=True)[:, None, :, :].float()


@pytest.mark.parametrize(
    "tensor",
    [
        released(5),
        released(12)[3:8],  # starts within its storage
        torch.randn(5, 1, 64, 96).transpose(2, 3),  # other strides
        torch.randn(1, 1, 96, 64).expand(5, 1, 96, 64),  # one window five times
    ],
)
def test_released_pickles_are_read(tmp_path: Path, tensor: torch.Tensor) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(tensor, protocol=protocol))
        found = read_log_mel_pickle(tmp_path / "x.pkl")
        assert found.dtype == np.float32 and found.shape == (5, 1, 96, 64)
        np.testing.assert_array_equal(found, tensor.detach().numpy())


def test_missing_windows_repeat_the_last(tmp_path: Path) -> None:
    samples = tone(1, 3.2)
    for windows in (5, 3):  # as released, repeated in the file; and without
        write_pickle(tmp_path / "x.pkl", samples, windows)
        found = read_log_mel(tmp_path / "x.pkl", 5)
        np.testing.assert_array_equal(found[:3], log_mel(samples)[:, 0])
        assert len(found) == 5 and (found[3:] == found[2]).all()
    assert read_log_mel(tmp_path / "x.pkl", 2).shape == (2, 96, 64)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(mark: Path) -> dict[str, bytes]:
    """Pickles that would create `mark`, each in another way."""
    touch = f"touch '{mark}'"
    command = f'(S"{touch}"\n'.encode()
    blob = b"\x80\x02cposix\nsystem\n" + command + b"tR."
    return {
        "os.system": pickle.dumps(Calls(os.system, touch)),
        "eval": pickle.dumps(Calls(eval, f"open({str(mark)!r}, 'w')")),
        "the operation INST": command + b"ios\nsystem\n.",
        "the operation OBJ": b"(cos\nsystem\n" + command[1:] + b"o.",
        "before a good tensor": pickle.dumps(Calls(os.system, touch), 2)[:-1] + b"0" + pickle.dumps(released(5)),
        "within the storage": pickle.dumps(Calls(torch.storage._load_from_bytes, blob)),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "x.pkl").write_bytes(attacks(mark)[name])
    with pytest.raises(UserError, match=r"x\.pkl: no log-mel pickle") as caught:
        read_log_mel_pickle(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)
    assert name != "eval" or "asks for builtins.eval" in str(caught.value)
    assert not mark.exists()


def saved(legacy: bool = True) -> bytes:
    """Storage of one window as torch pickles it; legacy=False: as the ZIP archive of torch.save."""
    content = io.BytesIO()
    torch.save(torch.zeros(6144).__reduce_ex__(2)[1][0], content, _use_new_zipfile_serialization=not legacy)
    return content.getvalue()


def tensor_of(blob: bytes, offset: int = 0, size: tuple = (1, 1, 96, 64), stride: tuple = (6144, 6144, 64, 1)) -> bytes:
    storage = Calls(torch.storage._load_from_bytes, blob)
    hooks = collections.OrderedDict()
    return pickle.dumps(Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, hooks))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor_of(saved()[:-4]), "no log-mel pickle"),  # a number less than the file says
        (tensor_of(saved(), 1), "no log-mel pickle"),  # reaches beyond the storage
        (tensor_of(saved(), size=(2**40, 1, 96, 64), stride=(0, 0, 0, 0)), "holds no tensor"),  # would fill the memory
        (tensor_of(saved(legacy=False)), "ZIP archive"),
        (pickle.dumps(torch.zeros(5, 96, 64)), "holds no tensor"),
        (pickle.dumps(torch.zeros(5, 1, 96, 64, dtype=torch.float64)), "float64"),
        (pickle.dumps(torch.full((5, 1, 96, 64), torch.nan)), "not all finite"),
        (b"ctorch._utils\n_rebuild_tensor_v2\nNb.", r"\(98\)"),  # the operation BUILD, which changes an object
        (b"\x80\x02Nr\xff\xff\xff\xff.", "holds no tensor"),  # makes the unpickler in C allocate 64 GB
        (bytes(9 << 20), "more than log-mel windows take"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_log_mel_pickle(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(tensor_of(saved()))
    assert not read_log_mel_pickle(tmp_path / "x.pkl").any()
