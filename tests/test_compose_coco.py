"""COCO files with EXIF-rotated images and broken annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from avsbench_fixtures import tone, write_wav
from PIL import Image, ImageOps

from icf_avs.__main__ import main
from icf_avs.errors import UserError
from icf_avs.synthetic.compose.images import CocoImages

WIDTH, HEIGHT = 160, 120
SQUARE = [20, 10, 60, 10, 60, 50, 20, 50]


def write(folder: Path, annotations: list[Any], tag: int = 1, size=None, shape=(HEIGHT, WIDTH)) -> Path:
    """Write p.jpg, displayed with a red SQUARE but stored in EXIF orientation `tag`, and a.json beside it."""
    picture = np.full((*shape, 3), 90, np.uint8)
    picture[10:50, 20:60] = 255, 0, 0
    for turn in (None, *Image.Transpose):
        stored = Image.fromarray(picture)
        stored = stored if turn is None else stored.transpose(turn)
        stored.getexif()[0x0112] = tag
        if np.array_equal(ImageOps.exif_transpose(stored), picture):
            break
    stored.save(folder / "p.jpg", exif=stored.getexif(), quality=95)
    width, height = size or shape[::-1]
    document = {
        "images": [{"id": 1, "file_name": "p.jpg", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": annotations,
    }
    (folder / "a.json").write_text(json.dumps(document))
    return folder / "a.json"


def dog(segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 1, "area": 1600, "iscrowd": 0, "segmentation": segmentation} | more


def red(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture).astype(int)
    return (pixels[..., 0] > 170) & (pixels[..., 1] < 90)


def overlap(path: Path) -> tuple[float, tuple[int, int], CocoImages]:
    """IoU of the mask with the red pixels, size of the image, and what was read."""
    pictures = CocoImages(path, path.parent)
    image, masks = pictures.load(pictures.images[0])
    return (masks["dog"] & red(image)).sum() / (masks["dog"] | red(image)).sum(), image.size, pictures


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (WIDTH, WIDTH)], ids=["oblong", "square"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_annotations_apply_to_images_as_displayed(tag: int, shape: tuple[int, int], tmp_path: Path):
    share, size, _ = overlap(write(tmp_path, [dog([SQUARE])], tag, shape=shape))
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


def test_another_size_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"is 160x120, in a\.json 80x60"):
        overlap(write(tmp_path, [dog([SQUARE])], tag=6, size=(80, 60)))


BROKEN = {
    "a flat list": dog(SQUARE), "a point": dog([[20, 10]]), "a line": dog([[20, 10, 60, 50]]),
    "a line of three points": dog([[20, 10, 40, 30, 60, 50]]), "no points": dog([[]]), "no polygons": dog([]),
    "an odd number": dog([[20, 10, 60, 10, 60, 50, 20]]), "not a number": dog([[20, 10, 60, float("nan"), 60, 50]]),
    "infinite": dog([[20, 10, 60, float("inf"), 60, 50]]), "huge": dog([[20, 10, 1e12, 10, 60, 50]]),
    "words": dog([["20", 10, 60, 10, 60, 50]]), "a word": dog("20 10 60 10"), "a number": dog(7),
    "truth": dog([[True, 10, 60, 10, 60, 50]]), "outside": dog([[-60, -50, -20, -50, -20, -10]]),
    "no segmentation": {"id": 1, "image_id": 1, "category_id": 1},
    "run lengths of another size": dog({"size": [60, 80], "counts": [0, 4800]}),
    "run lengths without a size": dog({"counts": [0, 19200]}),
    "run lengths that end early": dog({"size": [HEIGHT, WIDTH], "counts": [0, 5]}),
    "run lengths that go on": dog({"size": [HEIGHT, WIDTH], "counts": [0, 19200, 5, 10**9]}),
    "negative run lengths": dog({"size": [HEIGHT, WIDTH], "counts": [19205, -5]}),
    "huge run lengths": dog({"size": [HEIGHT, WIDTH], "counts": [10**400, 5]}),
    "run lengths of nothing": dog({"size": [HEIGHT, WIDTH], "counts": [19200]}),
    "text that is none": dog({"size": [HEIGHT, WIDTH], "counts": "~~~~\u20ac"}),
    "text that ends early": dog({"size": [HEIGHT, WIDTH], "counts": "PPPPPPPPPPPPPPPPPPPP"}),
    "no counts": dog({"size": [HEIGHT, WIDTH]}), "an unknown picture": dog([SQUARE], image_id=99),
    "an unknown category": dog([SQUARE], category_id=99),
    "a list for a number": dog([SQUARE], image_id=[1], category_id={}),
    "no category": {"id": 1, "image_id": 1, "segmentation": [SQUARE]}, "no object": "dog", "nothing": None,
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_annotation_is_left_out_and_counted(case: str, tmp_path: Path):
    share, _, pictures = overlap(write(tmp_path, [BROKEN[case], dog([SQUARE])]))
    assert share > 0.97
    assert pictures.left_out.total() == 1 and pictures.notes[0].startswith("1 annotations are broken")
    with pytest.raises(UserError, match="none of its annotations can be used: 1 with") as error:
        overlap(write(tmp_path, [BROKEN[case]]))
    assert "\n" not in str(error.value)


def test_odd_but_clear_annotations_are_kept(tmp_path: Path):
    for odd in (
        dog([SQUARE, [20, 10], [30, 30, 40, 40]]),  # empty parts
        dog([SQUARE], area="large"),
        {key: value for key, value in dog([SQUARE]).items() if key not in ("id", "area")},
        dog([[-30, 10, 60, 10, 60, 50, -30, 50]], image_id=1),  # partly outside the image
    ):
        _, _, pictures = overlap(write(tmp_path, [odd]))
        _, masks = pictures.load(pictures.images[0])
        assert masks["dog"][12:48, 22:58].all() and not masks["dog"][:, 62:].any() and not pictures.notes


def test_the_command_reports_left_out_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, [dog([SQUARE]), *BROKEN.values()])
    write_wav(tmp_path / "sounds/dog/a.wav", tone(1, 1.0))
    line = ["--pictures", str(path), "--sounds", str(tmp_path / "sounds"), "--out", str(tmp_path / "out")]
    assert main(["data", "compose", *line, "--train", "2", "--val", "0", "--test", "0"]) == 0
    said = f"{len(BROKEN)} annotations are broken and were left out"
    assert said in capsys.readouterr().out.replace("\n", " ")
    assert said in json.loads((tmp_path / "out/AVSS/composed.json").read_text())["notes"][0]
