"""`icf data compose`: write a set from images and recordings to disk, completely or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icf_avs.atomic_io import replaced_folder
from icf_avs.console import counted, table_console
from icf_avs.datasets.clip_files import (
    semantic_uid,
    write_avss_clip,
    write_avss_tables,
    write_scenes_table,
    write_table,
)
from icf_avs.datasets.image_io import CLASSES
from icf_avs.datasets.jobs import in_threads
from icf_avs.datasets.layouts import SPLITS
from icf_avs.errors import UserError
from icf_avs.synthetic.compose.clips import Scene, render_clip, sample_scenes
from icf_avs.synthetic.compose.images import find_images
from icf_avs.synthetic.compose.material import find_recordings, match_classes, normalize, split_material

SET = "AVSS"  # folder of the set below OUT, as `icf evaluate --data OUT` finds it
RECORD = "composed.json"  # lists what the set was made of


@dataclass(frozen=True)
class Request:
    """Arguments of the command. counts: clips by split; sources: most classes that may sound in a clip."""

    pictures: Path
    sounds: Path
    images: Path | None = None
    audio: Path | None = None
    mapping: Path | None = None
    counts: tuple[tuple[str, int], ...] = (("train", 1000), ("val", 100), ("test", 100))
    sources: int = 2
    seed: int = 0


def compose(request: Request, out: Path) -> dict[str, Any]:
    """Write the set into out/AVSS, with a progress bar; returns the content of composed.json.

    The files depend on the request and the material alone. Raises UserError for unusable material or an `out` that
    holds something else.
    """
    folder = out / SET
    if folder.exists() and not (folder / RECORD).is_file():
        raise UserError(f"{folder}: exists and was not written by `icf data compose`; choose another --out")
    counts = {split: count for split, count in request.counts if count}
    if not counts:
        raise UserError("no clip is asked for; give --train, --val or --test a number above 0")
    images = find_images(request.pictures, request.images)
    recordings = find_recordings(request.sounds, request.audio)
    labels = {label for image in images.images for label in image.classes}
    matched = match_classes(labels, {recording.label for recording in recordings}, request.mapping)
    names = {label: normalize(label) for label in labels if normalize(label) in matched.values()}
    classes = sorted(set(matched.values()))
    if len(classes) >= CLASSES:
        raise UserError(f"{len(classes)} classes match, more than {CLASSES - 1}; leave some out with --mapping")
    ids = {name: number for number, name in enumerate(classes, 1)}
    material = split_material(images.images, recordings, matched, names, counts, request.seed)
    scenes = [
        scene
        for split, count in counts.items()
        for scene in sample_scenes(material[split], split, count, request.sources, request.seed)
    ]
    unusable: set[str] = set()
    with replaced_folder(folder) as new:

        def write(scene: Scene) -> tuple[tuple[str, ...], dict[str, Any]]:
            """Write a clip. Returns the names of its recordings, and its row of the tables."""
            clip = render_clip(scene, images, names, ids, unusable)
            write_avss_clip(new / "v1m" / semantic_uid(scene.uid), clip.frames, clip.ids, clip.samples)
            sounding = [source.name for source in scene.sources]
            digits = ["".join(str(int(on)) for on in row) for row in clip.active]
            return clip.recordings, {
                "name": scene.uid, "split": scene.split, "part": "v1m", "sounding": sounding,
                "onscreen": {names[label] for label in scene.image.onscreen if label in names},
                "stamps": [("picture", *source) for source in zip(sounding, digits, strict=True)],
            }  # fmt: skip

        written = list(in_threads(write, scenes, "composing clips"))
        rows = [row for _, row in written]
        write_avss_tables(new, rows, classes)
        if images.complete:
            write_scenes_table(new, rows)
        sources = [
            (semantic_uid(scene.uid), scene.split, os.path.relpath(scene.image.path, images.root), ";".join(used))
            for scene, (used, _) in zip(scenes, written, strict=True)
        ]
        write_table(new / "sources.csv", ("uid", "split", "picture", "sounds"), sources)
        clips = Counter((source.name, scene.split) for scene in scenes for source in scene.sources)
        facts = {
            "seed": request.seed,
            "sources": request.sources,
            "clips": dict(Counter(scene.split for scene in scenes)),
            "classes": {name: {split: clips[name, split] for split in SPLITS} for name in classes},
            "sounds of a class": {
                name: sorted(label for label in matched if matched[label] == name) for name in classes
            },
            "unusable recordings": sorted(unusable),
            "notes": images.notes,
        }
        (new / RECORD).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def compose_command(request: Request, out: Path) -> None:
    """Compose a set and print a summary."""
    from rich.table import Table

    facts = compose(request, out)
    table = Table("class", "sounds", *SPLITS, title="clips in which a class sounds")
    for name, counts in facts["classes"].items():
        table.add_row(name, ", ".join(facts["sounds of a class"][name]), *map(str, counts.values()))
    table_console().print(table)
    if facts["unusable recordings"]:
        some = facts["unusable recordings"]
        print(f"passed over as silent or unreadable: {counted(len(some), 'recording')}: {', '.join(some[:5])}")
    for note in facts["notes"]:
        print(note)
    print(f"the set is in {out / SET}\nnext: icf train composed --data {out / SET}")
