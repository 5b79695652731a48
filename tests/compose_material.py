"""Pictures with masks and recordings by class on disk, in the forms that people have them: COCO, folders, ESC-50."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from icf_avs.synthetic.catalog import Catalog

SIZE = 320, 240


def cut_out(catalog: Catalog, kind: str, number: int) -> Image.Image:
    stems = [stem for stem in catalog.sound_class(kind).stems if catalog.image_path(stem).is_file()]
    return Image.open(catalog.image_path(stems[number % len(stems)])).convert("RGBA").resize((120, 120))


def write_material(root: Path, catalog: Catalog, pictures: dict[str, str], sounds: dict[str, str]) -> None:
    """Twelve photographs of two things each as coco/, the first of them also as folders photos/; recordings as ESC-50/.

    pictures, sounds: names of the classes there, by kind of the catalog.
    """
    kinds = list(pictures)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(12):
        image = Image.fromarray(rng.integers(0, 90, (*SIZE[::-1], 3), np.uint8))
        for place in range(2):
            kind = kinds[(number + place) % len(kinds)]
            animal = cut_out(catalog, kind, number)
            at = 20 + 160 * place, 60
            image.paste(animal, at, animal)
            mask = np.zeros(SIZE[::-1], np.uint8)
            mask[at[1] : at[1] + 120, at[0] : at[0] + 120] = np.asarray(animal.getchannel("A")) > 127
            code = run_lengths.encode(np.asfortranarray(mask))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 10 + kinds.index(kind),
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "area": int(mask.sum()),
                    "bbox": [*at, 120, 120],
                    "iscrowd": 0,
                }
            )
            if place == 0:
                for folder, picture in (("images", image), ("masks", Image.fromarray(mask * 255))):
                    path = root / "photos" / folder / kind / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
        (root / "coco/val2017").mkdir(parents=True, exist_ok=True)
        image.save(root / f"coco/val2017/{number:012d}.jpg")
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": SIZE[0], "height": SIZE[1]})
    categories = [{"id": 10 + i, "name": pictures[kind]} for i, kind in enumerate(kinds)] + [
        {"id": 99, "name": "chair"}
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco/annotations").mkdir()
    (root / "coco/annotations/instances_val2017.json").write_text(json.dumps(document))

    (root / "ESC-50/audio").mkdir(parents=True)
    (root / "ESC-50/meta").mkdir()
    rows = []
    for kind, category in sounds.items():
        known = catalog.sound_class(kind)
        for reference in (*known.recordings, *known.cross_recordings)[:3]:
            name = f"{kind}-{len(rows)}{Path(reference.rsplit(':', 1)[-1]).suffix or '.ogg'}"
            name = name if "." in name else f"{name}.ogg"
            (root / "ESC-50/audio" / name).write_bytes(catalog.read_recording(reference))
            rows.append((name, category, f"src{len(rows)}"))
    with (root / "ESC-50/meta/esc50.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "category", "src_file"), *rows])
