"""All readers of tables, JSON, checkpoints and pickles of unknown origin, with valid inputs for each."""

from __future__ import annotations

import csv
import io
import json
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import icf_avs.checkpoint.serialization
from icf_avs.batch.job import Job, JobSettings
from icf_avs.batch.manifest import read_manifest
from icf_avs.checkpoint.model_card import model_card
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe, save_checkpoint
from icf_avs.config import ModelConfig
from icf_avs.datasets.check import check_set
from icf_avs.datasets.custom_dataset import read_videos
from icf_avs.datasets.image_io import read_mask
from icf_avs.datasets.layouts import class_names, read_all
from icf_avs.datasets.log_mel import read_log_mel
from icf_avs.datasets.metadata import read_labels
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.registry import build_visual
from icf_avs.evaluation.command import ROBUSTNESS
from icf_avs.inference.predictor import Predictor
from icf_avs.mask_rle import encode
from icf_avs.networks.build import build_model
from icf_avs.output.convert import convert
from icf_avs.output.result_file import is_earlier_result
from icf_avs.provenance import Source, sha256_of, short_digest
from icf_avs.score_tables import COLUMNS, DEFAULT_SETTINGS, SCORES, ScoredModel, save_notes
from icf_avs.synthetic.qt_resource import QtResource
from icf_avs.types import ClipSpec
from research import reproduction
from tools.fill_tables import fill

SETTINGS = JobSettings(None, "0" * 64, 1.0, 0.5, False, None)


@dataclass(frozen=True)
class Reader:
    """`read(folder)` reads folder/file, a damaged version of one of `originals`. `beside`: other, undamaged files."""

    name: str
    form: str  # kind of damage: "csv", "json", "checkpoint", "pickle" or "bytes"
    file: str
    originals: tuple[bytes, ...]
    read: Callable[[Path], object]
    beside: dict[str, bytes] = field(default_factory=dict)


