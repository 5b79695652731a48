"""Material of composed clips: recordings with one class each, the match of sound and image classes, and the splits."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from icf_avs.datasets.metadata import check_columns, read_table
from icf_avs.errors import UserError
from icf_avs.synthetic.compose.images import AnnotatedImage

ENDINGS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".webm", ".mkv"}
SHARES = {"val": 0.1, "test": 0.1, "train": 0.8}


@dataclass(frozen=True)
class Recording:
    """label: its class in the source's spelling; name: as reported; origin: what it was cut from, "" if unknown."""

    path: Path
    label: str
    name: str
    origin: str = ""


@dataclass(frozen=True)
class Material:
    """The images and recordings of one split. names: of the set's classes, by the images' spelling."""

    images: Sequence[AnnotatedImage]
    recordings: Mapping[str, Sequence[Recording]]  # by class of the set
    names: Mapping[str, str]

    def sounding(self, image: AnnotatedImage) -> list[str]:
        """Return the classes of an image that can sound, in alphabetical order."""
        return sorted({self.names[label] for label in image.classes if label in self.names} & set(self.recordings))

    @cached_property
    def by_class(self) -> dict[str, list[AnnotatedImage]]:
        """The images in which a class can sound, by class."""
        found: dict[str, list[AnnotatedImage]] = defaultdict(list)
        for image in self.images:
            for name in self.sounding(image):
                found[name].append(image)
        return dict(sorted(found.items()))


def find_recordings(path: Path, audio: Path | None = None) -> list[Recording]:
    """Return the recordings of a folder (path/CLASS/NAME.wav) or of a table with the columns filename and category.

    audio  folder of the table's files; None: that of the table, or audio/ beside that folder, as in ESC-50. A column
    src_file (ESC-50: the recording that a file was cut from) gives the origin. Raises UserError.
    """
    if path.is_dir():
        if audio is not None:
            raise UserError(f"--audio-dir {audio}: goes with a table; {path} is a folder, which holds its sounds")
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
        raise UserError(
            f"{path}: {rows[0]['filename']} is not in {where}; name the folder of the sounds with --audio-dir"
        )
    for number, row in enumerate(rows, 2):
        if not row["category"]:
            raise UserError(f"{path}, line {number}: no category; fill it in")
        if not (root / row["filename"]).is_file():
            raise UserError(f"{path}, line {number}: {root / row['filename']} is missing; add it or take the line out")
    return [Recording(root / r["filename"], r["category"], r["filename"], r.get("src_file", "")) for r in rows]


def normalize(name: str) -> str:
    """Return the name of a class in the set: "Fire_truck" -> "fire-truck". AVSS tables join names by "_"."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")


def match_classes(images: Collection[str], sounds: Collection[str], mapping: Path | None = None) -> dict[str, str]:
    """Map sound classes to names of the set's classes, for the sounds that match an image class.

    mapping  CSV table with the columns picture and sound, which overrides equal names; an empty picture leaves the
    sound out. Several sounds may belong to one image class, but not the other way: in an image with both, the answer
    would be ambiguous. Raises UserError for that, for names that do not exist, and if nothing matches.
    """
    names = {normalize(name) for name in images} - {""}
    found = {sound: normalize(sound) for sound in sounds if normalize(sound) in names}
    mapped: dict[str, str] = {}
    rows = read_table(mapping, ("picture", "sound")) if mapping else []
    check_columns(mapping, rows, ("picture", "sound"))
    for number, row in enumerate(rows, 2):
        image, sound = row["picture"].strip(), row["sound"].strip()
        for name, known, what in ((image, {*images, ""}, "picture"), (sound, sounds, "sound")):
            if name not in known:
                near = difflib.get_close_matches(name, known, 3, 0.5) or sorted(filter(None, known))[:5]
                raise UserError(
                    f"{mapping}, line {number}: no {what} class {name!r}; there are {', '.join(near)}, ... (spelt so)"
                )
        if mapped.setdefault(sound, normalize(image)) != normalize(image):
            raise UserError(
                f"{mapping}, line {number}: {sound} belongs to {mapped[sound]} and to {image}; in an image with both "
                "it could not be told what sounds, so choose one"
            )
    found = {sound: name for sound, name in (found | mapped).items() if name}
    if not found:
        some = [", ".join(sorted(of)[:5]) + (", ..." if len(of) > 5 else "") for of in (images, sounds)]
        raise UserError(
            f"no class of the images ({some[0]}) has the name of a class of the sounds ({some[1]}); "
            "say which belong together with --mapping, a CSV table with the columns picture and sound"
        )
    return found


def split_material(
    images: Sequence[AnnotatedImage], recordings: Sequence[Recording], matched: Mapping[str, str],
    names: Mapping[str, str], splits: Collection[str], seed: int,
) -> dict[str, Material]:  # fmt: skip
    """Return the material of each split. An image or a recording is in one split only, even if it has two names.

    matched, names: the set's classes of sounds and of images. Raises UserError for an image that is missing.
    """
    shown = [image for image in images if image.classes & set(names)]
    if missing := next((image.path for image in shown if not image.path.is_file()), None):
        raise UserError(f"{missing} is missing; name the folder of the images with --images")
    usable = [recording for recording in recordings if recording.label in matched]
    image_keys = content_keys(image.path for image in shown)
    files = content_keys(recording.path for recording in usable)
    of_image, of_recording = defaultdict(set), defaultdict(set)
    for image in shown:
        of_image[image_keys[image.path]] |= {names[label] for label in image.classes if label in names}
    for recording in usable:
        of_recording[recording.origin or files[recording.path]].add(matched[recording.label])
    image_splits, recording_splits = (assign_splits(of, splits, seed) for of in (of_image, of_recording))
    found = {}
    for split in splits:
        by_class: dict[str, list[Recording]] = defaultdict(list)
        for recording in usable:
            if recording_splits[recording.origin or files[recording.path]] == split:
                by_class[matched[recording.label]].append(recording)
        here = [image for image in shown if image_splits[image_keys[image.path]] == split]
        found[split] = Material(here, dict(by_class), names)
    return found


def content_keys(paths: Iterable[Path]) -> dict[Path, str]:
    """Return a key for each file, the same for files of the same content whatever their names.

    Only files of the same size are read, since equal files have equal sizes.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(set(paths)):
        by_size[path.stat().st_size].append(path)
    found = {}
    for size, same in by_size.items():
        for path in same:
            content = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if len(same) > 1 else path.name
            found[path] = f"{size}-{content}"
    return found


def assign_splits(items: Mapping[str, Collection[str]], splits: Collection[str], seed: int) -> dict[str, str]:
    """Assign a split to each item, deterministically by key and seed. items: the classes of each key.

    The rarest class is assigned first, so that each split gets some of every class that has as many items as there
    are splits. A class with fewer is in one split only, train if that is requested.
    """
    shares = {split: share for split, share in SHARES.items() if split in splits}
    *smaller, largest = shares
    members: dict[str, list[str]] = defaultdict(list)
    for key in sorted(items, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest()):
        for name in items[key]:
            members[name].append(key)
    assigned: dict[str, str] = {}
    for _, keys in sorted(members.items(), key=lambda item: (len(item[1]), item[0])):
        left = [key for key in keys if key not in assigned]
        have = Counter(assigned[key] for key in keys if key in assigned)
        for split in smaller if len(keys) >= len(shares) else ():
            want = max(1, round(len(keys) * shares[split] / sum(shares.values()))) - have[split]
            assigned |= dict.fromkeys(left[: max(want, 0)], split)
            left = left[max(want, 0) :]
        assigned |= dict.fromkeys(left, largest)
    return assigned
