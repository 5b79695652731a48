"""Recordings with a class each: a folder a class, or a CSV table of them as ESC-50 has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icf_avs.avsbench.metadata import read_table
from icf_avs.errors import UserError

ENDINGS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".mkv"}


@dataclass(frozen=True)
class Recording:
    """kind: in the source's own spelling; name: as told to people; origin: of what it is a part, "" where not known."""

    path: Path
    kind: str
    name: str
    origin: str = ""


def find_sounds(path: Path, audio: Path | None = None) -> list[Recording]:
    """Recordings of a folder (path/CLASS/NAME.wav) or of a table with the columns filename and category.

    audio  the folder of the files of a table; None: the table's, or audio/ beside that, as in ESC-50. Where the table
    has a column src_file (ESC-50: the recording that a file was cut from), it is the origin. Raises UserError.
    """
    if path.is_dir():
        if audio is not None:
            raise UserError(f"--audio {audio}: goes with a table; {path} is a folder, which holds its sounds")
        files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in ENDINGS)
        if not files:
            raise UserError(f"{path}: no sound in a folder of it; want CLASS/NAME.wav, or name a CSV table of them")
        return [Recording(file, file.parent.name, f"{file.parent.name}/{file.name}") for file in files]
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; name a folder of sounds by class, or a CSV table of them")
    rows = read_table(path, ("filename", "category"))
    if not rows:
        raise UserError(f"{path}: lists no sound; want a line for each, with filename and category")
    places = [audio] if audio is not None else [path.parent, path.parent.parent / "audio"]
    root = next((place for place in places if (place / rows[0]["filename"]).is_file()), None)
    if root is None:
        where = " or ".join(map(str, places))
        raise UserError(f"{path}: {rows[0]['filename']} is not in {where}; name the folder of the sounds with --audio")
    found = []
    for number, row in enumerate(rows, 2):
        if not row["category"]:
            raise UserError(f"{path}, line {number}: no category; fill it in")
        if not (root / row["filename"]).is_file():
            raise UserError(f"{path}, line {number}: {root / row['filename']} is missing; add it or take the line out")
        found.append(Recording(root / row["filename"], row["category"], row["filename"], row.get("src_file", "")))
    return found
