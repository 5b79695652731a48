"""`icf data compose`: from pictures and sounds to a set on disk, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from icf_avs.atomic_io import replaced_folder
from icf_avs.avsbench.pictures import CLASSES
from icf_avs.compose.find_pictures import find_pictures
from icf_avs.compose.matching import match_classes, plain
from icf_avs.compose.pictures import Pictures
from icf_avs.compose.rendering import Rendered, render
from icf_avs.compose.scenes import SPLITS, Material, Scene, plan
from icf_avs.compose.sounds import Recording, find_sounds
from icf_avs.compose.splits import deal, identities
from icf_avs.errors import UserError
from icf_avs.stamps.clip_files import write_wav

SET = "AVSS"  # folder of the set below OUT, as `icf evaluate --data OUT` finds it
RECORD = "composed.json"  # says what it was made of


@dataclass(frozen=True)
class Request:
    """Arguments of the command. counts: clips by split; sources: most classes that sound in a clip."""

    pictures: Path
    sounds: Path
    images: Path | None = None
    audio: Path | None = None
    mapping: Path | None = None
    counts: tuple[tuple[str, int], ...] = (("train", 1000), ("val", 100), ("test", 100))
    sources: int = 2
    seed: int = 0


class Heard(NamedTuple):
    """Names of the recordings of a clip's sources, and a digit a second of each, 1 where it sounds."""

    recordings: tuple[str, ...]
    digits: list[str]


