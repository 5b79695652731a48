"""Shared by all tests: one thread, the real stamps, and tiny sets on disk in the three public layouts."""

from __future__ import annotations

import csv
import wave
from collections.abc import Callable
from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from public_sets import AVSS, MS3, S4
from tagger_weights import use_the_folder_beside

from icf_avs.synthetic.benchmark import write_stamps
from icf_avs.synthetic.catalog import Catalog, load_catalog
from icf_avs.synthetic.sounds import SoundBank

use_the_folder_beside()
torch.set_num_threads(1)  # so that timings and sums do not depend on the machine
# The same examples every time, so that a change is judged by what it changes; `--hypothesis-profile=default` searches
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


class TinySets:
    """Writes clips of plain colour: clip i is a tone of 200 * (i + 1) Hz, its object the columns below 40 * (i + 1)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def table(self, name: str, header: str, rows: list[str]) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")

    def picture(self, path: Path, values: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)

    def frame(self, path: Path, index: int, number: int, size: tuple[int, int] = (224, 224)) -> None:
        self.picture(path, np.full((*size, 3), (10 * number, 50 * index, 99), np.uint8))

    def mask(self, path: Path, index: int, value: int, size: tuple[int, int] = (224, 224)) -> None:
        values = np.zeros(size, np.uint8)
        values[:, : 40 * (index + 1) * size[1] // 224] = value
        self.picture(path, values)

    def sound(self, path: Path, index: int, seconds: int = 5) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.5 * np.sin(2 * np.pi * 200 * (index + 1) * np.arange(seconds * 16_000) / 16_000)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())

    def s4(self, split: str, categories: list[str]) -> Path:
        """Names begin with a dash, as some of AVSBench do."""
        names = [f"-clip_{i:05d}" for i in range(len(categories))]
        rows = [f"{name},{i},{kind},{split}" for i, (name, kind) in enumerate(zip(names, categories, strict=True))]
        self.table("s4_meta_data.csv", "name,start,category,split", rows)
        data = self.root / "s4_data"
        for i, (name, kind) in enumerate(zip(names, categories, strict=True)):
            for number in range(1, 6):
                self.frame(data / "visual_frames" / split / kind / name / f"{name}_{number}.png", i, number)
                if number == 1 or split != "train":
                    self.mask(data / "gt_masks" / split / kind / name / f"{name}_{number}.png", i, 255)
            self.sound(data / "audio_wav" / split / kind / f"{name}.wav", i)
        return self.root

    def ms3(self, split: str, clips: int) -> Path:
        """The last mask of every clip is empty."""
        names = [f"clip_{i:06d}" for i in range(clips)]
        self.table("ms3_meta_data.csv", "video_id,split", [f"{name},{split}" for name in names])
        data = self.root / "ms3_data"
        for i, name in enumerate(names):
            for number in range(1, 6):
                self.frame(data / "visual_frames" / name / f"{name}.mp4_{number}.png", i, number)
                value = 0 if number == 5 else 255
                self.mask(data / "gt_masks" / split / name / f"{name}_{number}.png", i, value)
            self.sound(data / "audio_wav" / split / f"{name}.wav", i)
        return self.root

    def avss(self, split: str, parts: list[str]) -> Path:
        """Pictures are 320 x 240; clip i is of class i + 1."""
        names = [f"clip_{i:06d}_0_5000" for i in range(len(parts))]
        rows = [
            f"{name[:11]},{name},0,0,kind-{i}_off-the-screen,{split},{part}"
            for i, (name, part) in enumerate(zip(names, parts, strict=True))
        ]
        self.table("metadata.csv", "vid,uid,s_min,s_sec,a_obj,split,label", rows)
        for i, (name, part) in enumerate(zip(names, parts, strict=True)):
            frames = 10 if part == "v2" else 5
            for number in range(frames):
                self.frame(self.root / part / name / "frames" / f"{number}.jpg", i, number, (240, 320))
                if number == 0 or (part, split) != ("v1s", "train"):
                    self.mask(self.root / part / name / "labels_semantic" / f"{number}.png", i, i + 1, (240, 320))
            self.sound(self.root / part / name / "audio.wav", i, frames)
        return self.root

    def edit_table(self, name: str, change: Callable[[list[list[str]]], None]) -> None:
        with (self.root / name).open(newline="") as file:
            rows = list(csv.reader(file))
        change(rows)
        (self.root / name).write_text("\n".join(",".join(row) for row in rows) + "\n")


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """The real stamps, found or fetched as for a user."""
    return load_catalog()


@pytest.fixture(scope="session")
def bank(catalog: Catalog) -> SoundBank:
    return SoundBank(catalog)


@pytest.fixture
def tiny(tmp_path: Path) -> TinySets:
    return TinySets(tmp_path / "set")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> tuple[Path, dict[str, fixtures.Written]]:
    """Small sets of the three public layouts side by side, and their clips by name; on S4 the picture of a stamp."""
    stem = next(stem for kind in catalog.classes for stem in kind.stems if (catalog.root / f"{stem}.png").is_file())
    root = tmp_path_factory.mktemp("AVSBench")
    written = fixtures.write_s4(root / "Single-source", S4, Image.open(catalog.root / f"{stem}.png"))
    written += fixtures.write_ms3(root / "Multi-sources", MS3)
    written += fixtures.write_avss(root / "AVSS", AVSS)
    return root, {clip.name: clip for clip in written}


@pytest.fixture(scope="session")
def stamps_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip or two of each Stamps set."""
    root = tmp_path_factory.mktemp("stamps")
    write_stamps(root, seed=5, train=1, test=2, video=False)
    return root
