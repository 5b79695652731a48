"""`icf data compose`: from images and recordings to a set on disk, whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from icf_avs.atomic_io import replaced_folder
from icf_avs.console import counted, progress_console, table_console
from icf_avs.datasets.clip_files import AVSS_COLUMNS, semantic_uid, write_avss_clip, write_table
from icf_avs.datasets.image_io import CLASSES
from icf_avs.errors import UserError
from icf_avs.synthetic.compose.clips import SPLITS, Clip, Material, Scene, render_clip, sample_scenes
from icf_avs.synthetic.compose.images import ImageSource, find_images
from icf_avs.synthetic.compose.source_clips import (
    Recording,
    assign_splits,
    content_keys,
    find_recordings,
    match_classes,
    normalize,
)

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


def compose(request: Request, out: Path) -> dict[str, object]:
    """Write the set into out/AVSS, with a progress bar; returns what composed.json says of it.

    The files are a function of the request and the material. Raises UserError for unusable material or an `out` that
    holds something else.
    """
    from rich.progress import Progress

    folder = out / SET
    if folder.exists() and not (folder / RECORD).is_file():
        raise UserError(f"{folder}: exists and was not written by `icf data compose`; choose another --out")
    if not any(count for _, count in request.counts):
        raise UserError("no clip is asked for; give --train, --val or --test a number above 0")
    images = find_images(request.pictures, request.images)
    recordings = find_recordings(request.sounds, request.audio)
    labels = {label for image in images.images for label in image.classes}
    matched = match_classes(labels, {recording.label for recording in recordings}, request.mapping)
    names = {label: normalize(label) for label in labels if normalize(label) in matched.values()}
    classes = sorted(set(matched.values()))
    if len(classes) >= CLASSES:
        raise UserError(f"{len(classes)} classes match, more than {CLASSES - 1}; leave some out with --mapping")
    ids = {name: number for number, name in enumerate(("background", *classes))}
    material = _split_material(request, images, recordings, matched, names)
    scenes = [
        scene
        for split, count in request.counts
        for scene in sample_scenes(material[split], split, count, request.sources, request.seed)
    ]
    unusable: set[str] = set()
    with replaced_folder(folder) as new:
        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
        try:

            def write(scene: Scene) -> tuple[str, list[str]]:
                clip = render_clip(scene, images, names, ids, unusable)
                write_avss_clip(new / "v1m" / semantic_uid(scene.uid), clip.frames, clip.ids, clip.samples)
                return ";".join(clip.recordings), _digits(clip)

            with Progress(console=progress_console()) as bar:
                written = list(bar.track(pool.map(write, scenes), len(scenes), description="composing clips"))
        finally:
            pool.shutdown(cancel_futures=True)
        (new / "label2idx.json").write_text(json.dumps(ids, indent=1) + "\n", encoding="utf-8")
        _write_tables(new, scenes, written, images, names)
        facts = _facts(request, scenes, classes, matched, sorted(unusable), images.notes)
        (new / RECORD).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def _digits(clip: Clip) -> list[str]:
    """For each source a digit a second, 1 where it sounds."""
    return ["".join(str(int(on)) for on in row) for row in clip.active]


def _split_material(
    request: Request,
    images: ImageSource,
    recordings: Sequence[Recording],
    matched: Mapping[str, str],
    names: Mapping[str, str],
) -> dict[str, Material]:
    """The material of each split. An image or a recording is in one split only."""
    splits = [split for split, count in request.counts if count]
    shown = [image for image in images.images if image.classes & set(names)]
    missing = next((image.path for image in shown if not image.path.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing} is missing; name the folder of the images with --images")
    usable = [recording for recording in recordings if recording.label in matched]
    image_keys = content_keys(image.path for image in shown)
    files = content_keys(recording.path for recording in usable)
    keys = {recording: recording.origin or files[recording.path] for recording in usable}
    of_image: dict[str, set[str]] = defaultdict(set)
    for image in shown:
        of_image[image_keys[image.path]] |= {names[label] for label in image.classes if label in names}
    of_recording: dict[str, set[str]] = defaultdict(set)
    for recording in usable:
        of_recording[keys[recording]].add(matched[recording.label])
    image_splits, recording_splits = (assign_splits(of, splits, request.seed) for of in (of_image, of_recording))
    found = {}
    for split in SPLITS:
        by_class: dict[str, list[Recording]] = defaultdict(list)
        for recording in usable:
            if recording_splits[keys[recording]] == split:
                by_class[matched[recording.label]].append(recording)
        here = [image for image in shown if image_splits[image_keys[image.path]] == split]
        found[split] = Material(here, dict(by_class), names)
    return found


def _write_tables(
    folder: Path,
    scenes: Sequence[Scene],
    written: Sequence[tuple[str, list[str]]],
    images: ImageSource,
    names: Mapping[str, str],
) -> None:
    """metadata.csv as AVSS has it; sources.csv: of what a clip was made; scenes.csv where everything is annotated."""
    metadata, sources, shown = [], [], []
    for scene, (recordings, digits) in zip(scenes, written, strict=True):
        uid, classes = semantic_uid(scene.uid), [source.name for source in scene.sources]
        metadata.append((scene.uid, uid, 0, 0, "_".join(classes), scene.split, "v1m"))
        sources.append((uid, scene.split, os.path.relpath(scene.image.path, images.root), recordings))
        onscreen = sorted({names[label] for label in scene.image.onscreen if label in names})
        parts = ";".join(f"picture|{name}|{row}" for name, row in zip(classes, digits, strict=True))
        shown.append((uid, scene.split, " ".join(sorted(classes)), " ".join(onscreen), parts))
    write_table(folder / "metadata.csv", AVSS_COLUMNS, metadata)
    write_table(folder / "sources.csv", ("uid", "split", "picture", "sounds"), sources)
    if images.complete:
        write_table(folder / "scenes.csv", ("video_id", "split", "sounding", "onscreen", "stamps"), shown)


def _facts(
    request: Request, scenes: Sequence[Scene], classes: list[str], matched: Mapping[str, str], unusable: list[str],
    notes: list[str],
) -> dict[str, object]:  # fmt: skip
    clips = Counter((source.name, scene.split) for scene in scenes for source in scene.sources)
    return {
        "seed": request.seed,
        "sources": request.sources,
        "clips": dict(Counter(scene.split for scene in scenes)),
        "classes": {name: {split: clips[name, split] for split in SPLITS} for name in classes},
        "sounds of a class": {name: sorted(label for label in matched if matched[label] == name) for name in classes},
        "unusable recordings": unusable,
        "notes": notes,
    }


def compose_command(request: Request, out: Path) -> None:
    """Compose, and say what came of it."""
    from rich.table import Table

    facts = compose(request, out)
    table = Table(title="clips in which a class sounds")
    for heading in ("class", "sounds", *SPLITS):
        table.add_column(heading)
    for name, counts in facts["classes"].items():
        table.add_row(name, ", ".join(facts["sounds of a class"][name]), *map(str, counts.values()))
    table_console().print(table)
    if facts["unusable recordings"]:
        some = facts["unusable recordings"]
        print(f"passed over as silent or unreadable: {counted(len(some), 'recording')}: {', '.join(some[:5])}")
    for note in facts["notes"]:
        print(note)
    print(f"the set is in {out / SET}\nnext: icf train composed --data {out / SET}")
