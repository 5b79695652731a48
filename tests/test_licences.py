"""docs/LICENCES.md lists every library of pyproject.toml, whatever its version."""

from __future__ import annotations

import pytest

from tools import make_licences as licences


def test_each_library_is_listed(monkeypatch: pytest.MonkeyPatch):
    """Lines of extras that are not installed stay; a new library that is not installed is an error."""
    old = licences.DOCUMENT.read_text(encoding="utf-8")
    rows, names = licences.lines(old), licences.direct()
    told = {name: by for name, (_, by) in rows.items() if name in names}
    assert told == names, "run `python -m tools.make_licences` where the extras are installed"
    assert all(by in rows for name, (_, by) in rows.items() if name not in names)  # dependents are listed too
    assert all(licence and licence not in ("UNKNOWN", "see its files") for licence, _ in rows.values())
    new = licences.lines(licences.document(old))
    assert names.keys() <= new.keys() and new["numpy"][0].startswith("BSD") and new["filelock"]
    monkeypatch.setattr(licences, "direct", lambda: {"no-such-library": "needed"})
    with pytest.raises(ValueError, match="install no-such-library"):
        licences.document(old)
