"""Write the embedded benchmark to disk in the layouts of the public sets, so that any code for those can read it.

OUT/Single-source   as S4: one sounding object, which sounds all the time; training masks of the first frame only
OUT/Multi-sources   as MS3: one to three sounding objects, which start and stop
OUT/AVSS            the clips of both with class ids, at native size
OUT/Cross           as MS3, splits val and test only: second recordings, and held-out stamps where a class has one
A scenes.csv beside each table (ours) lists the content of each clip. Training scenes are biased, all others balanced.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from icf_avs.console import track
from icf_avs.datasets import clip_files
from icf_avs.datasets.clip_files import (
    VIDEO_FPS,
    semantic_uid,
    write_avss_clip,
    write_avss_tables,
    write_bytes,
    write_image,
    write_mp4,
    write_scenes_table,
    write_table,
    write_wav,
)
from icf_avs.datasets.jobs import in_processes
from icf_avs.errors import UserError
from icf_avs.output.class_overlay import palette
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.backgrounds import list_photographs
from icf_avs.synthetic.batches import Clip, render_clip, semantic_masks
from icf_avs.synthetic.catalog import Catalog, load_catalog
from icf_avs.synthetic.rendering import canvas_size, render_frame
from icf_avs.synthetic.scene import Scene, base_split, uses_cross_recordings
from icf_avs.synthetic.scene_sampler import BALANCED, TRAIN, sample_scene
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.types import ClipSpec

SINGLE, MULTI, CROSS, SEMANTIC = "Single-source", "Multi-sources", "Cross", "AVSS"
SPEC = ClipSpec(phase=15 / 16)  # five seconds, frame times as in AVSBench
SHORT_SIDE = 240  # of videos and of AVSS frames, pixels
_STYLES = {  # set -> style changes of its training scenes, style changes of all its scenes
    SINGLE: ({"silent": 0.0}, {"num_sources": (1.0,), "continuous": 1.0}),
    MULTI: ({}, {}),
    CROSS: ({}, {"num_sources": (0.55, 0.45)}),
}
# Scenes of different sets must differ, so each set has its own range of scene numbers.
_FIRST = {SINGLE: 0, MULTI: 1_000_000, CROSS: 2_000_000}


@dataclass(frozen=True)
class _Job:
    """One clip to write; small, so that it can be sent to a worker process."""

    out: Path
    stamps: Path
    seed: int
    video: bool
    dataset: str
    split: str  # of the scene; clips of "cross" and "cross-val" are written as split test and val
    index: int

    @property
    def name(self) -> str:
        """An id of 11 characters, like a video id; it may begin with - or _."""
        key = f"{self.dataset}/{self.split}/{self.seed}/{self.index}"
        return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())[:11].decode()

    @property
    def record_path(self) -> Path:
        """File that lists the content of the clip; it is written after all others of the clip."""
        return self.out / self.dataset / ".clips" / f"{self.name}.json"

    def is_done(self) -> bool:
        """Return True if this version of the code has written the clip."""
        try:
            row = json.loads(self.record_path.read_bytes())
        except (OSError, ValueError):
            return False
        return row.get("version") == _version() and (row["video"] or not self.video)


def write_stamps(
    out: Path, *, stamps: Path | None = None, seed: int = 0, train: int = 0, val: int = 0, test: int = 0,
    cross: int = 0, cross_val: int = 0, video: bool = True, workers: int = 1,
) -> None:  # fmt: skip
    """Write that many clips of each split into each of Single-source and Multi-sources, and `cross` test clips and
    `cross_val` val clips into Cross.

    The files depend on the arguments and the installed data, not on `workers`. A repeated call continues an
    interrupted one, and may ask for more clips. `stamps` is a Tux Paint stamps folder (None: downloaded). Raises
    UserError if the data are unavailable, `out` cannot be written, or it holds clips of other settings.
    """
    if min(seed, train, val, test, cross, cross_val) < 0 or workers < 1:
        raise ValueError("the seed and the numbers of clips must not be negative, and workers must be at least 1")
    asset_packages.fetch_all(stamps)
    root = asset_packages.stamps_root(stamps)
    catalog = load_catalog(root)
    if (cross or cross_val) and not any(each.cross_recordings for each in catalog.classes):
        raise UserError(
            "the cross set needs second recordings: install gcompris-qt-data, or have a connection to fetch it"
        )
    counts = {(dataset, split): count for dataset in (SINGLE, MULTI)
              for split, count in (("train", train), ("val", val), ("test", test))}  # fmt: skip
    counts |= {(CROSS, "cross-val"): cross_val, (CROSS, "cross"): cross}
    jobs = [
        _Job(out, root, seed, video, *place, _FIRST[place[0]] + number)
        for place, count in counts.items()
        for number in range(count)
    ]
    written = {record for name in _FIRST for record in (out / name / ".clips").glob("[!.]*")}
    if written - {job.record_path for job in jobs}:
        raise UserError(
            f"{out}: holds clips of another --seed, or of more than are asked for; choose another --out, or delete it"
        )
    remaining = [job for job in jobs if not job.is_done()]
    for _ in track(in_processes(_write_clip, remaining, workers), len(remaining), "writing clips"):
        pass
    _write_tables(out, [json.loads(job.record_path.read_bytes()) for job in jobs], catalog.class_names)


@lru_cache(maxsize=1)
def _load_sources(stamps: Path) -> tuple[Catalog, SoundBank, SoundBank]:
    catalog = load_catalog(stamps)
    return catalog, SoundBank(catalog), SoundBank(catalog, "cross")


@lru_cache(maxsize=1)
def _version() -> str:
    """Return a digest of the code and the data that determine the clips."""
    digest = hashlib.sha256("\n".join(list_photographs()).encode())
    folder = Path(__file__).parent
    for path in (folder / "stamps.csv", *sorted(folder.glob("*.py")), Path(clip_files.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _write_clip(job: _Job) -> None:
    write_bytes(job.record_path, b"{}")  # marks the clip as started
    catalog, bank, cross_bank = _load_sources(job.stamps)
    training, always = _STYLES[job.dataset]
    style = replace(TRAIN, **training, **always) if job.split == "train" else replace(BALANCED, **always)
    scene = sample_scene(catalog, job.split, job.index, job.seed, style, round(SPEC.seconds))
    clip = render_clip(scene, cross_bank if uses_cross_recordings(job.split) else bank, SPEC)
    split, base, name = base_split(job.split), job.out / job.dataset, job.name
    samples = np.round(clip.waveform * 32767).astype(np.int16)
    sounding = [kind for kind, active in zip(clip.class_names, clip.active, strict=True) if active.any()]
    if job.dataset == SINGLE:
        data, inner, stem = base / "s4_data", f"{split}/{sounding[0]}", f"{name}_"
        frames, video = data / "visual_frames" / inner / name, base / f"raw_videos/{inner}/{name}.mp4"
    else:
        data, inner, stem = base / "ms3_data", split, f"{name}.mp4_"
        frames, video = data / "visual_frames" / name, base / f"raw_videos/{name}.mp4"
    masks = data / "gt_masks" / inner / name
    for t, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        write_image(frames / f"{stem}{t + 1}.png", Image.fromarray(frame))
        if t == 0 or (job.dataset, split) != (SINGLE, "train"):
            write_image(masks / f"{name}_{t + 1}.png", Image.fromarray(mask * np.uint8(255)))
    write_wav(data / "audio_wav" / inner / f"{name}.wav", samples)
    size = tuple(round(side * SHORT_SIDE / 2) * 2 for side in canvas_size(scene.aspect))
    if job.dataset != CROSS:
        _write_semantic(job, scene, clip, size, samples)
    if job.video:
        times = (number / VIDEO_FPS for number in range(round(SPEC.seconds * VIDEO_FPS)))
        write_mp4(video, (render_frame(scene, time_s, size)[0] for time_s in times), size, samples)
    shown = enumerate(clip.class_names, start=1)
    stamps = [
        [placed.stem, placed.class_name, "".join(str(int(on)) for on in active)]
        for placed, active in zip(scene.stamps, clip.active, strict=True)
    ]
    row = {
        "version": _version(), "video": job.video, "dataset": job.dataset, "name": name, "split": split,
        "seed": job.seed, "index": job.index, "sounding": sorted(sounding),
        "onscreen": sorted(kind for number, kind in shown if kind and (clip.stamp_maps == number).any()),
        "stamps": stamps,
    }  # fmt: skip
    write_bytes(job.record_path, json.dumps(row).encode())


def _write_semantic(job: _Job, scene: Scene, clip: Clip, size: tuple[int, int], samples: np.ndarray) -> None:
    label = "v1s" if job.dataset == SINGLE else "v1m"
    rendered = [render_frame(scene, SPEC.frame_time(t), size) for t in range(SPEC.frames)]
    ids = semantic_masks(np.stack([stamp_map for _, stamp_map in rendered]), clip.active, scene)
    labelled = 1 if (label, job.split) == ("v1s", "train") else SPEC.frames
    frames, labels = [Image.fromarray(rgb) for rgb, _ in rendered], [Image.fromarray(each) for each in ids[:labelled]]
    write_avss_clip(job.out / SEMANTIC / label / semantic_uid(job.name), frames, labels, samples, palette())


def _write_tables(out: Path, rows: list[dict], class_names: tuple[str, ...]) -> None:
    """Write the tables of all sets from the records of their clips (`_write_clip`), in the given order."""
    rows_by_set = {dataset: [row for row in rows if row["dataset"] == dataset] for dataset in (SINGLE, MULTI, CROSS)}
    for dataset, set_rows in rows_by_set.items():
        if set_rows and dataset == SINGLE:
            table = [(row["name"], 0, row["sounding"][0], row["split"]) for row in set_rows]
            write_table(out / SINGLE / "s4_meta_data.csv", ("name", "start", "category", "split"), table)
        elif set_rows:
            table = [(row["name"], row["split"]) for row in set_rows]
            write_table(out / dataset / "ms3_meta_data.csv", ("video_id", "split"), table)
        if set_rows:
            write_scenes_table(out / dataset, set_rows, ("seed", "index"))
    semantic = [
        row | {"part": part} for part, dataset in (("v1s", SINGLE), ("v1m", MULTI)) for row in rows_by_set[dataset]
    ]
    if semantic:
        write_avss_tables(out / SEMANTIC, semantic, class_names)
        write_scenes_table(out / SEMANTIC, semantic, ("seed", "index"))
