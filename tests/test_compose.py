"""`icf data compose` on real images and recordings: a COCO file and an ESC-50 table."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from avsbench_fixtures import read_files, read_table, tone, write_wav
from compose_material import SIZE, write_material
from PIL import Image
from pycocotools import mask as run_lengths
from small_training import random_names, two_steps

from icf_avs.__main__ import main
from icf_avs.datasets.check import check_command
from icf_avs.datasets.layouts import class_names, is_stamps, read_all, read_set
from icf_avs.errors import UserError
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.compose.clips import label_image
from icf_avs.synthetic.compose.command import Request, compose
from icf_avs.synthetic.compose.images import find_images
from icf_avs.synthetic.compose.material import assign_splits, content_keys, match_classes, normalize
from icf_avs.training.recipes import RECIPES

KINDS = ("dog", "horse", "cow", "sheep")
COUNTS = (("train", 6), ("val", 2), ("test", 3))


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Path:
    """Four animals, one renamed, one capitalised; three files of one clock recording, a class without images."""
    root = tmp_path_factory.mktemp("material")
    kinds = dict(zip(KINDS, KINDS, strict=True))
    write_material(root, catalog, kinds | {"cow": "Cow", "sheep": "lamb"}, kinds)
    with (root / "ESC-50/meta/esc50.csv").open("a", newline="") as file:
        for pitch in range(3):
            write_wav(root / f"ESC-50/audio/clock-{pitch}.wav", tone(pitch, 1.0))
            csv.writer(file).writerow((f"clock-{pitch}.wav", "clock_tick", "one recording"))
    (root / "same.csv").write_text("picture,sound\nlamb,sheep\nCow,cow\n")
    return root


@pytest.fixture(scope="session")
def request_of(material: Path) -> Request:
    coco, sounds = material / "coco", material / "ESC-50/meta/esc50.csv"
    annotations, more = coco / "annotations/instances_val2017.json", {"images": coco / "val2017", "counts": COUNTS}
    return Request(annotations, sounds, mapping=material / "same.csv", seed=3, **more)


@pytest.fixture(scope="session")
def composed(request_of: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("composed") / "out"
    compose(request_of, out)
    return out


def test_the_composed_set_is_complete(composed: Path, capsys: pytest.CaptureFixture[str]):
    """The masks of a second have its sounding classes; there is audio exactly when a class sounds."""
    assert check_command(composed) == 0, capsys.readouterr().out
    root = composed / "AVSS"
    assert class_names(root) == ("cow", "dog", "horse", "lamb") and not is_stamps(root)
    records, names, empty = read_all(root), ("background", *class_names(root)), 0
    assert [sum(record.split == split for record in records) for split, _ in COUNTS] == [6, 2, 3]
    for record in records:
        clip = record.load(None)
        assert record.complete and record.sounding <= record.onscreen and len(record.onscreen) == 2
        loudness = np.sqrt((clip.waveform.reshape(5, -1) ** 2).mean(1))
        for second, sounding in enumerate(record.sounding_by_second):
            marked = {names[number] for number in np.unique(clip.masks[second]) if number}
            assert marked <= sounding
            assert marked or not sounding, "the camera moves a little, and loses none of them"
            assert (loudness[second] > 1e-3) == bool(sounding)
            empty += not sounding
    assert empty, "some sources begin or end within the clip"


def test_masks_equal_the_annotations(composed: Path, material: Path, request_of: Request):
    images = find_images(request_of.pictures, request_of.images)
    document = json.loads(request_of.pictures.read_text())
    ids = {"cow": 1, "dog": 2, "horse": 3, "lamb": 4}
    for image in images.images:
        _, classes = label_image(image, images, {"Cow": "cow", "dog": "dog", "horse": "horse", "lamb": "lamb"}, ids)
        want = np.zeros(SIZE[::-1], int)
        for annotation in document["annotations"]:
            if annotation["image_id"] == image.key:
                kind = document["categories"][annotation["category_id"] - 10]["name"].lower()
                want[run_lengths.decode(annotation["segmentation"]) > 0] = ids[kind]
        assert np.array_equal(np.asarray(classes), want)


def test_splits_share_no_image_and_no_recording(composed: Path):
    pictures, sounds = {}, {}
    for row in read_table(composed / "AVSS/sources.csv"):
        pictures.setdefault(row["picture"], set()).add(row["split"])
        for name in row["sounds"].split(";"):
            sounds.setdefault(name, set()).add(row["split"])
    assert all(len(splits) == 1 for splits in (*pictures.values(), *sounds.values()))
    assert {split for splits in sounds.values() for split in splits} == {"train", "val", "test"}
    assert len(pictures) > 3 and len(sounds) > 3


def test_the_output_depends_only_on_the_seed(request_of: Request, composed: Path, tmp_path: Path):
    compose(request_of, tmp_path / "again")
    assert read_files(tmp_path / "again") == read_files(composed)
    compose(replace(request_of, seed=4), tmp_path / "again")
    assert read_files(tmp_path / "again") != read_files(composed)
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["AVSS"]


def test_folders_and_two_training_steps(material: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sounds = tmp_path / "sounds"
    for path in (material / "ESC-50/audio").iterdir():
        (sounds / path.name.split("-")[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, sounds / path.name.split("-")[0] / path.name)
    line = ["--pictures", str(material / "photos"), "--sounds", str(sounds), "--out", "set"]
    assert main(["data", "compose", *line, "--train", "4", "--val", "2", "--test", "2"]) == 0
    printed = capsys.readouterr().out
    assert "next: icf train composed --data set/AVSS" in printed and "horse" in printed
    assert not any(record.complete for record in read_set(tmp_path / "set/AVSS", "train"))
    monkeypatch.setattr("icf_avs.training.trainer.embed_names", random_names)
    monkeypatch.setitem(RECIPES, "composed", two_steps("composed"))
    assert main(["train", "composed", "--data", "set/AVSS", "--out", "run"]) == 0
    assert main(["evaluate", "run/composed.safetensors", "--data", "set", "--out", "s.csv"]) == 0
    protocols = {row["protocol"] for row in read_table(tmp_path / "s.csv")}
    assert {"strict", "classes-argmax", "classes-masked"} <= protocols


def test_unusable_recordings_are_skipped(request_of: Request, material: Path, tmp_path: Path):
    shutil.copytree(material / "ESC-50", tmp_path / "ESC-50")
    rows = read_table(tmp_path / "ESC-50/meta/esc50.csv")
    spoilt = [row["filename"] for row in rows if row["category"] == "dog"]
    (tmp_path / "ESC-50/audio" / spoilt[0]).write_bytes(b"no sound")
    request = replace(request_of, sounds=tmp_path / "ESC-50/meta/esc50.csv", counts=(("train", 8),))
    assert compose(request, tmp_path / "out")["unusable recordings"] in ([], spoilt[:1])
    for name in spoilt:
        write_wav(tmp_path / "ESC-50/audio" / name, np.zeros(16_000, np.int16))
    with pytest.raises(UserError, match="recordings of dog cannot be used"):
        compose(request, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_files_of_one_recording_share_a_split(request_of: Request, material: Path, tmp_path: Path):
    dogs = [row for row in read_table(material / "ESC-50/meta/esc50.csv") if row["category"] == "dog"]
    lines = [f"{row['filename']},dog,one" for row in dogs]
    (tmp_path / "dogs.csv").write_text("\n".join(["filename,category,src_file", *lines, ""]))
    audio = material / "ESC-50/audio"
    request = replace(request_of, sounds=tmp_path / "dogs.csv", audio=audio, mapping=None, counts=(("train", 3),))
    compose(request, tmp_path / "out")
    with pytest.raises(UserError, match="left for the split val"):  # one recording, so one split
        compose(replace(request, counts=(("train", 3), ("val", 1))), tmp_path / "none")


def test_assign_splits():
    rng = np.random.default_rng(0)
    items = {f"p{i}": {f"k{j}" for j in rng.choice(6, rng.integers(1, 4), replace=False)} for i in range(200)}
    items |= {f"r{i}": {"rare"} for i in range(3)} | {"lonely": {"one"}}
    dealt = assign_splits(items, ("train", "val", "test"), seed=0)
    assert dealt == assign_splits(dict(reversed(items.items())), ("train", "val", "test"), seed=0)
    assert dealt != assign_splits(items, ("train", "val", "test"), seed=1)
    assert {dealt[f"r{i}"] for i in range(3)} == {"train", "val", "test"} and dealt["lonely"] == "train"
    for kind in {kind for kinds in items.values() for kind in kinds if kind.startswith("k")}:
        mine = [dealt[key] for key, kinds in items.items() if kind in kinds]
        assert 0.65 < mine.count("train") / len(mine) < 0.85 and mine.count("val") and mine.count("test")
    assert set(assign_splits(items, ("test",), 0).values()) == {"test"}


def test_equal_files_have_equal_keys(tmp_path: Path):
    for name, text in (("a.wav", "12345"), ("b.wav", "12345"), ("c.wav", "54321"), ("d.wav", "1")):
        (tmp_path / name).write_text(text)
    keys = {path.name: key for path, key in content_keys(tmp_path.iterdir()).items()}
    assert keys["a.wav"] == keys["b.wav"] and len(set(keys.values())) == 3


def test_classes_match_by_name_or_table(tmp_path: Path):
    mapping = tmp_path / "same.csv"
    mapping.write_text("picture,sound\ncar,car_horn\ncar,engine\n,mouse\n")
    found = match_classes({"Fire truck", "car", "mouse", "cup"}, {"fire_truck", "car_horn", "engine", "mouse"}, mapping)
    assert found == {"fire_truck": "fire-truck", "car_horn": "car", "engine": "car"}
    assert normalize("  Mäuse & co_2 ") == "mäuse-co-2"


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / "coco/annotations/instances_val2017.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return spoil


def append(name: str, line: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / name).write_text((root / name).read_text() + line + "\n")

    return spoil


def photos(spoil: Callable[[Path], object] = lambda mask: None) -> Callable[[Path], dict]:
    """Image folders instead of the COCO file, the first mask spoilt."""

    def changed(root: Path) -> dict:
        spoil(next((root / "photos/masks").rglob("*.png")))
        return {"pictures": root / "photos", "images": None, "mapping": None}

    return changed


SPOILT = [
    ("no such pictures", lambda r: {"pictures": r / "none"}, "no such file or folder"),
    ("no COCO file", lambda r: {"pictures": r / "same.csv"}, "is not an annotation file in COCO's format"),
    ("a COCO file without images", edit(lambda d: d.pop("images")), "ValueError: no images"),
    ("no category that is there", edit(lambda d: [a.update(category_id=77) for a in d["annotations"]]),
        "none of its annotations can be used: 24 with an unknown category"),
    ("boxes alone", edit(lambda d: [a.pop("segmentation") for a in d["annotations"]]), "no segmentation, only a box"),
    ("another folder of pictures", lambda r: {"images": r / "coco"}, "is missing; name the folder"),
    ("pictures of another size", edit(lambda d: [i.update(width=400) for i in d["images"]]),
        "24 with run lengths of another size than the image"),
    ("a folder without masks", lambda r: {"pictures": r / "ESC-50", "images": None}, "want images/CLASS"),
    ("a picture without a mask", photos(Path.unlink), "has no mask"),
    ("a mask of another size", photos(Image.new("L", (9, 9), 255).save), "is 9x9, its image 320x240"),
    ("no such sounds", lambda r: {"sounds": r / "none"}, "no such file or folder"),
    ("a table without categories", lambda r: {"sounds": r / "same.csv"}, "lacks the column filename, category"),
    ("a folder without sounds", lambda r: {"sounds": r / "coco"}, "no sound in a folder of it"),
    ("sounds elsewhere", lambda r: {"audio": r / "coco"}, "name the folder of the sounds with --audio-dir"),
    ("a sound that is missing", append("ESC-50/meta/esc50.csv", "none.wav,dog,x"), r"none\.wav is missing"),
    ("an unknown picture class", append("same.csv", "dgo,dog"), "line 4: no picture class 'dgo'; there are dog"),
    ("an unknown sound class", append("same.csv", "dog,dogs"), "line 4: no sound class 'dogs'; there are dog"),
    ("a sound of two classes", append("same.csv", "dog,sheep"), "sheep belongs to lamb and to dog"),
    ("no common class", lambda r: {"mapping": None, "sounds": r / "clocks"}, "no class of the images .* --mapping"),
    ("too few for a split", lambda r: {"mapping": None, "sounds": r / "few"}, "left for the split val; .* --val 0"),
    ("nothing asked for", lambda r: {"counts": (("train", 0),)}, "no clip is asked for"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "line"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_faulty_material_is_refused(
    spoil: Callable[[Path], dict | None], line: str, request_of: Request, material: Path, tmp_path: Path
):
    root = tmp_path / "material"
    shutil.copytree(material, root)
    dog = next((root / "ESC-50/audio").glob("dog-*"))
    for folder, path in (("clocks/clock", root / "ESC-50/audio/clock-0.wav"), ("few/dog", dog)):
        (root / folder).mkdir(parents=True)
        shutil.copy(path, root / folder)
    moved = {name: root / getattr(request_of, name).relative_to(material)
             for name in ("pictures", "sounds", "images", "mapping")}  # fmt: skip
    with pytest.raises(UserError, match=line):
        compose(replace(request_of, **moved | (spoil(root) or {})), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(request_of: Request, tmp_path: Path):
    (tmp_path / "AVSS").mkdir()
    (tmp_path / "AVSS/metadata.csv").write_text("mine")
    with pytest.raises(UserError, match="was not written by"):
        compose(request_of, tmp_path)
    assert (tmp_path / "AVSS/metadata.csv").read_text() == "mine"
