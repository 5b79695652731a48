"""docs/LICENCES.md lists every library of pyproject.toml, whatever its version."""

from __future__ import annotations

import pytest

from tools import make_licences as licences


def test_each_library_is_listed():
    rows, names = licences.lines(licences.DOCUMENT.read_text(encoding="utf-8")), licences.direct()
    assert {"torch", "numpy", "av", "gradio", "transformers"} <= names.keys()
    told = {name: by for name, (_, by) in rows.items() if name in names}
    assert told == names, "run `python -m tools.make_licences` where the extras are installed"
    assert all(by in rows for name, (_, by) in rows.items() if name not in names)  # dependents are listed too
    assert all(licence and licence not in ("UNKNOWN", "see its files") for licence, _ in rows.values())


def test_the_command_writes_the_document():
    """Lines of extras that are not installed stay; a new library that is not installed is an error."""
    old = licences.DOCUMENT.read_text(encoding="utf-8")
    new = licences.document(old)
    assert new.startswith(licences.HEAD) and old.startswith(licences.HEAD)
    assert licences.lines(new)["numpy"][1] == "needed"
    assert set(licences.direct()) <= licences.lines(new).keys() >= {"gradio"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(licences, "direct", lambda: {"no-such-library": "needed"})
        with pytest.raises(ValueError, match="install no-such-library"):
            licences.document(old)


def test_a_licence_is_what_the_package_states():
    found = licences.closure({"numpy": "needed", "torch": "needed"})
    assert found["numpy"][0].startswith("BSD") and found["numpy"][1] == "needed"
    assert found["sympy"][0].startswith("BSD") and "filelock" in found  # of torch
