"""Pictures of an annotation file in COCO's format. What is broken in it is left out and counted."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from icf_avs.compose.annotations import checked, is_number, marked
from icf_avs.compose.pictures import SMALLEST, Picture, opened
from icf_avs.errors import UserError

_ORIENTATION = 0x0112  # of EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_SIDEWAYS = 5  # from this one on width and height change places


class CocoPictures:
    """It is taken to annotate everything of its categories, as COCO does, and photographs as they are shown: turned as
    their EXIF says. Where an image's width and height are those of the stored picture, that one is annotated, and both
    are turned. `left_out` counts the annotations that are broken, by what is wrong with them.
    """

    complete = True

    def __init__(self, path: Path, images: Path) -> None:
        self.root, self._where = images, path
        self.left_out: Counter[str] = Counter()
        self._stored: set[Path] = set()
        try:
            document = json.loads(path.read_bytes())
            if lacking := [part for part in ("images", "categories", "annotations") if not document.get(part)]:
                raise ValueError(f"no {', '.join(lacking)}")
            self._images = {image["id"]: image for image in document["images"] if _is_image(image)}
            names = {part["id"]: str(part["name"]) for part in document["categories"] if _has(part, "id", "name")}
            annotations = list(document["annotations"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path}: is no annotation file in COCO's format ({type(error).__name__}: {error}); it has lists of "
                "images, categories and annotations with a segmentation"
            ) from error
        self._outlines: dict[Any, list[tuple[str, Any]]] = defaultdict(list)
        self.pictures = self._found(annotations, names)
        if annotations and self.left_out.total() == len(annotations):
            raise UserError(f"{path}: none of its annotations can be used: {self.broken}; masks are needed")

    @property
    def broken(self) -> str:
        """What was left out, in words."""
        return ", ".join(f"{count} with {what}" for what, count in self.left_out.most_common())

    @property
    def notes(self) -> list[str]:
        """What is to be said of the pictures that were read."""
        notes = [f"{self.left_out.total()} annotations are broken and were left out: {self.broken}"]
        stored = (
            f"{len(self._stored)} photographs are annotated as stored, not as shown (by their EXIF), and were turned"
        )
        return notes * bool(self.left_out) + [stored] * bool(self._stored)

    def _found(self, annotations: list[Any], names: dict[Any, str]) -> list[Picture]:
        areas: dict[Any, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for annotation in annotations:
            image, kind = (
                _of(annotation, key, known) for key, known in (("image_id", self._images), ("category_id", names))
            )
            if image is None or kind is None:
                what = "image" if image is None else "category"
                self.left_out[f"an unknown {what}" if isinstance(annotation, dict) else "no fields"] += 1
                continue
            whole = image["width"] * image["height"]
            here = areas[image["id"]]
            here[kind] += 0.0  # it is in the picture, wherever it may be
            try:
                outline = checked(annotation.get("segmentation"), image["height"], image["width"])
            except ValueError as error:
                self.left_out[str(error)] += 1
                continue
            area = annotation.get("area")
            here[kind] += area if is_number(area) and area >= 0 else whole
            self._outlines[image["id"]].append((kind, outline))
        found = []
        for number, image in self._images.items():
            here, least = areas[number], SMALLEST * image["width"] * image["height"]
            outlined = {kind for kind, _ in self._outlines[number]}
            large = frozenset(kind for kind, area in here.items() if area >= least and kind in outlined)
            if large:
                found.append(Picture(self.root / image["file_name"], large, frozenset(here), number))
        return found

    def load(self, picture: Picture) -> tuple[Image.Image, dict[str, np.ndarray]]:
        """As `Pictures`. Raises UserError for a picture of another size than the file says."""
        stored = opened(picture.path)
        turn = stored.getexif().get(_ORIENTATION, 1)
        facts = self._images[picture.source]
        size = facts["width"], facts["height"]
        shown = stored.size[::-1] if turn in _UPRIGHT and turn >= _SIDEWAYS else stored.size
        if size not in (shown, stored.size):
            raise UserError(
                f"{picture.path}: is {shown[0]}x{shown[1]}, in {self._where.name} {size[0]}x{size[1]}; use the "
                "pictures that were annotated"
            )
        masks = {kind: np.zeros(size[::-1], bool) for kind in picture.onscreen}
        for kind, outline in self._outlines[picture.source]:
            masks[kind] |= marked(outline, size[1], size[0])
        image = stored.convert("RGB")
        if turn in _UPRIGHT:
            image = image.transpose(_UPRIGHT[turn])
            if size != shown:
                self._stored.add(picture.path)
                masks = {
                    kind: np.asarray(Image.fromarray(mask.view(np.uint8)).transpose(_UPRIGHT[turn])).astype(bool)
                    for kind, mask in masks.items()
                }
        return image, masks


def _has(part: Any, *keys: str) -> bool:
    return isinstance(part, dict) and all(isinstance(part.get(key), int | str) for key in keys)


def _is_image(image: Any) -> bool:
    sizes = ("width", "height")
    return (
        _has(image, "id", "file_name", *sizes)
        and isinstance(image["file_name"], str)
        and all(isinstance(image[size], int) and image[size] > 0 for size in sizes)
    )


def _of(annotation: Any, key: str, known: dict[Any, Any]) -> Any:
    """What an annotation refers to by `key`, or None."""
    number = annotation.get(key) if isinstance(annotation, dict) else None
    return known.get(number) if isinstance(number, int | str) else None
