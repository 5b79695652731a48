"""One video of a batch: its settings, whether it is done, and its segmentation. All engines call `segment_job`."""

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
from icf_avs.inference.word_prompts import log_prompts
from icf_avs.mask_predictor import check_class_head
from icf_avs.output.result_file import is_earlier_result
from icf_avs.provenance import Source
from icf_avs.types import Missing
from icf_avs.version import VERSION

RECORD = "made_from.json"  # in each result folder; segmentation.json is the same as from `icf segment VIDEO`


@dataclass(frozen=True)
class JobSettings:
    """Everything besides the video that the result depends on."""

    checkpoint: str | None  # as in icf_avs.load
    digest: str  # SHA-256 of the checkpoint file
    fps: float
    threshold: float
    semantic: bool
    audio_track: int | None
    words: str | None = None  # as in `icf segment --words`
    missing: tuple[Missing, ...] = ()  # parts of the model that are unavailable now
    device: str = "auto"  # as in icf_avs.load


@dataclass(frozen=True)
class Job:
    """One row of the manifest. Paths are absolute."""

    name: str  # the video as written in the manifest
    video: Path
    folder: Path
    settings: JobSettings

    @property
    def record(self) -> dict[str, Any]:
        """Everything that the result depends on, except the unavailable parts of the model."""
        status, settings = self.video.stat(), asdict(self.settings)
        for name in ("checkpoint", "missing", "device"):  # digest identifies the first; device affects speed
            del settings[name]
        return {
            "version": VERSION,
            "video": {"file": self.video.name, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns},
            **settings,
        }

    def is_done(self) -> bool:
        """True if the folder holds a result of this exact video file with these settings and this program version, and
        no part of the model that was unavailable for it is available now.

        Folders appear only when complete, so a record in a folder implies a complete result.
        """
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            without = set(record.pop("without"))
            return record == self.record and without <= {part.part for part in self.settings.missing}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False

    def replaceable_folder(self) -> Path:
        """Return the folder. Raises UserError if it holds something other than an earlier result of the video."""
        if os.path.lexists(self.folder) and not is_earlier_result(self.folder, Source(self.video)):
            raise UserError(
                f"{self.folder}: holds something other than an earlier result of {self.name}; give another name in the "
                "column `out`"
            )
        return self.folder


def build_settings(
    checkpoint: str | None, fps: float, threshold: float, semantic: bool, audio_track: int | None,
    words: str | None = None, device: str = "auto",
) -> JobSettings:  # fmt: skip
    """Return settings after checking them against the checkpoint. Raises UserError if the checkpoint is missing, has no
    class head although `semantic` is set, or does not support the words.

    The model is loaded on the CPU and then released, since workers load it themselves.
    """
    path, name = find_checkpoint(checkpoint)
    model = Predictor(load_checkpoint(path))
    if semantic:
        check_class_head(model, name)
    if words is not None:
        log_prompts(model.model, words)
    if checkpoint is not None and Path(checkpoint).exists():
        checkpoint = str(Path(checkpoint).resolve())  # workers may be in another folder
    return JobSettings(checkpoint, model.digest, fps, threshold, semantic, audio_track, words, model.missing, device)


@lru_cache(maxsize=1)
def cached_segmenter(checkpoint: str | None, device: str = "auto") -> Segmenter:
    """Return the model of this process. One thread makes results independent of the machine and avoids contention."""
    torch.set_num_threads(1)
    return pretrained.load(checkpoint, device)


def segment_job(job: Job, scratch_dir: Path, progress: Callable[[int, int], None] | None = None) -> str | None:
    """Segment the video of a job. Return None, or one line with the reason for failure.

    The result is written to a temporary folder in `scratch_dir`, on the same file system, and moved into place when
    complete. A killed process leaves partial files only in `scratch_dir`.
    """
    settings = job.settings
    try:
        with tempfile.TemporaryDirectory(dir=scratch_dir, ignore_cleanup_errors=True) as scratch:
            # The next line reports a missing video. If the video changes meanwhile, this record does not match it.
            record = job.record if job.video.exists() else {}
            result = cached_segmenter(settings.checkpoint, settings.device).segment(
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
    except Exception as error:  # one video of thousands: continue with the others
        traceback.print_exc()
        return str(UserError(f"{job.video}: {type(error).__name__}: {error}"))
