"""Set-up for all tests: one thread, the real stamps, and tiny data sets in the three public layouts."""

from __future__ import annotations

from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
import torch
from hypothesis import settings
from public_sets import AVSS, MS3, S4
from tagger_weights import use_the_folder_beside

from icf_avs.synthetic.benchmark import write_stamps
from icf_avs.synthetic.catalog import Catalog, load_catalog
from icf_avs.synthetic.sounds import SoundBank

use_the_folder_beside()
torch.set_num_threads(1)  # so that timings and sums do not depend on the machine
# Same examples in every run, so that results are comparable; `--hypothesis-profile=default` draws new ones
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


class TinySets:
    """Writes single-colour clips: clip i has a tone of 200 * (i + 1) Hz; its object: the columns below 40 * (i + 1)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def mask(self, path: Path, index: int, value: int) -> None:
        fixtures.write_picture(path, np.uint8(value) * fixtures.plain(index, 0, (224, 224))[1])

    def s4(self, split: str, categories: list[str]) -> Path:
        """Clip names begin with a dash, as some in AVSBench do."""
        rows = [(f"-clip_{i:05d}", i, category, split) for i, category in enumerate(categories)]
        fixtures.write_s4(self.root, rows, one_colour=True)
        return self.root

    def ms3(self, split: str, clips: int) -> Path:
        """The last mask of every clip is empty."""
        fixtures.write_ms3(self.root, [(f"clip_{i:06d}", split) for i in range(clips)], one_colour=True)
        return self.root

    def avss(self, split: str, parts: list[str]) -> Path:
        """Clip i has class i + 1."""
        names = ("background", *(f"kind-{i}" for i in range(len(parts))))
        rows = [
            (f"clip_{i:06d}", f"clip_{i:06d}_0_5000", 0, 0, f"kind-{i}_off-the-screen", split, part)
            for i, part in enumerate(parts)
        ]
        fixtures.write_avss(self.root, rows, names, one_colour=True)
        return self.root


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """The real stamps, found or downloaded."""
    return load_catalog()


@pytest.fixture(scope="session")
def bank(catalog: Catalog) -> SoundBank:
    return SoundBank(catalog)


@pytest.fixture
def tiny(tmp_path: Path) -> TinySets:
    return TinySets(tmp_path / "set")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, fixtures.Written]]:
    """Small sets in the three public layouts, and their clips by name."""
    root = tmp_path_factory.mktemp("AVSBench")
    written = fixtures.write_s4(root / "Single-source", S4)
    written += fixtures.write_ms3(root / "Multi-sources", MS3)
    written += fixtures.write_avss(root / "AVSS", AVSS)
    return root, {clip.name: clip for clip in written}


@pytest.fixture(scope="session")
def stamps_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One or two clips of each Stamps set."""
    root = tmp_path_factory.mktemp("stamps")
    write_stamps(root, seed=5, train=1, test=2, video=False)
    return root
