"""Released log-mel pickles are read exactly, and a pickle with anything else in it is refused before it runs."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from avsbench_fixtures import log_mel, tone, write_pickle
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_avs.datasets import log_mel as module
from icf_avs.datasets.log_mel import read_log_mel, read_log_mel_pickle
from icf_avs.errors import UserError


def released(windows: int) -> torch.Tensor:
    """As made by the public tool: not a leaf, a view, requires grad."""
    return torch.randn(windows, 96, 64, requires_grad=True)[:, None, :, :].float()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "tensor",
    [
        released(5),
        released(12)[3:8],  # starts within its storage
        released(10)[::2],  # has gaps
        torch.randn(5, 1, 64, 96).transpose(2, 3),  # other strides
        torch.randn(1, 1, 96, 64).expand(5, 1, 96, 64),  # one window five times
    ],
)
def test_released_pickles_are_read(tmp_path: Path, tensor: torch.Tensor, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(tensor, protocol=protocol))
    found = read_log_mel_pickle(tmp_path / "x.pkl")
    assert found.dtype == np.float32 and found.shape == (5, 1, 96, 64)
    np.testing.assert_array_equal(found, tensor.detach().numpy())


def test_missing_windows_repeat_the_last(tmp_path: Path) -> None:
    samples = tone(1, 3.2)
    write_pickle(tmp_path / "x.pkl", samples)  # as released: repeated in the file
    windows = read_log_mel(tmp_path / "x.pkl", 5)
    assert len(log_mel(samples)) == 3
    np.testing.assert_array_equal(windows[:3], log_mel(samples)[:, 0])
    assert (windows[3:] == windows[2]).all()
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(released(3)))
    assert read_log_mel(tmp_path / "y.pkl", 5).shape == (5, 96, 64)
    assert read_log_mel(tmp_path / "y.pkl", 2).shape == (2, 96, 64)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(mark: Path) -> dict[str, bytes]:
    """Pickles that would create `mark`, each in another way."""
    good = pickle.dumps(released(5))
    touch = f"touch '{mark}'"
    command = f'(S"{touch}"\n'.encode()
    blob = b"\x80\x02cposix\nsystem\n" + command + b"tR."
    inner = pickle.dumps(Calls(torch.storage._load_from_bytes, blob))
    hooks = pickle.dumps(Calls(torch._utils._rebuild_tensor_v2, None, 0, (1,), (1,), False, Calls(os.system, touch)))
    return {
        "os.system": pickle.dumps(Calls(os.system, touch)),
        "eval": pickle.dumps(Calls(eval, f"open({str(mark)!r}, 'w')")),
        "exec": pickle.dumps(Calls(exec, f"open({str(mark)!r}, 'w')")),
        "open": pickle.dumps(Calls(open, str(mark), "w")),
        "subprocess": b"csubprocess\ngetoutput\n" + command + b"tR.",
        "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR" + command + b"tR.",
        "getattr of a known function": b"cbuiltins\ngetattr\n(ctorch\ntensor\nS'__class__'\ntR.",
        "the operation INST": command + b"ios\nsystem\n.",
        "the operation OBJ": b"(cos\nsystem\n" + command[1:] + b"o.",
        "after a good tensor": good[:-1] + b"0" + pickle.dumps(Calls(os.system, touch), 2)[2:],
        "before a good tensor": pickle.dumps(Calls(os.system, touch), 2)[:-1] + b"0" + good,
        "within the storage": inner,
        "among the hooks": hooks,
        "partial of system": b"cfunctools\npartial\n(cos\nsystem\n" + command[1:] + b"tR(tR.",
        "torch.load": pickle.dumps(Calls(torch.load, str(mark))),
        "codecs": b"c_codecs\nlookup\n(S'x'\ntR.",
        "numpy": pickle.dumps(np.zeros(3)),
        "a class with a method": pickle.dumps(collections.Counter("x")),
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


def test_the_attacks_work_when_unpickled(tmp_path: Path) -> None:
    for name in ("os.system", "eval", "before a good tensor", "after a good tensor", "among the hooks"):
        mark = tmp_path / name.replace(" ", "_").replace(".", "_")
        with contextlib.suppress(Exception):
            pickle.loads(attacks(mark)[name])  # our own file
        assert mark.exists(), name


def test_the_stand_ins_cannot_be_changed(tmp_path: Path) -> None:
    before = dict(vars(module))
    for state in (b"}S'a'\nI1\ns", b"(NS'__call__'\nI1\ntN", b"(N}S'__call__'\nI1\nst"):
        (tmp_path / "x.pkl").write_bytes(b"ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b.")
        with pytest.raises(UserError):
            read_log_mel_pickle(tmp_path / "x.pkl")
    assert vars(module).keys() - {"__builtins__"} == before.keys() - {"__builtins__"}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(released(5)))
    read_log_mel_pickle(tmp_path / "x.pkl")


def saved(legacy: bool = True) -> bytes:
    """Storage of one window as torch pickles it; legacy=False: as the ZIP archive of torch.save."""
    content = io.BytesIO()
    torch.save(torch.zeros(6144).__reduce_ex__(2)[1][0], content, _use_new_zipfile_serialization=not legacy)
    return content.getvalue()


def tensor_of(blob: bytes, offset: int, size: tuple, stride: tuple) -> bytes:
    storage = Calls(torch.storage._load_from_bytes, blob)
    hooks = collections.OrderedDict()
    return pickle.dumps(Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, hooks))


@pytest.mark.parametrize(
    ("lost", "offset", "size", "stride"),
    [
        (4, 0, (1, 1, 96, 64), (6144, 6144, 64, 1)),  # a number less than the file says
        (0, 1, (1, 1, 96, 64), (6144, 6144, 64, 1)),  # reaches beyond
        (0, -1, (1, 1, 96, 64), (6144, 6144, 64, 1)),
        (0, 0, (1, 1, 96, 64), (6144, 6144, 64, 2)),
        (0, 0, (1, 1, 96, 64), (6144, 6144, 64, -1)),
        (0, 0, (2**40, 1, 96, 64), (0, 0, 0, 0)),  # would fill the memory
        (0, 0, (1, 1, 96, 64), (64, 1)),
        (0, 0, (1.0, 1, 96, 64), (6144, 6144, 64, 1)),
        (0, 0, (0, 1, 96, 64), (6144, 6144, 64, 1)),
    ],
)
def test_a_tensor_never_reaches_beyond_its_storage(tmp_path, lost, offset, size, stride) -> None:
    (tmp_path / "x.pkl").write_bytes(tensor_of(saved(), 0, (1, 1, 96, 64), (6144, 6144, 64, 1)))
    assert not read_log_mel_pickle(tmp_path / "x.pkl").any()
    (tmp_path / "x.pkl").write_bytes(tensor_of(saved()[: -lost or None], offset, size, stride))
    with pytest.raises(UserError, match=r"x\.pkl: no log-mel pickle"):
        read_log_mel_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no log-mel pickle"),
        (b"\x80\x04garbage", "no log-mel pickle"),
        (pickle.dumps(released(5))[:-4000], "no log-mel pickle"),
        (pickle.dumps([1, 2]), "holds no tensor"),
        (pickle.dumps(torch.zeros(5, 96, 64)), "holds no tensor"),
        (pickle.dumps(torch.zeros(5, 1, 96, 64, dtype=torch.float64)), "float64"),
        (pickle.dumps(torch.full((5, 1, 96, 64), torch.nan)), "not all finite"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "holds no tensor"),  # makes the unpickler in C allocate 64 GB
        (tensor_of(saved(legacy=False), 0, (1, 1, 96, 64), (6144, 6144, 64, 1)), "ZIP archive"),
        (bytes(9 << 20), "more than log-mel windows take"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_log_mel_pickle(tmp_path / "x.pkl")
    with pytest.raises(UserError, match=r"missing"):
        read_log_mel_pickle(tmp_path / "y.pkl")


GOOD = pickle.dumps(torch.zeros(5, 1, 96, 64, requires_grad=True))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_spoilt_pickle_is_read_or_refused(tmp_path_factory, data) -> None:
    content = bytearray(GOOD)
    positions = st.one_of(st.integers(0, 700), st.integers(len(content) - 200, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(positions)] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "spoilt.pkl"
    path.write_bytes(content)
    try:
        assert read_log_mel_pickle(path).shape[1:] == (1, 96, 64)
    except UserError as error:
        assert str(error).isprintable()