def csv_text(*rows: tuple[object, ...]) -> bytes:
    """Return a CSV table as bytes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


_S4 = csv_text(("name", "start", "category", "split"), ("a_1", "0", "dog", "train"), ("b", "3.5", "cat barks", "test"))
_MS3 = csv_text(("video_id", "split"), ("one", "train"), ("two", "test"))
_AVSS = csv_text(
    ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"),
    ("a", "a_1_0_5000", "0", "5", "dog_cat", "test", "v1s"),
    ("b", "b_2_0_10000", "0", "10", "dog_off-the-screen", "train", "v2"),
    ("one", "one", "0", "5", "cat", "train", "v1m"),
)
_SCENES = csv_text(
    ("video_id", "sounding", "onscreen", "stamps"),
    ("one", "dog", "dog cat", "x|dog|11010;y|cat|00000"),
    ("two", "", "cat", ""),
)
_LABELS = json.dumps({"background": 0, "cat": 1, "dog": 2}).encode()
_SCORES = csv_text(
    COLUMNS, ("stamps", "1", "stamps", "stamps", "s4", "true", "strict", "0.5", "0.6", "", "9", "0", "abc")
)


def _read_set(folder: Path) -> None:
    for record in read_all(folder):
        record.sources()
    class_names(folder)
    check_set(folder)


def _set_readers() -> list[Reader]:
    return [
        Reader("S4 table", "csv", "set/s4_meta_data.csv", (_S4,), lambda folder: _read_set(folder / "set")),
        Reader("MS3 table", "csv", "set/ms3_meta_data.csv", (_MS3,), lambda folder: _read_set(folder / "set")),
        Reader(
            "AVSS table", "csv", "avss/metadata.csv", (_AVSS,),
            lambda folder: (_read_set(folder / "avss"), _read_set(folder / "s4")),
            {"avss/label2idx.json": _LABELS, "s4/s4_meta_data.csv": _S4},
        ),
        Reader(
            "scenes table", "csv", "set/scenes.csv", (_SCENES,), lambda folder: _read_set(folder / "set"),
            {"set/ms3_meta_data.csv": _MS3},
        ),
        Reader(
            "AVSS labels", "json", "set/label2idx.json", (_LABELS,),
            lambda folder: (read_labels(folder / "set" / "label2idx.json"), _read_set(folder / "set")),
            {"set/metadata.csv": _AVSS},
        ),
        Reader("mask picture", "bytes", "mask.png", _masks(), lambda folder: read_mask(folder / "mask.png", "AVSS")),
        Reader("log-mel pickle", "pickle", "x.pkl", _pickles(), lambda folder: read_log_mel(folder / "x.pkl", 5)),
    ]  # fmt: skip


def _own_set_readers() -> list[Reader]:
    clips = csv_text(("name", "split", "class"), ("a", "train", "dog;cat"), ("b", "test", "cat"))
    beside = {
        f"own/{name}": b"x" for name in ("videos/a.mp4", "videos/b.mp4", "masks/a/000001.png", "masks/b/000000.png")
    }
    splits = {"own/clips.csv": csv_text(("name", "split"), ("a", "train"), ("b", "test"))}

    def read(folder: Path) -> None:
        read_videos(folder / "own")

    return [
        Reader("own clips", "csv", "own/clips.csv", (clips,), read, beside),
        Reader("own classes", "csv", "own/classes.txt", (b"dog\ncat\n",), read, beside | splits),
    ]


def _masks() -> tuple[bytes, ...]:
    masks = []
    for mode in ("L", "P", "RGB"):
        content = io.BytesIO()
        Image.fromarray(np.eye(24, dtype=np.uint8)).convert(mode).save(content, "PNG")
        masks.append(content.getvalue())
    return tuple(masks)


def _pickles() -> tuple[bytes, ...]:
    tensor = torch.zeros(1, 1, 96, 64)
    return tuple(pickle.dumps(tensor.clone().requires_grad_(), protocol) for protocol in (2, 3, 4))


# Files that the program itself wrote and reads back


def _manifest(folder: Path) -> None:
    for job in read_manifest(folder / "list.csv", folder / "out", SETTINGS):
        job.is_done()


def _done(folder: Path) -> None:
    Job("a.mp4", folder / "a.mp4", folder / "out", SETTINGS).is_done()


def _save_scores(folder: Path) -> None:
    mark = "<!-- results:scores checkpoint=stamps -->\n<!-- /results -->\n"
    fill(mark, folder, folder / "README.md")
    SCORES.save(folder / "scores.csv", [dict(zip(COLUMNS, map(str, range(len(COLUMNS))), strict=True))])


def _save_study(folder: Path) -> None:
    line = dict.fromkeys(reproduction.RUNS.columns, "1") | {"row": "all", "seed": "0"}
    reproduction.RUNS.replace(folder / "study.csv", ("all", "0"), [line])


def _study_row() -> bytes:
    line = dict.fromkeys(reproduction.RUNS.columns, "0.5") | {"row": "baseline", "seed": "1"}
    return csv_text(reproduction.RUNS.columns, tuple(line.values()))


def _save_probe(folder: Path) -> None:
    ROBUSTNESS.read(folder / "probe.csv")


def _segmentations() -> tuple[bytes, ...]:
    masks = [np.pad(np.ones((8, 8), bool), ((i, 8 - i), (4, 4))) for i in range(3)]
    frames = [
        {
            "index": i, "start": float(i), "end": i + 1.0, "picture_time": i + 0.5, "area": 0.25, "score": 0.9,
            "heard": [{"word": "dog", "probability": 0.8}], "segmentation": encode(mask),
        }
        for i, mask in enumerate(masks)
    ]  # fmt: skip
    plain = {
        "version": 1,
        "video": {"file": "a.mp4", "width": 16, "height": 16, "duration": 3.0, "fps": 25.0},
        "source": {"path": "/videos/a.mp4", "bytes": 1, "sha256": "0" * 64},
        "made_with": {"without": [{"part": "the segmenter", "effect": "people are found less reliably"}]},
        "checkpoint": "stamps", "clip": asdict(ClipSpec()), "frames": frames,
    }  # fmt: skip
    classes = [
        {**frame, "classes": [{"category_id": 2, "area": 0.25, "score": 0.9, "segmentation": frame["segmentation"]}]}
        for frame in frames
    ]
    categories = [{"id": 1, "name": "cat", "color": [1, 2, 3]}, {"id": 2, "name": "dog", "color": [4, 5, 6]}]
    return json.dumps(plain).encode(), json.dumps({**plain, "categories": categories, "frames": classes}).encode()


def _convert(folder: Path) -> None:
    is_earlier_result(folder / "a", Source(folder / "a.mp4"))
    for to in ("coco", "srt", "tracks", "palette"):
        convert(folder / "a", to)


def _own_readers() -> list[Reader]:
    record = json.dumps({"version": "0", "video": {"file": "a.mp4", "bytes": 1, "mtime_ns": 2}}).encode()
    manifest = csv_text(("video", "out", "fps", "audio_track"), ("a.mp4", "day/a", "2", ""), ("b, c.mp4", "", "", "1"))
    notes = json.dumps({"stamps s4": {"command": "icf evaluate", "strict": {"true": {"miou": 0.5}}}}).encode()
    study = csv_text(reproduction.RUNS.columns), _study_row()
    probe = csv_text(ROBUSTNESS.columns, ("0",) * len(ROBUSTNESS.columns))
    return [
        Reader("manifest", "csv", "list.csv", (manifest,), _manifest, {"a.mp4": b"x"}),
        Reader("record of a result", "json", "out/made_from.json", (record,), _done, {"a.mp4": b"x"}),
        Reader("scores", "csv", "scores.csv", (_SCORES,), _save_scores),
        Reader(
            "notes on scores", "json", "scores.json", (notes,),
            lambda folder: save_notes(
                folder / "scores.json", ScoredModel("a", "1", "a", "own"), "s4", DEFAULT_SETTINGS, {},
                torch.device("cpu"),
            ),
        ),
        Reader("study table", "csv", "study.csv", study, _save_study),
        Reader("probe table", "csv", "probe.csv", (probe,), _save_probe),
        Reader("segmentation", "json", "a/segmentation.json", _segmentations(), _convert),
        Reader("Qt resources", "bytes", "x.rcc", (_rcc(1), _rcc(3)), lambda dir: dict(QtResource(dir / "x.rcc"))),
    ]  # fmt: skip


def _rcc(version: int) -> bytes:
    """Return a Qt resource file with a folder, a raw and a compressed file."""
    names = [struct.pack(">HI", len(name), 0) + name.encode("utf-16-be") for name in ("folder", "a.txt", "b.bin")]
    at = [0, len(names[0]), len(names[0] + names[1])]
    packed = struct.pack(">I", 700) + zlib.compress(b"packed " * 100)
    contents = [struct.pack(">I", len(content)) + content for content in (b"raw bytes", packed)]
    time = struct.pack(">Q", 0) if version >= 2 else b""
    tree = b"".join([
        struct.pack(">IHII", 0, 2, 1, 1) + time, struct.pack(">IHII", at[0], 2, 2, 2) + time,
        struct.pack(">IHHHI", at[1], 0, 0, 0, 0) + time,
        struct.pack(">IHHHI", at[2], 1, 0, 0, len(contents[0])) + time,
    ])  # fmt: skip
    head = 24 if version >= 3 else 20
    offsets = head, head + len(tree), head + len(tree) + len(b"".join(contents))
    flags = struct.pack(">I", 0) if version >= 3 else b""
    return b"qres" + struct.pack(">IIII", version, *offsets) + flags + tree + b"".join(contents + names)


# Checkpoints


def _checkpoints(scratch: Path) -> tuple[bytes, ...]:
    """Return small checkpoints: the whole method, and the plain baseline with a class head."""
    checkpoints = []
    whole = ModelConfig(("bell", "cat", "dog"), dim=32, pixel_dim=16)
    plain = replace(whole, implicit_text=None, counterfactual=None, contrastive=None, semantic=True)
    for config, names in ((whole, torch.randn(3, 16)), (plain, torch.zeros(3, 1))):
        model = build_model(config, ClipSpec(frames=2, image_size=64), _frozen_visual(), names)
        recipe = {"command": "icf train x", "config": {"seed": 0}, "hardware": {"gpu": None}, "minutes": 1.5}
        save_checkpoint(model, scratch / "seed.safetensors", recipe)
        checkpoints.append((scratch / "seed.safetensors").read_bytes())
    return tuple(checkpoints)


@lru_cache
def _frozen_visual() -> torch.nn.Module:
    return load_efficientnet_lite0()


def _build_visual(name: str, **options: object) -> torch.nn.Module:
    """Load the frozen encoder, a trusted file of another package, once. No other encoder is downloaded."""
    if name == "efficientnet-lite0" and options == {"random": False, "frozen": True}:
        return _frozen_visual()
    return build_visual(name, **options)


def _load(folder: Path) -> None:
    """Load the file as `icf segment` does. A checkpoint that loads must also predict."""
    path = folder / "model.safetensors"
    model_card("model", read_recipe(path), "use", folder, short_digest(sha256_of(path)))
    model = load_checkpoint(path)
    if model.spec.image_size <= 320 and model.spec.window <= 100_000:
        size = model.spec.image_size
        Predictor(model).predict(torch.zeros(1, size, size, 3, dtype=torch.uint8), torch.zeros(1, model.spec.window))


def readers(scratch: Path) -> list[Reader]:
    """Return all readers. `scratch`: an empty folder for making the originals."""
    icf_avs.checkpoint.serialization.build_visual = _build_visual
    checkpoint = Reader("checkpoint", "checkpoint", "model.safetensors", _checkpoints(scratch), _load)
    return [
        *_set_readers(),
        *_own_set_readers(),
        *_own_readers(),
        checkpoint,
        checkpoint,
        checkpoint,
    ]  # three times, since it has the most code
