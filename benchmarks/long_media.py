"""Segment a file of three hours and one of ten minutes: the right masks, in the same memory.

    python benchmarks/long_media.py [--hours 3] [--out results/reliability.csv]

A picture a second, bright in every 7th; sound at 8 kHz, loud in every 5th second. So a mask is full in every 35th
second and empty else. Each file is segmented, results written, in a child process; a check fails if a mask is wrong or
if the long one takes more than 100 MB more at its peak.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from fuzz_media import COLUMNS, Stand, save_row

from icf_avs.results import revision
from icf_avs.segment import segment_video

RATE, SIZE, BRIGHT, LOUD = 8_000, 32, 7, 5
SHORT, MARGIN = 600, 100 << 20  # seconds of the short file; bytes that the long one may take more


def write(path: Path, seconds: int) -> None:
    """Write the file: only two pictures are encoded, and muxed again and again."""
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mjpeg", rate=1), container.add_stream("pcm_s16le", rate=RATE)
        video.width, video.height, video.pix_fmt = SIZE, SIZE, "yuvj420p"
        pictures = []
        for level in (0, 255):
            image = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), level, np.uint8), "rgb24")
            pictures += [bytes(packet) for packet in video.encode(image.reformat(format="yuvj420p"))]
        tone = (9_000 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype("<i2").tobytes()
        for second in range(seconds):
            sound = tone if second % LOUD == 0 else bytes(2 * RATE)
            for stream, data in ((video, pictures[second % BRIGHT == 0]), (audio, sound)):
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1), second, second
                packet.duration, packet.is_keyframe = 1, True
                container.mux(packet)


def _child(path: Path, tell: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    result = segment_video(Stand(), path, path.parent / "out")
    wrong = sum((area > 0.5) != (second % (BRIGHT * LOUD) == 0) for second, area in enumerate(result.areas))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tell.send((len(result), int(wrong), peak))


def measured(seconds: int) -> tuple[int, int, int]:
    """(masks, how many of them wrong, peak memory in bytes) of a file of so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mkv"
        write(path, seconds)
        context = multiprocessing.get_context("spawn")  # a process whose memory nothing else has filled
        ear, mouth = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(path, mouth))
        child.start()
        mouth.close()
        answer = ear.recv()
        child.join()
        return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long file (default: 3)")
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    args = parser.parse_args()
    peaks, failed = [], 0
    for seconds in (SHORT, round(3600 * args.hours)):
        began = time.monotonic()
        masks, wrong, peak = measured(seconds)
        print(f"{seconds} s: {masks} masks, {wrong} wrong, {peak >> 20} MB, {time.monotonic() - began:.0f} s")
        failed += wrong > 0 or masks != seconds
        peaks.append(peak)
    failed += peaks[1] > peaks[0] + MARGIN
    if args.out:
        command = f"python benchmarks/long_media.py --hours {args.hours:g} --out {args.out}"
        cells = f"{args.hours:g}-hour video", 3, failed, "", command, revision()
        save_row(args.out, dict(zip(COLUMNS, map(str, cells), strict=True)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
