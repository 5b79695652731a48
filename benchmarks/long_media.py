"""Segment a file of three hours and one of ten minutes: the right masks, in the same memory.

    python benchmarks/long_media.py [--hours 3] [--out results/reliability.csv]

A picture a second, bright in every 7th; sound at 8 kHz, loud in every 5th second. So a mask is full in every 35th
second and empty else. Then two seconds of 50 pictures each with a clap: a flash and a click. Each file is segmented,
results written, in a child process. A check fails if a mask is wrong, if flash and click are not found within 40 ms of
their time, and if the long file takes more than 100 MB more at its peak.
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
from fuzz_media import FakeModel
from reliability import save_row

from icf_avs.inference.segment import segment_video
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import read_frames

RATE, SIZE, BRIGHT, LOUD = 8_000, 32, 7, 5
SHORT, MARGIN = 600, 100 << 20  # seconds of the short file; bytes of extra memory allowed for the long one
END, RATE_OF_END, CLAP, ALIGNED = 2, 50, 1.0, 0.04  # seconds, frames per second; of the clap, seconds


def write(path: Path, seconds: int) -> None:
    """Write the file: only two frames are encoded and their packets are muxed repeatedly."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=RATE_OF_END)
        audio = container.add_stream("pcm_s16le", rate=RATE)
        video.width, video.height, video.pix_fmt = SIZE, SIZE, "yuvj420p"
        pictures = []
        for level in (0, 255):
            image = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), level, np.uint8), "rgb24")
            pictures += [bytes(packet) for packet in video.encode(image.reformat(format="yuvj420p"))]
        tone = (9_000 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype("<i2").tobytes()

        def put(stream: av.stream.Stream, data: bytes, number: int, rate: int = 1) -> None:
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, rate), number, number
            packet.duration, packet.is_keyframe = 1, True
            container.mux(packet)

        for second in range(seconds):
            put(video, pictures[second % BRIGHT == 0], second)
            put(audio, tone if second % LOUD == 0 else bytes(2 * RATE), second)
        click = np.zeros(END * RATE, "<i2")
        click[round(CLAP * RATE) :][:8] = 30_000
        for second, sound in enumerate(np.split(click, END), seconds):
            put(audio, sound.tobytes(), second)
            for number in range(second * RATE_OF_END, (second + 1) * RATE_OF_END):
                put(video, pictures[number >= (seconds + CLAP) * RATE_OF_END], number, RATE_OF_END)


def clap_is_off(path: Path, seconds: int) -> bool:
    """True if the flash or the click after `seconds` seconds is found at another time."""
    wave = AudioWindows(path).read(16_000 * seconds, 16_000 * END)
    times = [seconds + number / 200 for number in range(END * 200)]
    seen = next(time for time, (_, image) in zip(times, read_frames(path, times), strict=True) if image.mean() > 128)
    heard = seconds + np.abs(wave).argmax() / 16_000
    print(f"clap at {seconds + CLAP} s, seen at {seen} s, heard at {heard:.3f} s", flush=True)
    return max(abs(seen - seconds - CLAP), abs(heard - seconds - CLAP), abs(heard - seen)) > ALIGNED


def _child(path: Path, seconds: int, tell: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    result = segment_video(FakeModel(), path, path.parent / "out")
    full = [second % (BRIGHT * LOUD) == 0 and second < seconds for second in range(seconds + END)]
    wrong = sum((area > 0.5) != expected for area, expected in zip(result.areas, full, strict=True))
    wrong += clap_is_off(path, seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tell.send((int(wrong), peak))


def measured(seconds: int) -> tuple[int, int]:
    """Return (number of wrong masks, counting the clap; peak memory in bytes) for a file of `seconds` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mkv"
        write(path, seconds)
        context = multiprocessing.get_context("spawn")  # a fresh process, for a clean memory measurement
        ear, mouth = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(path, seconds, mouth))
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
        wrong, peak = measured(seconds)
        print(f"{seconds} s: {wrong} wrong, {peak >> 20} MB, {time.monotonic() - began:.0f} s", flush=True)
        failed += wrong > 0
        peaks.append(peak)
    failed += peaks[1] > peaks[0] + MARGIN
    if args.out:
        save_row(args.out, f"{args.hours:g}-hour video", 3, failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