def compose(request: Request, out: Path) -> dict[str, object]:
    """Write the set into out/AVSS, with a progress bar; returns what composed.json says of it.

    The files are a function of the request and the material. Raises UserError for unusable material or an `out` that
    holds something else.
    """
    from rich.console import Console
    from rich.progress import Progress

    folder = out / SET
    if folder.exists() and not (folder / RECORD).is_file():
        raise UserError(f"{folder}: is there and was not written by `icf data compose`; choose another --out")
    if not any(count for _, count in request.counts):
        raise UserError("no clip is asked for; give --train, --val or --test a number above 0")
    pictures = find_pictures(request.pictures, request.images)
    recordings = find_sounds(request.sounds, request.audio)
    spelt = {kind for picture in pictures.pictures for kind in picture.kinds}
    matched = match_classes(spelt, {recording.kind for recording in recordings}, request.mapping)
    kinds_of = {kind: plain(kind) for kind in spelt if plain(kind) in matched.values()}
    names = sorted(set(matched.values()))
    if len(names) >= CLASSES:
        raise UserError(f"{len(names)} classes match, more than {CLASSES - 1}; leave some out with --mapping")
    ids = {name: number for number, name in enumerate(("background", *names))}
    material = _dealt(request, pictures, recordings, matched, kinds_of)
    scenes = [
        scene
        for split, count in request.counts
        for scene in plan(material[split], split, count, request.sources, request.seed)
    ]
    unusable: set[str] = set()
    with replaced_folder(folder) as new:
        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
        try:

            def write(scene: Scene) -> Heard:
                clip = render(scene, pictures, kinds_of, ids, unusable)
                _write_clip(new / "v1m" / _uid(scene), clip)
                return Heard(clip.recordings, ["".join(str(int(on)) for on in row) for row in clip.active])

            with Progress(console=Console(stderr=True)) as bar:
                done = list(bar.track(pool.map(write, scenes), len(scenes), description="composing clips"))
        finally:
            pool.shutdown(cancel_futures=True)
        (new / "label2idx.json").write_text(json.dumps(ids, indent=1) + "\n", encoding="utf-8")
        _write_tables(new, scenes, done, pictures, kinds_of)
        facts = _facts(request, scenes, names, matched, sorted(unusable), pictures.notes)
        (new / RECORD).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def _dealt(
    request: Request,
    pictures: Pictures,
    recordings: Sequence[Recording],
    matched: Mapping[str, str],
    kinds_of: Mapping[str, str],
) -> dict[str, Material]:
    """The material of each split that is asked for."""
    splits = [split for split, count in request.counts if count]
    used = [picture for picture in pictures.pictures if picture.kinds & set(kinds_of)]
    missing = next((picture.path for picture in used if not picture.path.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing} is missing; name the folder of the pictures with --images")
    heard = [recording for recording in recordings if recording.kind in matched]
    seen_keys = identities(picture.path for picture in used)
    files = identities(recording.path for recording in heard)
    heard_keys = {recording: recording.origin or files[recording.path] for recording in heard}
    seen: dict[str, set[str]] = defaultdict(set)
    for picture in used:
        seen[seen_keys[picture.path]] |= {kinds_of[kind] for kind in picture.kinds if kind in kinds_of}
    said: dict[str, set[str]] = defaultdict(set)
    for recording in heard:
        said[heard_keys[recording]].add(matched[recording.kind])
    split_of, split_said = deal(seen, splits, request.seed), deal(said, splits, request.seed)
    found = {}
    for split in SPLITS:
        by_kind: dict[str, list[Recording]] = defaultdict(list)
        for recording in heard:
            if split_said[heard_keys[recording]] == split:
                by_kind[matched[recording.kind]].append(recording)
        mine = [picture for picture in used if split_of[seen_keys[picture.path]] == split]
        found[split] = Material(mine, dict(by_kind), kinds_of)
    return found


def _uid(scene: Scene) -> str:
    return f"{scene.name}_0_5000"


def _write_clip(folder: Path, clip: Rendered) -> None:
    for name in ("frames", "labels_semantic"):
        (folder / name).mkdir(parents=True)
    for second, (frame, ids) in enumerate(zip(clip.frames, clip.ids, strict=True)):
        frame.save(folder / "frames" / f"{second}.jpg", quality=92)
        ids.save(folder / "labels_semantic" / f"{second}.png")
    write_wav(folder / "audio.wav", clip.samples)


def _write_tables(
    folder: Path, scenes: Sequence[Scene], done: Sequence[Heard], pictures: Pictures, kinds_of: Mapping[str, str]
) -> None:
    """metadata.csv as AVSS has it; sources.csv: of what a clip was made; scenes.csv where everything is annotated."""
    metadata, sources, shown = [], [], []
    for scene, heard in zip(scenes, done, strict=True):
        kinds = [source.kind for source in scene.sources]
        metadata.append((scene.name, _uid(scene), 0, 0, "_".join(kinds), scene.split, "v1m"))
        name = os.path.relpath(scene.picture.path, pictures.root)
        sources.append((_uid(scene), scene.split, name, ";".join(heard.recordings)))
        onscreen = sorted({kinds_of[kind] for kind in scene.picture.onscreen if kind in kinds_of})
        stamps = ";".join(f"picture|{kind}|{row}" for kind, row in zip(kinds, heard.digits, strict=True))
        shown.append((_uid(scene), scene.split, " ".join(sorted(kinds)), " ".join(onscreen), stamps))
    _write_table(folder / "metadata.csv", ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"), metadata)
    _write_table(folder / "sources.csv", ("uid", "split", "picture", "sounds"), sources)
    if pictures.complete:
        _write_table(folder / "scenes.csv", ("video_id", "split", "sounding", "onscreen", "stamps"), shown)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _facts(
    request: Request, scenes: Sequence[Scene], names: list[str], matched: Mapping[str, str], unusable: list[str],
    notes: list[str],
) -> dict[str, object]:  # fmt: skip
    clips = Counter((source.kind, scene.split) for scene in scenes for source in scene.sources)
    return {
        "seed": request.seed,
        "sources": request.sources,
        "clips": dict(Counter(scene.split for scene in scenes)),
        "classes": {name: {split: clips[name, split] for split in SPLITS} for name in names},
        "sounds of a class": {name: sorted(kind for kind in matched if matched[kind] == name) for name in names},
        "unusable recordings": unusable,
        "notes": notes,
    }


def compose_command(request: Request, out: Path) -> None:
    """Compose, and say what came of it."""
    from rich.console import Console
    from rich.table import Table

    facts = compose(request, out)
    table = Table(title="clips in which a class sounds")
    for heading in ("class", "sounds", *SPLITS):
        table.add_column(heading)
    for name, counts in facts["classes"].items():
        table.add_row(name, ", ".join(facts["sounds of a class"][name]), *map(str, counts.values()))
    Console().print(table)
    if facts["unusable recordings"]:
        some = facts["unusable recordings"]
        print(f"{len(some)} recordings are silent or cannot be read and were passed over: {', '.join(some[:5])}")
    for note in facts["notes"]:
        print(note)
    print(f"the set is in {out / SET}\nnext: icf train composed --data {out / SET}")
