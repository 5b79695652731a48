"""The facts of stamps.csv against the real files: pictures, recordings, and that no recording serves twice."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from icf_avs.errors import UserError
from icf_avs.media.audio_file import read_audio
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.catalog import SUPER_CATEGORIES, Catalog, load_catalog
from icf_avs.synthetic.rendering import load_sprite
from icf_avs.synthetic.sounds import resample

pytestmark = pytest.mark.full

SAME = 0.5  # correlation from which on two recordings count as one; the known doubles have 0.7 and more


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with resources.files("icf_avs.synthetic").joinpath("stamps.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_classes(catalog: Catalog) -> None:
    assert catalog.class_names == tuple(sorted(set(catalog.class_names)))
    assert 60 <= len(catalog.class_names) <= 70  # ids 1..70 have a colour in the palette of AVSS
    assert [kind.name for kind in catalog.classes] == list(catalog.class_names)
    assert [kind.id for kind in catalog.classes] == list(range(1, len(catalog.classes) + 1))
    assert {kind.super_category for kind in catalog.classes} <= set(SUPER_CATEGORIES)
    assert not any("_" in name or " " in name for name in catalog.class_names)  # AVSS joins names by _


def test_every_row_is_there_and_in_one_role(catalog: Catalog, rows: list[dict[str, str]]) -> None:
    stems = [row["stem"] for row in rows]
    assert len(stems) == len(set(stems))
    assert all(row["name"] for row in rows)
    for row in rows:
        assert catalog.image_path(row["stem"]).is_file(), row
        assert (row["role"] == "distractor") == (not row["class"]) == (not row["super_category"]), row
        assert not row["sound"] or (row["class"] and (catalog.root / f"{row['sound']}.ogg").is_file()), row
    used = [stem for kind in catalog.classes for stem in (*kind.stems, *kind.heldout_stems)]
    assert sorted((*used, *catalog.distractors)) == sorted(stems)


def test_every_picture_has_a_usable_mask(catalog: Catalog, rows: list[dict[str, str]]) -> None:
    for row in rows:
        sprite = load_sprite(catalog.image_path(row["stem"]))
        assert max(sprite.width, sprite.height) >= 50, row
        assert sprite.area / (sprite.width * sprite.height) > 0.1, row


def _spectra(waves: list[np.ndarray], size: int) -> list[np.ndarray]:
    return [np.fft.rfft(wave, size) for wave in waves]


def _likeness(one: np.ndarray, other: np.ndarray, spectra: tuple[np.ndarray, np.ndarray], size: int) -> float:
    """Largest normalised cross-correlation of the shorter wave with a stretch of the longer one."""
    if len(one) < len(other):
        return _likeness(other, one, spectra[::-1], size)
    inner = np.abs(np.fft.irfft(spectra[0] * np.conj(spectra[1]), size))[: len(one)]
    energy = np.concatenate(([0.0], np.cumsum(np.square(one, dtype=np.float64)), np.full(len(other), np.nan)))
    energy[len(one) + 1 :] = energy[len(one)]
    stretch = energy[len(other) : len(other) + len(one)] - energy[: len(one)]
    own = np.sum(np.square(other, dtype=np.float64))
    return float(np.max(inner / np.sqrt(np.maximum(stretch, 0.05 * own * stretch.max() / own) * own)))


@pytest.fixture(scope="module")
def waves(catalog: Catalog) -> dict[str, np.ndarray]:
    """Every recording at 4 kHz, without mean, by reference; and two that are left out for being another's double."""
    references = {r for kind in catalog.classes for r in (*kind.recordings, *kind.cross_recordings)}
    references |= {"stamps:animals/mammals/rodents/beaver", "stamps:animals/mammals/camel/dromedary"}
    decoded = {reference: read_audio(catalog.read_recording(reference), 16_000)[0] for reference in sorted(references)}
    return {reference: resample(wave - wave.mean(), 4.0) for reference, wave in decoded.items()}


@pytest.fixture(scope="module")
def likeness(waves: dict[str, np.ndarray]):
    size = 1 << (2 * max(map(len, waves.values()))).bit_length()
    spectra = dict(zip(waves, _spectra(list(waves.values()), size), strict=True))
    return lambda one, other: _likeness(waves[one], waves[other], (spectra[one], spectra[other]), size)


def test_the_correlation_knows_doubles(likeness) -> None:
    assert likeness("stamps:animals/mammals/badger", "stamps:animals/mammals/rodents/beaver") > 0.95
    assert likeness("stamps:animals/mammals/camel/camel", "stamps:animals/mammals/camel/dromedary") > SAME + 0.15


def test_no_two_kinds_share_a_recording(catalog: Catalog, likeness) -> None:
    training = [(kind.name, reference) for kind in catalog.classes for reference in kind.recordings]
    for i, (name, reference) in enumerate(training):
        for other_name, other in training[i + 1 :]:
            assert name == other_name or likeness(reference, other) < SAME, (reference, other)


def test_no_cross_recording_is_a_training_recording(catalog: Catalog, likeness) -> None:
    assert asset_packages.root(asset_packages.GCOMPRIS) and asset_packages.root(asset_packages.OVOS)
    crossed = [kind for kind in catalog.classes if kind.cross_recordings]
    assert len(crossed) >= 12
    training = [reference for kind in catalog.classes for reference in kind.recordings]
    for kind in crossed:
        for reference in kind.cross_recordings:
            for other in training:
                assert likeness(reference, other) < SAME, (reference, other)


def test_ids_do_not_depend_on_what_is_installed(catalog: Catalog, tmp_path: Path) -> None:
    root = tmp_path / "stamps"
    root.mkdir()
    for folder in catalog.root.iterdir():
        if folder.name != "hobbies":
            (root / folder.name).symlink_to(folder)
    fewer = load_catalog(root)
    assert fewer.class_names == catalog.class_names
    assert fewer.sound_class("zebra").id == catalog.sound_class("zebra").id
    with pytest.raises(KeyError):
        fewer.sound_class("violin")
    (root / "animals").unlink()
    with pytest.raises(UserError, match="--stamps DIR"):
        load_catalog(root)


def test_a_named_folder_without_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="tuxpaint-stamps-default"):
        asset_packages.stamps_root(tmp_path)
    monkeypatch.setenv("ICF_STAMPS", str(tmp_path))
    with pytest.raises(UserError, match="--stamps DIR"):
        asset_packages.stamps_root()


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("ICF_CACHE", raising=False)
    assert asset_packages.cache_dir() == Path("/somewhere/icf-avs")
    monkeypatch.setenv("ICF_CACHE", "/elsewhere")
    assert asset_packages.cache_dir() == Path("/elsewhere")
