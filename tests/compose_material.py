"""Images with masks and recordings by class on disk, in common layouts: COCO, folders, ESC-50."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from avsbench_fixtures import write_picture, write_table
from PIL import Image
from pycocotools import mask as run_lengths

from icf_avs.synthetic.catalog import Catalog

SIZE = 320, 240


def write_material(root: Path, catalog: Catalog, pictures: dict[str, str], sounds: dict[str, str]) -> None:
    """Write twelve images of two objects each as coco/, their first objects also as photos/; as ESC-50/ recordings, of
    which each is there in two files.

    pictures, sounds: class names to write, by class of the catalog.
    """
    kinds, rng = list(pictures), np.random.default_rng(0)
    images, annotations = [], []
    for number in range(12):
        image = Image.fromarray(rng.integers(0, 90, (*SIZE[::-1], 3), np.uint8))
        for place in range(2):
            kind = kinds[(number + place) % len(kinds)]
            stems = catalog.sound_class(kind).stems
            animal = Image.open(catalog.image_path(stems[number % len(stems)])).convert("RGBA").resize((120, 120))
            left, top = 20 + 160 * place, 60
            image.paste(animal, (left, top), animal)
            mask = np.zeros(SIZE[::-1], np.uint8)
            mask[top : top + 120, left : left + 120] = np.asarray(animal.getchannel("A")) > 127
            code = run_lengths.encode(np.asfortranarray(mask))
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 10 + kinds.index(kind),
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                "area": int(mask.sum()), "bbox": [left, top, 120, 120], "iscrowd": 0,
            })  # fmt: skip
            if place == 0:
                write_picture(root / f"photos/images/{kind}/{number}.png", np.asarray(image))
                write_picture(root / f"photos/masks/{kind}/{number}.png", mask * np.uint8(255))
        (root / "coco/val2017").mkdir(parents=True, exist_ok=True)
        image.save(root / f"coco/val2017/{number:012d}.jpg")
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": SIZE[0], "height": SIZE[1]})
    names = {10 + i: pictures[kind] for i, kind in enumerate(kinds)} | {99: "chair"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    (root / "coco/annotations").mkdir()
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco/annotations/instances_val2017.json").write_text(json.dumps(document))

    (root / "ESC-50/audio").mkdir(parents=True)
    rows = []
    for kind, category in sounds.items():
        known = catalog.sound_class(kind)
        for number, reference in enumerate((*known.recordings, *known.cross_recordings)[:3]):
            for part in "ab":
                name = f"{kind}-{number}{part}{Path(reference.rsplit(':', 1)[-1]).suffix or '.ogg'}"
                (root / "ESC-50/audio" / name).write_bytes(catalog.read_recording(reference))
                rows.append((name, category, f"{kind}-{number}"))
    write_table(root / "ESC-50/meta/esc50.csv", "filename,category,src_file", rows)
