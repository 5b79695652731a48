"""Join, damage, cut and hide parts of media whose content is known, and compare each mask's picture and sound with it.

    python benchmarks/known_media.py --files 600 [--seed 0] [--out results/reliability.csv]

Each second of a clip has a colour and a tone of its own. A file fails if it is not answered, has not as many masks as
its content lasts, or if one of them was given a picture or sound of another second; every tenth is also written as a
film, which is read back in the same way. What FFmpeg itself cannot open, as a recording that breaks off inside an
index, may be refused with a line. File number i of a seed is always the same (on the same release of FFmpeg):
`--first 417 --files 1 --keep DIR` brings one back. The kinds of files: known_kinds.py.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import av
import numpy as np
import torch
from known_clips import COLOURS, TONES, Known
from known_kinds import KINDS
from reliability import save_row

from icf_avs.errors import UserError
from icf_avs.inference.segment import segment_video
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.media.video_reader import probe
from icf_avs.results import Segmentation
from icf_avs.types import ClipSpec, Prediction

FPS = 4  # masks a second
_HEARD = 0.7  # share of a window that a second must fill for its tone to be expected
_RAGGED = 1.5  # seconds before a truncated end in which frames may lack audio and vice versa
_LOUD = 0.02  # root mean square below which sound counts as silence


class RecordingModel(MaskPredictor):
    """Stand-in for a model: records its input."""

    classes = ("noise",)
    spec = ClipSpec(image_size=32)

    def __init__(self) -> None:
        self.colours: list[int] = []
        self.waveforms: list[np.ndarray] = []

    def predict(self, frames: torch.Tensor, waves: torch.Tensor) -> Prediction:
        """See MaskPredictor.predict."""
        means = frames.numpy().reshape(len(frames), -1, 3).mean(1)
        self.colours += [int(np.abs(COLOURS - mean).sum(1).argmin()) for mean in means]
        self.waveforms.extend(waves.numpy().copy())
        return Prediction(torch.full(frames.shape[:3], -9.0), torch.zeros(len(frames), 1), self.classes)


def find_errors(path: Path, known: Known, out: Path | None = None) -> list[str]:
    """List the errors in the result for a file; if `out` is given, also those for its overlay video."""
    errors, result = _find_errors(path, known, out)
    if out is not None:
        overlay_errors, _ = _find_errors(result.folder / "overlay.mp4", known.as_overlay(), None)
        errors += [f"film: {line}" for line in overlay_errors]
    return errors


def _find_errors(path: Path, known: Known, out: Path | None) -> tuple[list[str], Segmentation]:
    if (duration := probe(path).duration) > 2 * known.longest:
        raise ValueError(f"lasts {duration:.0f} s, not {known.longest}")
    model = RecordingModel()
    result = segment_video(model, path, out, fps=FPS)
    errors = []
    if not known.shortest * FPS - 1 <= len(result) <= known.longest * FPS + 1:
        errors.append(f"{len(result)} masks, not {known.longest * FPS}")
    if known.repaired and not result.video.repaired.document() and out is not None:
        errors.append("nothing is said of what was repaired")
    for index, (colour, wave) in enumerate(zip(model.colours, model.waveforms, strict=True)):
        middle = (index + 0.5) / FPS
        if known.missing and middle > len(result) / FPS - _RAGGED:
            break
        colours = known.colours_at(middle)
        if colours and colour not in colours:
            errors.append(f"at {middle:.2f} s the picture is {colour}, not {sorted(colours)}")
        tone, share = known.tone(middle, model.spec.window / model.spec.sample_rate)
        if share >= (_HEARD if tone is not None else 1) and (heard := heard_tone(wave, model.spec.sample_rate)) != tone:
            errors.append(f"at {middle:.2f} s the sound is {heard}, not {tone}")
    return errors, result


def _opens(path: Path) -> bool:
    try:
        av.open(str(path)).close()
    except av.error.FFmpegError:
        return False
    return True


def heard_tone(wave: np.ndarray, rate: int) -> int | None:
    """Return the number of the loudest tone; None for silence."""
    if np.sqrt(np.mean(wave**2)) < _LOUD:
        return None
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    bins = np.round(np.array(TONES) * len(wave) / rate).astype(int)
    return int(np.argmax([power[place - 2 : place + 3].sum() for place in bins]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=600, help="how many (default: 600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file (default: 0)")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the files that fail here")
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tried, failed, refused = Counter(), Counter(), Counter()
    for number in range(args.first, args.first + args.files):
        kind = list(KINDS)[number % len(KINDS)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            path, known = KINDS[kind](folder, np.random.default_rng([args.seed, number]))
            try:
                lines = find_errors(path, known, folder / "out" if number // len(KINDS) % 10 == 0 else None)
            except UserError as error:
                lines = [str(error)] if _opens(path) else []
                refused[kind] += not lines
            except Exception:
                lines = [traceback.format_exc(limit=-3)]
            tried[kind] += 1
            if lines:
                failed[kind] += 1
                print(f"file {number}, {kind}, {path.name}: " + "\n    ".join(lines[:4]), flush=True)
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, args.keep / f"{args.seed}_{number}_{path.name}")
    for kind, count in tried.items():
        print(f"{kind:24s} {count:5d} files, {failed[kind]} wrong, {refused[kind]} refused")
    if args.out:
        save_row(args.out, "joined, damaged and hidden-packet media", tried.total(), failed.total(), args.seed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
