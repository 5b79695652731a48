"""Images with a mask for each class in them: of a COCO annotation file, or of folders by class.

Broken annotations are left out and counted: pycocotools reads a line of two points as a box, and accesses memory out of
bounds for broken run lengths.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from icf_avs.datasets.image_io import open_image
from icf_avs.errors import UserError
from icf_avs.mask_rle import check_run_lengths
from icf_avs.media.images import upright_rgb

SMALLEST = 0.005  # minimum share of the image of an object that can sound
_MISSING = "name the folder of the images with --images"
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
Masks = dict[str, np.ndarray]  # bool [H, W] by class
_ORIENTATION = 0x0112  # of EXIF; values 5 to 8 swap width and height
_MAX_COORDINATE_RATIO = 16  # limit of coordinates, in sizes of the image: memory grows with them


@dataclass(frozen=True)
class AnnotatedImage:
    """classes: those large enough to sound, in the source's spelling; onscreen: all that are in it; key: identifies the
    image in its source.
    """

    path: Path
    classes: frozenset[str]
    onscreen: frozenset[str]
    key: Any


class FolderImages:
    """DIR/images/CLASS/NAME.jpg with DIR/masks/CLASS/NAME.png, in which all but 0 is the class. Other content of an
    image is unknown.
    """

    complete = False  # True if everything of these classes is annotated
    notes: ClassVar[list[str]] = []  # lines to report about the images that were read

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "images").is_dir() or not (root / "masks").is_dir():
            raise UserError(f"{root}: want images/CLASS/NAME.jpg and masks/CLASS/NAME.png in it, or name a COCO file")
        self.images = []
        for path in sorted(path for path in (root / "images").glob("*/*") if path.suffix.lower() in ENDINGS):
            mask = root / "masks" / path.parent.name / f"{path.stem}.png"
            if not mask.is_file():
                raise UserError(f"{path}: has no mask {mask}; add it, or take the image out")
            name = frozenset({path.parent.name})
            self.images.append(AnnotatedImage(path, name, name, mask))
        if not self.images:
            raise UserError(f"{root / 'images'}: no image in a folder of it; want images/CLASS/NAME.jpg")

    def load(self, image: AnnotatedImage) -> tuple[Image.Image, Masks]:
        """Return the image (RGB) and its masks. Raises UserError if a file is missing or broken."""
        shown = upright_rgb(open_image(image.path, missing=_MISSING))  # turned by EXIF, as the annotator saw it
        stored = open_image(image.key, missing=_MISSING)
        mask = np.asarray(stored.convert("RGB") if stored.mode in ("LA", "PA", "RGBA") else stored)  # without alpha
        mask = mask.reshape(*mask.shape[:2], -1).any(-1)
        if mask.shape != shown.size[::-1]:
            raise UserError(
                f"{image.key}: is {mask.shape[1]}x{mask.shape[0]}, its image {shown.width}x{shown.height}; "
                "masks are as large as their images"
            )
        return shown, dict.fromkeys(image.classes, mask)


class CocoImages:
    """Images of a COCO file. It is assumed to annotate everything of its categories, as COCO does, and photographs as
    displayed: rotated by their EXIF. If the file gives the width and height of the stored image, the stored image is
    annotated, and both are rotated. `left_out` counts broken annotations by what is wrong with them.
    """

    complete = True

    def __init__(self, path: Path, root: Path) -> None:
        self.root, self._path = root, path
        self.left_out: Counter[str] = Counter()
        self._turned: set[Path] = set()
        self._outlines: dict[Any, list[tuple[str, dict]]] = defaultdict(list)  # class and run lengths, by image
        self._onscreen: dict[Any, set[str]] = defaultdict(set)
        try:
            document = json.loads(path.read_bytes())
            if lacking := [part for part in ("images", "categories", "annotations") if not document.get(part)]:
                raise ValueError(f"no {', '.join(lacking)}")
            self._image_entries = {image["id"]: image for image in document["images"] if _is_image(image)}
            names = {part["id"]: str(part["name"]) for part in document["categories"] if _has(part, "id", "name")}
            annotations = list(document["annotations"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path}: is not an annotation file in COCO's format ({type(error).__name__}: {error}); it has lists "
                "of images, categories and annotations with a segmentation"
            ) from error
        for annotation in annotations:
            try:
                self._add(annotation, names)
            except ValueError as error:
                self.left_out[str(error)] += 1
        if self.left_out.total() == len(annotations):
            raise UserError(f"{path}: none of its annotations can be used: {self._broken}; masks are needed")
        self.images = []
        for key, entry in self._image_entries.items():
            areas: Counter[str] = Counter()
            for name, outline in self._outlines[key]:
                areas[name] += int(coco_mask.area(outline))
            least = SMALLEST * entry["width"] * entry["height"]
            if large := frozenset(name for name, area in areas.items() if area >= least):
                onscreen = frozenset(self._onscreen[key])
                self.images.append(AnnotatedImage(root / entry["file_name"], large, onscreen, key))

    @property
    def _broken(self) -> str:
        return ", ".join(f"{count} with {what}" for what, count in self.left_out.most_common())

    @property
    def notes(self) -> list[str]:
        """Lines to report: annotations left out, photographs rotated."""
        notes = [f"{self.left_out.total()} annotations are broken and were left out: {self._broken}"]
        turned = (
            f"{len(self._turned)} photographs are annotated as stored, not as shown (by their EXIF), and were turned"
        )
        return notes * bool(self.left_out) + [turned] * bool(self._turned)

    def _add(self, annotation: Any, names: dict[Any, str]) -> None:
        """Add an annotation. Raises ValueError, which says what is wrong with it."""
        if not isinstance(annotation, dict):
            raise ValueError("no fields")
        entry, name = (_find(annotation, *of) for of in (("image_id", self._image_entries), ("category_id", names)))
        if entry is None or name is None:
            raise ValueError(f"an unknown {'image' if entry is None else 'category'}")
        self._onscreen[entry["id"]].add(name)  # even if its outline is broken
        outline = read_outline(annotation.get("segmentation"), entry["height"], entry["width"])
        self._outlines[entry["id"]].append((name, outline))

    def load(self, image: AnnotatedImage) -> tuple[Image.Image, Masks]:
        """See `FolderImages.load`. Also raises UserError for an image of another size than in the file."""
        stored, entry = open_image(image.path, missing=_MISSING), self._image_entries[image.key]
        turn, size = stored.getexif().get(_ORIENTATION, 1), (entry["width"], entry["height"])
        shown = stored.size[::-1] if turn in range(5, 9) else stored.size
        if size not in (shown, stored.size):
            raise UserError(
                f"{image.path}: is {shown[0]}x{shown[1]}, in {self._path.name} {size[0]}x{size[1]}; use the "
                "images that were annotated"
            )
        masks = {name: np.zeros(size[::-1], bool) for name in image.onscreen}
        for name, outline in self._outlines[image.key]:
            masks[name] |= coco_mask.decode(outline).astype(bool)
        if size != shown:
            self._turned.add(image.path)
            masks = {name: _turn_mask(mask, turn) for name, mask in masks.items()}
        return ImageOps.exif_transpose(stored).convert("RGB"), masks


ImageSource = FolderImages | CocoImages


def find_images(path: Path, images: Path | None) -> ImageSource:
    """Return the images of a COCO file (`images`: their folder, None: that of the file) or of a folder by class.

    Raises UserError for anything else.
    """
    if path.is_file():
        return CocoImages(path, images or path.parent)
    if not path.is_dir():
        raise UserError(
            f"{path}: no such file or folder; name a COCO annotation file, or a folder with images/, masks/"
        )
    if images is not None:
        raise UserError(f"--images {images}: goes with a COCO file; {path} is a folder, which holds its images")
    return FolderImages(path)


def _turn_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(mask.view(np.uint8))
    image.getexif()[_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image)).astype(bool)


def _has(part: Any, *keys: str) -> bool:
    return isinstance(part, dict) and all(isinstance(part.get(key), int | str) for key in keys)


def _is_image(entry: Any) -> bool:
    return (
        _has(entry, "id", "file_name")
        and isinstance(entry["file_name"], str)
        and all(isinstance(entry.get(size), int) and entry[size] > 0 for size in ("width", "height"))
    )


def _find(annotation: dict, key: str, known: dict[Any, Any]) -> Any:
    """Return the entry that an annotation refers to by `key`, or None."""
    return known.get(annotation.get(key)) if isinstance(annotation.get(key), int | str) else None


def read_outline(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Polygons or run lengths -> run lengths of pycocotools. Raises ValueError, which says what is wrong."""
    if not segmentation:
        raise ValueError("no segmentation, only a box")
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError("run lengths of another size than the image")
        outline = {"size": size, "counts": counts}
        if isinstance(counts, str):
            check_run_lengths(outline, height, width)
        else:
            whole = isinstance(counts, list) and all(isinstance(run, int) and run >= 0 for run in counts)
            if not whole or sum(counts) != height * width:
                raise ValueError("broken run lengths")
            outline = coco_mask.frPyObjects(outline, height, width)
    elif isinstance(segmentation, list) and all(isinstance(polygon, list) for polygon in segmentation):
        farthest = _MAX_COORDINATE_RATIO * max(height, width)
        for polygon in segmentation:
            numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in polygon)
            if len(polygon) % 2 or not numbers or not all(abs(value) <= farthest for value in polygon):
                raise ValueError("a polygon that is not a list of pairs of numbers, or is far outside the image")
        polygons = [polygon for polygon in segmentation if len(polygon) > 4]  # not a point or a line
        outline = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width) if polygons else [])
    else:
        raise ValueError("a segmentation that is not a list of polygons")
    if not coco_mask.area(outline):
        raise ValueError("a segmentation that covers no pixel of the image")
    return outline
