"""Write the files of composed sets, each atomically: PNG, JPEG, WAV, MP4, JSON and CSV.

A table row is a dictionary: name and split of a clip, part (v1s, v1m or v2 of AVSS), sounding and onscreen (class
names), stamps (lists of an image, its class, and one digit per second, 1 where it sounds).
"""

from __future__ import annotations

import csv
import io
import json
import wave as wav_format
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from icf_avs.atomic_io import atomic_file
from icf_avs.media.container import local_url
from icf_avs.types import RATE

VIDEO_FPS = 25
_ADVICE = "free some space or choose another --out"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; creates its folder if needed. Raises UserError if it cannot be written."""
    with atomic_file(path, _ADVICE) as new:
        new.write_bytes(content)


def write_image(path: Path, image: Image.Image) -> None:
    """Write an image in the format of its file extension, .png or .jpg."""
    buffer = io.BytesIO()
    if path.suffix == ".png":
        image.save(buffer, "PNG", compress_level=4)
    else:
        image.save(buffer, "JPEG", quality=92)
    write_bytes(path, buffer.getvalue())


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write int16 [N] as a mono WAV file at 16 kHz."""
    buffer = io.BytesIO()
    with wav_format.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    write_bytes(path, buffer.getvalue())


def write_mp4(path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], samples: np.ndarray) -> None:
    """Write H.264 video at 25 fps with AAC audio: frames uint8 [H, W, 3] of even size (W, H), samples int16 [N]."""
    with atomic_file(path, _ADVICE) as new, av.open(local_url(new), "w", format="mp4") as container:
        # The same frames must give the same bytes. Threads would prevent that, and so would x264's macroblock tree,
        # whose result was seen to vary between runs.
        options = {"crf": "20", "preset": "fast", "x264-params": "mbtree=0"}
        video = container.add_stream("libx264", rate=VIDEO_FPS, options=options)
        video.width, video.height, video.pix_fmt, video.thread_count = *size, "yuv420p", 1
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        sound.bit_rate = 96_000
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, VIDEO_FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with Unix line endings."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())


def semantic_uid(name: str) -> str:
    """Return the AVSS name of a five-second clip, which includes start and end in milliseconds."""
    return f"{name}_0_5000"


def write_avss_clip(
    folder: Path,
    frames: Sequence[Image.Image],
    labels: Sequence[Image.Image],
    samples: np.ndarray,
    colors: np.ndarray | None = None,
) -> None:
    """Write frames, class ids of the first len(labels) frames (with `colors` [256, 3] also as RGB), and the audio."""
    for second, frame in enumerate(frames):
        write_image(folder / "frames" / f"{second}.jpg", frame)
    for second, ids in enumerate(labels):
        write_image(folder / "labels_semantic" / f"{second}.png", ids)
        if colors is not None:
            write_image(folder / "labels_rgb" / f"{second}.png", Image.fromarray(colors[np.asarray(ids)]))
    write_wav(folder / "audio.wav", samples)


def write_avss_tables(folder: Path, rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> None:
    """Write metadata.csv and label2idx.json of an AVSS set. Class id 1 is the first name."""
    table = []
    for row in rows:
        classes = "_".join(row["sounding"]) or "background"  # as in the public table where nothing sounds
        table.append((row["name"], semantic_uid(row["name"]), 0, 0, classes, row["split"], row["part"]))
    write_table(folder / "metadata.csv", ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"), table)
    ids = {name: number for number, name in enumerate(("background", *class_names))}
    write_bytes(folder / "label2idx.json", json.dumps(ids, indent=1).encode())


def write_scenes_table(folder: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write scenes.csv, which lists the content of each clip. columns: further entries of the rows to write."""
    table = [
        (
            semantic_uid(row["name"]) if "part" in row else row["name"], row["split"], *(row[name] for name in columns),
            *(" ".join(sorted(row[name])) for name in ("sounding", "onscreen")),
            ";".join("|".join(stamp) for stamp in row["stamps"]),
        )
        for row in rows
    ]  # fmt: skip
    write_table(folder / "scenes.csv", ("video_id", "split", *columns, "sounding", "onscreen", "stamps"), table)
