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
from avsbench_fixtures import read_files, read_table, write_wav
from compose_material import write_material
from PIL import Image, ImageOps
from pycocotools import mask as run_lengths

from icf_avs.__main__ import main
from icf_avs.datasets.check import check_command
from icf_avs.datasets.layouts import class_names, is_stamps, read_all
from icf_avs.errors import UserError
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.compose.command import Request, compose
from icf_avs.synthetic.compose.images import CocoImages
from icf_avs.synthetic.compose.material import assign_splits, content_keys

KINDS = ("dog", "horse", "cow", "sheep")
COUNTS = (("train", 3), ("val", 1), ("test", 2))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Path:
    """Four animals, one renamed, one capitalised."""
    root = tmp_path_factory.mktemp("material")
    kinds = dict(zip(KINDS, KINDS, strict=True))
    write_material(root, catalog, kinds | {"cow": "Cow", "sheep": "lamb"}, kinds)
    (root / "same.csv").write_text("picture,sound\nlamb,sheep\nCow,cow\n")
    return root


def request(root: Path, **changes: Any) -> Request:
    annotations, sounds = root / "coco/annotations/instances_val2017.json", root / "ESC-50/meta/esc50.csv"
    given = Request(annotations, sounds, root / "coco/val2017", mapping=root / "same.csv", counts=COUNTS, seed=3)
    return replace(given, **changes)


@pytest.fixture(scope="module")
def composed(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("composed") / "out"
    compose(request(material), out)
    return out


def test_the_composed_set_is_complete(composed: Path, capsys: pytest.CaptureFixture[str]):
    """The masks of a second have its sounding classes; there is audio exactly when a class sounds."""
    assert check_command(composed) == 0, capsys.readouterr().out
    root = composed / "AVSS"
    assert class_names(root) == ("cow", "dog", "horse", "lamb") and not is_stamps(root)
    records, names, empty = read_all(root), ("background", *class_names(root)), 0
    assert [(split, sum(record.split == split for record in records)) for split, _ in COUNTS] == [*COUNTS]
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
    assert any("b." in row["sounds"] for row in rows)


def test_the_output_depends_only_on_the_seed(material: Path, composed: Path, tmp_path: Path):
    compose(request(material), tmp_path / "again")
    assert read_files(tmp_path / "again") == read_files(composed)
    compose(request(material, seed=4), tmp_path / "again")
    assert read_files(tmp_path / "again") != read_files(composed)


def test_folders_of_images_and_sounds(material: Path, tmp_path: Path, monkeypatch, capsys):
    """Other content of their images is unknown."""
    monkeypatch.chdir(tmp_path)
    for path in (material / "ESC-50/audio").iterdir():
        folder = Path("sounds", path.name.split("-")[0])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    line = f"data compose --pictures {material}/photos --sounds sounds --out set --train 1 --val 0 --test 1"
    assert main(line.split()) == 0
    assert "next: icf train composed --data set/AVSS" in capsys.readouterr().out
    assert [record.complete for record in read_all(Path("set/AVSS"))] == [False, False]


def test_unusable_recordings_are_skipped(material: Path, tmp_path: Path):
    shutil.copytree(material / "ESC-50", tmp_path / "ESC-50")
    silent, *more = sorted((tmp_path / "ESC-50/audio").glob("dog-*"))
    given = request(material, sounds=tmp_path / "ESC-50/meta/esc50.csv", counts=(("train", 8),))
    write_wav(silent, np.zeros(16_000, np.int16))
    assert compose(given, tmp_path / "out")["unusable recordings"] in ([], [silent.name])
    for path in more:
        path.write_bytes(b"no sound")
    with pytest.raises(UserError, match="recordings of dog cannot be used"):
        compose(given, tmp_path / "none")


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


def sounds_of(root: Path, kind: str) -> dict:
    (root / "own" / kind).mkdir(parents=True)
    shutil.copy(next((root / "ESC-50/audio").glob("dog-*")), root / "own" / kind)
    return {"mapping": None, "sounds": root / "own"}


SPOILT = [
    (lambda r: (r.parent / "out/AVSS").mkdir(parents=True), "was not written by"),
    (lambda r: {"pictures": r / "same.csv"}, "is not an annotation file in COCO's format"),
    (lambda r: {"images": r / "coco"}, "is missing; name the folder"),
    (mask_of_another_size, "is 9x9, its image 320x240"),
    (lambda r: {"audio": r / "coco"}, "name the folder of the sounds with --audio-dir"),
    (lambda r: next((r / "ESC-50/audio").glob("*-1a.*")).unlink(), "is missing; add it or take the line out"),
    (lambda r: (r / "same.csv").write_text("picture,sound\ndog,dogs\n"), "line 2: no sound class 'dogs'"),
    (lambda r: (r / "same.csv").write_text("picture,sound\nlamb,cow\ndog,cow\n"), "cow belongs to lamb and to dog"),
    (lambda r: sounds_of(r, "clock"), "no class of the images .* --mapping"),
    (lambda r: sounds_of(r, "dog"), "left for the split val; .* --val 0"),
]


@pytest.mark.parametrize(("spoil", "line"), SPOILT)
def test_faulty_material_is_refused(spoil: Callable, line: str, material: Path, tmp_path: Path):
    root = shutil.copytree(material, tmp_path / "material")
    changes = spoil(root)
    with pytest.raises(UserError, match=line):
        compose(request(root, **changes if isinstance(changes, dict) else {}), tmp_path / "out")
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


OUTLINES = (
    SQUARE, [[20, 10, 60, 50]], [[]], [SQUARE[:7]], [[20, 10, 60, float("nan"), 60, 50]], [[20, 10, 1e12, 10, 60, 50]],
    [["20", 10, 60, 10, 60, 50]], [[True, 10, 60, 10, 60, 50]], [[-60, -50, -20, -50, -20, -10]], 7, None,
    {"size": [60, 80], "counts": [0, 4800]}, {"size": [HEIGHT, WIDTH]},
)  # fmt: skip
COUNTS_OF_RUNS = ([0, 5], [19205, -5], [10**400, 5], [19200], "~~~~\u20ac")
BROKEN = [
    *map(dog, OUTLINES), *(dog({"size": [HEIGHT, WIDTH], "counts": counts}) for counts in COUNTS_OF_RUNS),
    dog([SQUARE], category_id=99), dog([SQUARE], image_id=[1], category_id={}), "dog",
]  # fmt: skip


def test_broken_annotations_are_left_out_and_counted(tmp_path: Path):
    share, _, pictures = overlap(write(tmp_path, [*BROKEN, dog([SQUARE])]))
    assert share > 0.97 and pictures.left_out.total() == len(BROKEN)
    assert pictures.notes[0].startswith(f"{len(BROKEN)} annotations are broken")
    with pytest.raises(UserError, match=r"none of its annotations can be used: \d+ with"):
        overlap(write(tmp_path, BROKEN))
