"""Names of the classes of the public sets, and which of them a clip has."""

from __future__ import annotations

import json

import avsbench_fixtures as fixtures
import pytest
from public_sets import AVSS, MS3, S4

from icf_avs.datasets.layouts import class_names, read_all, read_set
from icf_avs.datasets.metadata import read_labels
from icf_avs.errors import UserError


def test_avss_names_the_kinds_of_s4_and_ms3(home) -> None:
    root, _ = home
    kinds = {record.name: record.sounding for record in read_all(root / "Single-source")}
    assert kinds == {
        "-dog_______": {"class-07"},
        "_cat_______": {"class-03"},
        "cat-val____": {"class-03"},
        "dog-test___": {"class-07"},
    }
    kinds = {record.name: record.sounding for record in read_all(root / "Multi-sources")}
    assert kinds == {"-video_____": {"class-03", "class-07"}, "video-val__": None, "video-test_": {"woman"}}
    assert class_names(root / "Single-source") == class_names(root / "AVSS") == fixtures.NAMES[1:]


def test_without_avss_s4_has_its_categories_and_ms3_has_none(tmp_path) -> None:
    fixtures.write_s4(tmp_path / "a/Single-source", S4)
    fixtures.write_ms3(tmp_path / "b/Multi-sources", MS3)
    assert class_names(tmp_path / "a/Single-source") == ("cat_meowing", "dog_barking")
    assert read_set(tmp_path / "a/Single-source", "test")[0].sounding == {"dog_barking"}
    assert class_names(tmp_path / "b/Multi-sources") == ()
    assert read_set(tmp_path / "b/Multi-sources", "test")[0].sounding is None


def test_stray_tokens(tmp_path) -> None:
    rows = [("v", "v_0_5000", 0, 0, "class-03_h orse_off-the-screen_background_", "test", "v1m")]
    fixtures.write_avss(tmp_path, rows)
    assert read_set(tmp_path, "test")[0].sounding == {"class-03", "horse"}


@pytest.mark.parametrize("first", [0, 1])
def test_labels_count_from_nought_or_one(tmp_path, first) -> None:
    fixtures.write_avss(tmp_path, AVSS[:1], first=first)
    names = read_labels(tmp_path / "label2idx.json")
    assert names == fixtures.NAMES and len(names) == 71


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: None, "is missing"),
        (lambda ids: ids | {"woman": 5}, "repeated or left out"),
        (lambda ids: ids | {"woman": 99}, "repeated or left out"),
        (lambda ids: ids | {"man": 72}, "at most 71 names"),
        (lambda ids: {name: i + 1 for name, i in ids.items()}, "lowest id 0 or 1"),
        (lambda ids: {name: i for name, i in ids.items() if i > 1}, "background's"),
        (lambda ids: ids | {"woman": "71"}, "one object of names and ids"),
        (lambda ids: list(ids), "one object of names and ids"),
        (lambda ids: {}, "at most 71 names"),
    ],
)
def test_inconsistent_labels(tmp_path, change, message) -> None:
    fixtures.write_avss(tmp_path, AVSS[:1])
    path = tmp_path / "label2idx.json"
    ids = change(json.loads(path.read_text()))
    path.unlink() if ids is None else path.write_text(json.dumps(ids))
    with pytest.raises(UserError, match=message):
        class_names(tmp_path)
