"""One video of many: what is to be done, whether it is done, and doing it. All engines call `segment_job`."""

from __future__ import annotations

import json
import os
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from icf_avs.atomic_io import put_in_place
from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.inference.word_prompts import tell_prompts
from icf_avs.mask_predictor import check_class_head
from icf_avs.output.result_file import is_earlier_result
from icf_avs.provenance import Source
from icf_avs.types import Missing
from icf_avs.version import VERSION

RECORD = "made_from.json"  # in each result folder; segmentation.json stays as `icf segment VIDEO` writes it


@dataclass(frozen=True)
class Settings:
    """What the result depends on besides the video."""

    checkpoint: str | None  # as icf_avs.load takes it
    digest: str  # SHA-256 of its file
    fps: float
    threshold: float
    semantic: bool
    audio_track: int | None
    words: str | None = None  # as `icf segment --words` takes them
    missing: tuple[Missing, ...] = ()  # parts of the model that are unavailable now
    device: str = "auto"  # as icf_avs.load takes it


@dataclass(frozen=True)
class Job:
    """One row of the manifest. Paths are absolute."""

    name: str  # the video as the manifest has it
    video: Path
    folder: Path
    settings: Settings

    @property
    def record(self) -> dict[str, Any]:
        """What the result depends on, but for what the model did without."""
        status, settings = self.video.stat(), asdict(self.settings)
        for name in ("checkpoint", "missing", "device"):  # the digest says it better; the device only how long it takes
            del settings[name]
        return {
            "version": VERSION,
            "video": {"file": self.video.name, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns},
            **settings,
        }

    def is_done(self) -> bool:
        """Whether the folder holds the result of this very video with these settings and this version of the program,
        made without no part of the model that can be had now.

        Folders appear complete, so that the record in one says that all of it is there.
        """
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            without = set(record.pop("without"))
            return record == self.record and without <= {part.part for part in self.settings.missing}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False

    def replaceable_folder(self) -> Path:
        """The folder. Raises UserError if it holds something other than an earlier result of the video."""
        if os.path.lexists(self.folder) and not is_earlier_result(self.folder, Source(self.video)):
            raise UserError(
                f"{self.folder}: holds something other than an earlier result of {self.name}; give another name in the "
                "column `out`"
            )
        return self.folder


def build_settings(
    checkpoint: str | None, fps: float, threshold: float, semantic: bool, audio_track: int | None,
    words: str | None = None, device: str = "auto",
) -> Settings:  # fmt: skip
    """Settings whose checkpoint fits. Raises UserError if it is missing or, with `semantic`, has no class head, and for
    words that it cannot be asked for.

    Here the model stays on the CPU and is let go: workers load their own.
    """
    path, name = find_checkpoint(checkpoint)
    model = Predictor(load_checkpoint(path))
    if semantic:
        check_class_head(model, name)
    if words is not None:
        tell_prompts(model.model, words)
    if checkpoint is not None and Path(checkpoint).exists():
        checkpoint = str(Path(checkpoint).resolve())  # workers may be in another folder
    return Settings(checkpoint, model.digest, fps, threshold, semantic, audio_track, words, model.missing, device)


@lru_cache(maxsize=1)
def loaded(checkpoint: str | None, device: str = "auto") -> Segmenter:
    """The model of this process, which keeps to one thread: sums do not depend on the machine, nor workers collide."""
    torch.set_num_threads(1)
    return pretrained.load(checkpoint, device)


def segment_job(job: Job, work: Path, progress: Callable[[int, int], None] | None = None) -> str | None:
    """Segment the video of a job; None, or one line that says why it failed.

    The result is made in a folder of its own in `work`, which is on the same file system, and takes its place when it
    is complete. A process that is killed leaves its remains in `work` only.
    """
    settings = job.settings
    try:
        with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as scratch:
            # Where there is no video, the next line says so; one that changes meanwhile is not done by this record.
            record = job.record if job.video.exists() else {}
            result = loaded(settings.checkpoint, settings.device).segment(
                job.video, Path(scratch, "new"), settings.fps, settings.threshold, settings.semantic,
                settings.audio_track, words=settings.words, progress=progress,
            )  # fmt: skip
            record["without"] = [part.part for part in result.missing]
            (result.folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            job.folder.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(result.folder, job.replaceable_folder)
        return None
    except UserError as error:
        return str(error)
    except OSError as error:
        return str(UserError(f"{job.video}: {error.strerror or error} ({error.filename or job.folder})"))
    except Exception as error:  # of one video in thousands; the others go on
        traceback.print_exc()
        return str(UserError(f"{job.video}: {type(error).__name__}: {error}"))
