"""`icf data compose` on real images and recordings; COCO files with EXIF-rotated images and broken annotations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from avsbench_fixtures import read_files, read_table, write_table, write_wav
from compose_material import write_material
from PIL import Image, ImageOps
from pycocotools import mask as run_lengths
from small_training import random_names, two_steps

from icf_avs.__main__ import main
from icf_avs.datasets.check import check_command
from icf_avs.datasets.layouts import class_names, is_stamps, read_all
from icf_avs.errors import UserError
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.compose.command import Request, compose
from icf_avs.synthetic.compose.images import CocoImages
from icf_avs.synthetic.compose.material import assign_splits, content_keys
from icf_avs.training.recipes import RECIPES

KINDS = ("dog", "horse", "cow", "sheep")
COUNTS = (("train", 6), ("val", 2), ("test", 3))


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Path:
    """Four animals, one renamed, one capitalised; two files of each recording."""
    root = tmp_path_factory.mktemp("material")
    kinds = dict(zip(KINDS, KINDS, strict=True))
    write_material(root, catalog, kinds | {"cow": "Cow", "sheep": "lamb"}, kinds)
    (root / "same.csv").write_text("picture,sound\nlamb,sheep\nCow,cow\n")
    rows = [list(row.values()) for row in read_table(root / "ESC-50/meta/esc50.csv")]
    for name, *_ in rows:
        shutil.copy(root / "ESC-50/audio" / name, root / "ESC-50/audio" / name.replace("-", "-again-"))
    rows += [[name.replace("-", "-again-"), *row] for name, *row in rows]
    write_table(root / "ESC-50/meta/esc50.csv", "filename,category,src_file", rows)
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


def test_splits_share_no_image_and_no_recording(composed: Path, material: Path):
    """Nor two files of one recording."""
    origins = {row["filename"]: row["src_file"] for row in read_table(material / "ESC-50/meta/esc50.csv")}
    splits, rows = {}, read_table(composed / "AVSS/sources.csv")
    for row in rows:
        for origin in (row["picture"], *(origins[name] for name in row["sounds"].split(";"))):
            splits.setdefault(origin, set()).add(row["split"])
    assert all(len(some) == 1 for some in splits.values()) and len(splits) > 6
    assert any("-again-" in row["sounds"] for row in rows)


def test_the_output_depends_only_on_the_seed(request_of: Request, composed: Path, tmp_path: Path):
    compose(request_of, tmp_path / "again")
    assert read_files(tmp_path / "again") == read_files(composed)
    compose(replace(request_of, seed=4), tmp_path / "again")
    assert read_files(tmp_path / "again") != read_files(composed)


def test_folders_and_two_training_steps(material: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in (material / "ESC-50/audio").iterdir():
        folder = Path("sounds", path.name.split("-")[0])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    line = f"data compose --pictures {material}/photos --sounds sounds --out set --train 4 --val 2 --test 2"
    assert main(line.split()) == 0
    assert "next: icf train composed --data set/AVSS" in capsys.readouterr().out
    assert not any(record.complete for record in read_all(Path("set/AVSS")))
    monkeypatch.setattr("icf_avs.training.trainer.embed_names", random_names)
    monkeypatch.setitem(RECIPES, "composed", two_steps("composed"))
    assert main(["train", "composed", "--data", "set/AVSS", "--out", "run"]) == 0
    assert main(["evaluate", "run/composed.safetensors", "--data", "set", "--out", "s.csv"]) == 0
    assert {"strict", "classes-argmax", "classes-masked"} <= {row["protocol"] for row in read_table("s.csv")}


def test_unusable_recordings_are_skipped(request_of: Request, material: Path, tmp_path: Path):
    shutil.copytree(material / "ESC-50", tmp_path / "ESC-50")
    silent, *more = sorted((tmp_path / "ESC-50/audio").glob("dog-*"))
    request = replace(request_of, sounds=tmp_path / "ESC-50/meta/esc50.csv", counts=(("train", 8),))
    write_wav(silent, np.zeros(16_000, np.int16))
    assert compose(request, tmp_path / "out")["unusable recordings"] in ([], [silent.name])
    for path in more:
        path.write_bytes(b"no sound")
    with pytest.raises(UserError, match="recordings of dog cannot be used"):
        compose(request, tmp_path / "none")


def test_assign_splits():
    rng = np.random.default_rng(0)
    items = {f"p{i}": {f"k{j}" for j in rng.choice(6, rng.integers(1, 4), replace=False)} for i in range(200)}
    items |= {f"r{i}": {"rare"} for i in range(3)} | {"lonely": {"one"}}
    dealt = assign_splits(items, ("train", "val", "test"), seed=0)
    assert dealt == assign_splits(dict(reversed(items.items())), ("train", "val", "test"), seed=0)
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


def mask_of_another_size(root: Path) -> dict:
    Image.new("L", (9, 9), 255).save(next((root / "photos/masks").rglob("*.png")))
    return {"pictures": root / "photos", "images": None, "mapping": None}


SPOILT = [
    (lambda r: (r.parent / "out/AVSS").mkdir(parents=True), "was not written by"),
    (lambda r: {"pictures": r / "same.csv"}, "is not an annotation file in COCO's format"),
    (lambda r: {"images": r / "coco"}, "is missing; name the folder"),
    (mask_of_another_size, "is 9x9, its image 320x240"),
    (lambda r: {"audio": r / "coco"}, "name the folder of the sounds with --audio-dir"),
    (lambda r: next((r / "ESC-50/audio").glob("*-2.*")).unlink(), "is missing; add it or take the line out"),
    (lambda r: (r / "same.csv").write_text("picture,sound\ndog,dogs\n"), "line 2: no sound class 'dogs'"),
    (lambda r: (r / "same.csv").write_text("picture,sound\nlamb,cow\ndog,cow\n"), "cow belongs to lamb and to dog"),
    (lambda r: {"mapping": None, "sounds": r / "clocks"}, "no class of the images .* --mapping"),
    (lambda r: {"mapping": None, "sounds": r / "few"}, "left for the split val; .* --val 0"),
]


@pytest.mark.parametrize(("spoil", "line"), SPOILT)
def test_faulty_material_is_refused(spoil: Callable, line: str, request_of: Request, material: Path, tmp_path: Path):
    root = tmp_path / "material"
    shutil.copytree(material, root)
    for folder in ("clocks/clock", "few/dog"):
        (root / folder).mkdir(parents=True)
        shutil.copy(next((root / "ESC-50/audio").glob("dog-*")), root / folder)
    moved = {name: root / getattr(request_of, name).relative_to(material)
             for name in ("pictures", "sounds", "images", "mapping")}  # fmt: skip
    changes = spoil(root)
    with pytest.raises(UserError, match=line):
        compose(replace(request_of, **moved | (changes if isinstance(changes, dict) else {})), tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.*"))


WIDTH, HEIGHT = 160, 120
SQUARE = [20, 10, 60, 10, 60, 50, 20, 50]


def write(folder: Path, annotations: list[Any], tag: int = 1, size=None, shape=(HEIGHT, WIDTH)) -> Path:
    """Write p.jpg, displayed with a red SQUARE but stored in EXIF orientation `tag`, and a.json beside it."""
    picture = np.full((*shape, 3), 90, np.uint8)
    picture[10:50, 20:60] = 255, 0, 0
    for turn in (lambda image: image, *(partial(Image.Image.transpose, method=each) for each in Image.Transpose)):
        stored = turn(Image.fromarray(picture))
        stored.getexif()[0x0112] = tag
        if np.array_equal(ImageOps.exif_transpose(stored), picture):
            break
    stored.save(folder / "p.jpg", exif=stored.getexif(), quality=95)
    width, height = size or shape[::-1]
    images = [{"id": 1, "file_name": "p.jpg", "width": width, "height": height}]
    document = {"images": images, "categories": [{"id": 1, "name": "dog"}], "annotations": annotations}
    (folder / "a.json").write_text(json.dumps(document))
    return folder / "a.json"


def dog(segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation} | more


def red(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture).astype(int)
    return (pixels[..., 0] > 170) & (pixels[..., 1] < 90)


def overlap(path: Path) -> tuple[float, tuple[int, int], CocoImages]:
    """IoU of the mask with the red pixels, size of the image, and what was read."""
    pictures = CocoImages(path, path.parent)
    image, masks = pictures.load(pictures.images[0])
    return (masks["dog"] & red(image)).sum() / (masks["dog"] | red(image)).sum(), image.size, pictures


@pytest.mark.parametrize("tag", range(1, 9))
def test_annotations_apply_to_images_as_displayed(tag: int, tmp_path: Path):
    """Polygons, of which empty ones do not matter, and run lengths; also where the stored size is the same."""
    marked = np.zeros((WIDTH, WIDTH), np.uint8, order="F")
    marked[10:50, 20:60] = 1
    code = run_lengths.encode(marked)
    runs = {"size": code["size"], "counts": code["counts"].decode()}
    for shape, outline in (((HEIGHT, WIDTH), [SQUARE, [20, 10], [30, 30, 40, 40]]), (marked.shape, runs)):
        share, size, _ = overlap(write(tmp_path, [dog(outline)], tag, shape=shape))
        assert share > 0.97 and size == shape[::-1]


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_annotations_of_the_stored_size_apply_to_images_as_stored(tag: int, tmp_path: Path):
    write(tmp_path, [], tag)
    stored = red(Image.open(tmp_path / "p.jpg"))
    (top, left), (bottom, right) = np.argwhere(stored).min(0).tolist(), (np.argwhere(stored).max(0) + 1).tolist()
    outline = dog([[left, top, right, top, right, bottom, left, bottom]])
    share, size, pictures = overlap(write(tmp_path, [outline], tag, (HEIGHT, WIDTH)))
    assert share > 0.97 and size == (WIDTH, HEIGHT), "upright, as it is shown"
    assert "1 photographs are annotated as stored" in pictures.notes[0]
    with pytest.raises(UserError, match=r"is 160x120, in a\.json 80x60"):
        overlap(write(tmp_path, [dog([SQUARE])], tag, (80, 60)))


def runs(*counts: Any) -> dict[str, Any]:
    return dog({"size": [HEIGHT, WIDTH], "counts": [*counts]})


BROKEN = {
    "a flat list": dog(SQUARE), "a line": dog([[20, 10, 60, 50]]), "no points": dog([[]]),
    "an odd number": dog([SQUARE[:7]]), "not a number": dog([[20, 10, 60, float("nan"), 60, 50]]),
    "huge": dog([[20, 10, 1e12, 10, 60, 50]]), "words": dog([["20", 10, 60, 10, 60, 50]]), "a number": dog(7),
    "truth": dog([[True, 10, 60, 10, 60, 50]]), "outside": dog([[-60, -50, -20, -50, -20, -10]]),
    "no segmentation": dog(None),
    "run lengths of another size": dog({"size": [60, 80], "counts": [0, 4800]}),
    "run lengths that end early": runs(0, 5), "negative run lengths": runs(19205, -5),
    "huge run lengths": runs(10**400, 5), "run lengths of nothing": runs(19200),
    "text that is none": dog({"size": [HEIGHT, WIDTH], "counts": "~~~~\u20ac"}),
    "no counts": dog({"size": [HEIGHT, WIDTH]}), "an unknown category": dog([SQUARE], category_id=99),
    "a list for a number": dog([SQUARE], image_id=[1], category_id={}), "no object": "dog",
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_annotation_is_left_out_and_counted(case: str, tmp_path: Path):
    share, _, pictures = overlap(write(tmp_path, [BROKEN[case], dog([SQUARE])]))
    assert share > 0.97 and pictures.left_out.total() == 1
    assert pictures.notes[0].startswith("1 annotations are broken")
    with pytest.raises(UserError, match="none of its annotations can be used: 1 with"):
        overlap(write(tmp_path, [BROKEN[case]]))
