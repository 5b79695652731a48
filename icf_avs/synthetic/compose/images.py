"""Images with a mask for each class in them: of a COCO annotation file, or of folders by class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from icf_avs.errors import UserError
from icf_avs.media.local_url import check_no_pipe
from icf_avs.media.still_image import upright

SMALLEST = 0.005  # share of the image from which on an object can be what sounds
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
Masks = dict[str, np.ndarray]  # bool [H, W] by class


@dataclass(frozen=True)
class AnnotatedImage:
    """classes: those large enough to sound, in the source's own spelling; onscreen: all that are in it; key: how its
    source finds it.
    """

    path: Path
    classes: frozenset[str]
    onscreen: frozenset[str]
    key: Any


class ImageSource(Protocol):
    """root: file names are reported relative to it; complete: whether everything of these classes is annotated; notes:
    lines to report about the images that were read.
    """

    root: Path
    complete: bool
    notes: list[str]
    images: list[AnnotatedImage]

    def load(self, image: AnnotatedImage) -> tuple[Image.Image, Masks]:
        """The image (RGB) and its masks. Raises UserError if a file is missing or broken."""


class FolderImages:
    """DIR/images/CLASS/NAME.jpg with DIR/masks/CLASS/NAME.png, in which all but 0 is the class. What else is in an
    image is unknown.
    """

    complete = False
    notes: ClassVar[list[str]] = []

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "images").is_dir() or not (root / "masks").is_dir():
            raise UserError(f"{root}: want images/CLASS/NAME.jpg and masks/CLASS/NAME.png in it, or name a COCO file")
        self.images = []
        for path in sorted(path for path in (root / "images").glob("*/*") if path.suffix.lower() in ENDINGS):
            mask = root / "masks" / path.parent.name / f"{path.stem}.png"
            if not mask.is_file():
                raise UserError(f"{path}: has no mask {mask}; add it, or take the picture out")
            name = frozenset({path.parent.name})
            self.images.append(AnnotatedImage(path, name, name, mask))
        if not self.images:
            raise UserError(f"{root / 'images'}: no picture in a folder of it; want images/CLASS/NAME.jpg")

    def load(self, image: AnnotatedImage) -> tuple[Image.Image, Masks]:
        shown = upright(read_image(image.path))  # as it was shown to who drew the mask
        stored = read_image(image.key)
        mask = np.asarray(stored.convert("RGB") if stored.mode in ("LA", "PA", "RGBA") else stored)  # without alpha
        mask = mask.reshape(*mask.shape[:2], -1).any(-1)
        if mask.shape != shown.size[::-1]:
            raise UserError(
                f"{image.key}: is {mask.shape[1]}x{mask.shape[0]}, its picture {shown.width}x{shown.height}; "
                "masks are as large as their pictures"
            )
        return shown, dict.fromkeys(image.classes, mask)


def read_image(path: Path) -> Image.Image:
    """The image, read to its end. Raises UserError where it is missing or broken."""
    check_no_pipe(path)
    try:
        image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError:
        raise UserError(f"{path} is missing; name the folder of the pictures with --images") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {path}: {error}; copy it again or remove it") from error
