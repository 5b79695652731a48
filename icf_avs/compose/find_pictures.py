"""Pictures with masks, of whichever source a path names."""

from __future__ import annotations

from pathlib import Path

from icf_avs.compose.coco import CocoPictures
from icf_avs.compose.pictures import FolderPictures, Pictures
from icf_avs.errors import UserError


def find_pictures(path: Path, images: Path | None) -> Pictures:
    """Those of a COCO file (`images`: the folder of its pictures, None: that of the file) or of a folder by class.

    Raises UserError for anything that is neither.
    """
    if path.is_dir():
        if images is not None:
            raise UserError(f"--images {images}: goes with a COCO file; {path} is a folder, which holds its pictures")
        return FolderPictures(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file or folder; name a COCO annotation file, or a folder with images/, masks/"
        )
    return CocoPictures(path, images or path.parent)
