"""`icf data prepare`: cut frames and audio of S4 and MS3 from their raw videos, as in the released sets.

The frame of second k has number int(k * fps + 15/16 * fps), fps rounded to an integer; it is the last frame if there
are fewer. It is squashed to 224x224, bilinear without antialiasing (PROTOCOLS, how the released frames were cut).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from icf_avs.console import counted, track
from icf_avs.datasets.clip_files import write_image, write_wav
from icf_avs.datasets.image_io import SIZE
from icf_avs.datasets.jobs import in_processes
from icf_avs.datasets.layouts import find_table, read_all
from icf_avs.datasets.metadata import AVSS_TABLE
from icf_avs.datasets.video_clip import ClipRecord, read_video_audio, to_int16
from icf_avs.errors import UserError
from icf_avs.media.packets import read_packets
from icf_avs.media.vggish_frontend import WINDOW
from icf_avs.media.video_reader import Orientation, open_media, select_streams
from icf_avs.types import RATE

SECONDS = 5
PHASE = 15 / 16


def frame_numbers(fps: float) -> list[int]:
    """Return the numbers of the frames to cut from a video of `fps` frames a second."""
    whole = round(fps)
    return [int(second * whole + PHASE * whole) for second in range(SECONDS)]


def cut_frames(video: Path) -> np.ndarray:
    """Cut the five frames of a video, uint8 [5, 224, 224, 3]. Raises UserError if it is unreadable.

    Frames are counted as they are decoded, and rotated as they are displayed.
    """
    with open_media(video) as container:
        stream, _ = select_streams(container, video)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        if fps < 0.5:
            raise UserError(f"{video}: does not say how many frames a second it has; re-encode it as H.264")
        numbers, cut, last = frame_numbers(fps), [], None
        for number, last in enumerate(frame for packet in read_packets(container, stream) for frame in packet.decode()):
            cut += [_squashed(last) for index in numbers if index == number]
            if len(cut) == SECONDS:
                break
    if last is None:
        raise UserError(f"{video}: not one frame of it can be decoded; re-encode it as H.264")
    return np.stack(cut + [_squashed(last)] * (SECONDS - len(cut)))


def _squashed(frame) -> np.ndarray:
    rgb = torch.from_numpy(Orientation.of(frame).apply(frame.to_ndarray(format="rgb24")).copy())
    planes = F.interpolate(rgb.permute(2, 0, 1)[None].float(), (SIZE, SIZE), mode="bilinear")[0]
    return planes.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def prepare_set(root: Path, workers: int = 1) -> dict:
    """Write the missing files of the set in `root`, with a progress bar. Existing files (released or prepared) are
    kept. workers: number of processes.

    Returns {"clips": all, "written": those completed now, "errors": [one line each]}. Raises UserError if `root` is
    no S4 or MS3 set, or cannot be written.
    """
    if find_table(root).name == AVSS_TABLE:
        raise UserError(f"{root} is an AVSS set, which has no raw videos; name an S4 or MS3 set with raw_videos/")
    records = read_all(root)
    if not (root / "raw_videos").is_dir():
        raise UserError(f"{root / 'raw_videos'} is missing; put the videos of the clips there")
    jobs = [record for record in records if any(_missing(record))]
    written = track(in_processes(_prepare_clip, jobs, workers), len(jobs), "preparing clips")
    errors = sorted(error for error in written if error)
    return {"clips": len(records), "written": len(jobs) - len(errors), "errors": errors}


def _missing(record: ClipRecord) -> tuple[bool, bool]:
    """Return whether frames and audio of a clip are missing."""
    return not all(path.is_file() for path in record.frame_paths), not record.audio_path.is_file()


def _prepare_clip(record: ClipRecord) -> str | None:
    """Write one clip. Returns an error message of one line, or None."""
    try:
        frames, audio = _missing(record)
        if record.video_path is None:
            raise UserError("has no video in raw_videos; download it, or take the clip out of the table")
        if frames:
            for path, frame in zip(record.frame_paths, cut_frames(record.video_path), strict=True):
                if not path.is_file():
                    write_image(path, Image.fromarray(frame))
        if audio:
            waveform = read_video_audio(record.video_path)
            if len(waveform) < WINDOW:
                seconds = len(waveform) / RATE
                raise UserError(f"its sound lasts {seconds:.2f} s, less than one window (0.975 s); leave it out")
            write_wav(record.audio_path, to_int16(waveform))
    except UserError as error:
        return f"clip {record.name}: {error}"


def prepare_command(root: Path, workers: int) -> int:
    """Prepare a set. Returns exit code 1 if some clips failed; each is printed at the end."""
    result = prepare_set(root, workers)
    for line in result["errors"]:
        print(line)
    whole = result["clips"] - result["written"] - len(result["errors"])
    print(
        f"{root}: {counted(result['clips'], 'clip')}, {result['written']} written now, {whole} complete before, "
        f"{len(result['errors'])} not possible"
    )
    return 1 if result["errors"] else 0
