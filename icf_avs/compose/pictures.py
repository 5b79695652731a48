"""Pictures with a mask for each class in them: of a COCO annotation file (coco.py), or of folders by class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from icf_avs.data.local_url import check_no_pipe
from icf_avs.data.still import upright
from icf_avs.errors import UserError

SMALLEST = 0.005  # share of the picture from which on a thing can be what sounds
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class Picture:
    """kinds: classes in the source's own spelling that are large enough to sound; onscreen: all that are in it; source:
    what its pictures know it by.
    """

    path: Path
    kinds: frozenset[str]
    onscreen: frozenset[str]
    source: Any


class Pictures(Protocol):
    """root: names of files are told relative to it; complete: whether everything of these classes is annotated; notes:
    what is to be said of those that were read.
    """

    root: Path
    complete: bool
    notes: list[str]
    pictures: list[Picture]

    def load(self, picture: Picture) -> tuple[Image.Image, dict[str, np.ndarray]]:
        """The picture (RGB) and bool [H, W] of each class in it. Raises UserError if a file is missing or broken."""


class FolderPictures:
    """DIR/images/CLASS/NAME.jpg with DIR/masks/CLASS/NAME.png, in which all but 0 is the class.

    What else is in a picture nobody knows.
    """

    complete = False
    notes: ClassVar[list[str]] = []

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "images").is_dir() or not (root / "masks").is_dir():
            raise UserError(f"{root}: want images/CLASS/NAME.jpg and masks/CLASS/NAME.png in it, or name a COCO file")
        paths = sorted(path for path in (root / "images").glob("*/*") if path.suffix.lower() in ENDINGS)
        self.pictures = []
        for path in paths:
            mask = root / "masks" / path.parent.name / f"{path.stem}.png"
            if not mask.is_file():
                raise UserError(f"{path}: has no mask {mask}; add it, or take the picture out")
            kind = frozenset({path.parent.name})
            self.pictures.append(Picture(path, kind, kind, mask))
        if not paths:
            raise UserError(f"{root / 'images'}: no picture in a folder of it; want images/CLASS/NAME.jpg")

    def load(self, picture: Picture) -> tuple[Image.Image, dict[str, np.ndarray]]:
        image = upright(opened(picture.path))  # as it was shown to who drew the mask
        shown = opened(picture.source)
        mask = np.asarray(shown.convert("RGB") if shown.mode in ("LA", "PA", "RGBA") else shown)  # alpha says nothing
        mask = mask.reshape(*mask.shape[:2], -1).any(-1)
        if mask.shape != image.size[::-1]:
            raise UserError(
                f"{picture.source}: is {mask.shape[1]}x{mask.shape[0]}, its picture {image.width}x{image.height}; "
                "masks are as large as their pictures"
            )
        return image, dict.fromkeys(picture.kinds, mask)


def opened(path: Path) -> Image.Image:
    """The picture, read to its end. Raises UserError where it is missing or broken."""
    check_no_pipe(path)
    try:
        image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError:
        raise UserError(f"{path} is missing; name the folder of the pictures with --images") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {path}: {error}; copy it again or take it out") from error
