"""stamps.csv against the real files: images, recordings, and no recording used twice."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from avsbench_fixtures import read_table

from icf_avs.media.audio_file import read_audio
from icf_avs.synthetic.catalog import Catalog, load_catalog
from icf_avs.synthetic.rendering import load_sprite
from icf_avs.synthetic.sounds import resample

pytestmark = pytest.mark.full

SAME = 0.5  # recordings that correlate more are duplicates; known duplicates have 0.7 and more


def test_every_row_has_one_role_and_a_usable_mask(catalog: Catalog) -> None:
    assert [(kind.id, kind.name) for kind in catalog.classes] == list(enumerate(sorted(set(catalog.class_names)), 1))
    assert 60 <= len(catalog.classes) <= 70  # ids 1..70 have a colour in the palette of AVSS
    assert not any("_" in name or " " in name for name in catalog.class_names)  # AVSS joins names by _
    rows = read_table(resources.files("icf_avs.synthetic").joinpath("stamps.csv"))
    for row in rows:
        assert (row["role"] == "distractor") == (not row["class"]) == (not row["super_category"]), row
        assert not row["sound"] or (row["class"] and (catalog.root / f"{row['sound']}.ogg").is_file()), row
        sprite = load_sprite(catalog.image_path(row["stem"]))
        assert max(sprite.width, sprite.height) >= 50, row
        assert sprite.area / (sprite.width * sprite.height) > 0.1, row
    used = [stem for kind in catalog.classes for stem in (*kind.stems, *kind.heldout_stems)]
    assert sorted((*used, *catalog.distractors)) == sorted({row["stem"] for row in rows})


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


def test_no_recording_is_used_twice(catalog: Catalog) -> None:
    """Neither for two classes, nor in training and in Cross. The correlation detects known duplicates."""
    training = [(kind.name, reference) for kind in catalog.classes for reference in kind.recordings]
    crossed = [reference for kind in catalog.classes for reference in kind.cross_recordings]
    known = {"badger": "rodents/beaver", "camel/camel": "camel/dromedary"}  # the second of each is left out
    pairs = [tuple(f"stamps:animals/mammals/{name}" for name in pair) for pair in known.items()]
    references = {reference for _, reference in training} | {*crossed, *(name for pair in pairs for name in pair)}
    decoded = {reference: read_audio(catalog.read_recording(reference), 16_000)[0] for reference in sorted(references)}
    waves = {reference: resample(wave - wave.mean(), 4.0) for reference, wave in decoded.items()}  # 4 kHz
    size = 1 << (2 * max(map(len, waves.values()))).bit_length()
    spectra = {reference: np.fft.rfft(wave, size) for reference, wave in waves.items()}

    def likeness(one: str, other: str) -> float:
        return _likeness(waves[one], waves[other], (spectra[one], spectra[other]), size)

    assert likeness(*pairs[0]) > 0.95 and likeness(*pairs[1]) > SAME + 0.15
    for i, (name, reference) in enumerate(training):
        for other_name, other in training[i + 1 :]:
            assert name == other_name or likeness(reference, other) < SAME, (reference, other)
    assert sum(bool(kind.cross_recordings) for kind in catalog.classes) >= 12
    for reference in crossed:
        for _, other in training:
            assert likeness(reference, other) < SAME, (reference, other)


def test_class_ids_do_not_depend_on_installed_folders(catalog: Catalog, tmp_path: Path) -> None:
    for folder in catalog.root.iterdir():
        if folder.name != "hobbies":
            (tmp_path / folder.name).symlink_to(folder)
    fewer = load_catalog(tmp_path)
    assert fewer.class_names == catalog.class_names
    assert fewer.sound_class("zebra").id == catalog.sound_class("zebra").id
