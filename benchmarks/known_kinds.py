"""Files with known content that a reader with simple assumptions about timestamps and damage gets wrong."""

from __future__ import annotations

import struct
from itertools import chain
from pathlib import Path

import av
import numpy as np
from known_clips import Known, content, make

_CLOCK = 90_000  # ticks per second in MPEG streams
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
JOINED = [
    *((end, {}) for end in ("ts", "m2ts", "mpg", "vob", "mkv", "webm", "mp4", "mov", "flv", "wmv", "avi", "wtv")),
    *((end, {}) for end in ("nut", "ogv", "mxf")),
    ("mp4", _FRAGMENTED), ("mp4", {"movflags": "faststart"}), ("mkv", {"live": "1"}),
]  # fmt: skip
PIDS = {"video": 0x100, "audio": 0x101}


def joined(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """Two or three files concatenated, as by `cat`: timestamps restart."""
    end, movie = JOINED[rng.integers(len(JOINED))]
    parts = [content(rng, int(rng.integers(1, 5))) for _ in range(rng.integers(2, 4))]
    paths = [make(folder / f"{number}.{end}", part, movie=movie) for number, part in enumerate(parts)]
    path = folder / f"joined.{end}"
    path.write_bytes(b"".join(part.read_bytes() for part in paths))
    return path, Known(tuple(chain(*parts)), repaired=True)


def followed(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """A file followed by another one that does not belong to it: truncated, or without sound."""
    end = str(rng.choice(["mp4", "mov"]))
    seconds, path = content(rng, int(rng.integers(1, 5))), folder / f"followed.{end}"
    first, second = make(folder / f"first.{end}", seconds), make(folder / f"second.{end}", content(rng, 3)).read_bytes()
    if rng.random() < 0.5:
        with av.open(str(first)) as source, av.open(str(folder / f"silent.{end}"), "w") as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        second = (folder / f"silent.{end}").read_bytes()
    else:
        second = second[: int(rng.uniform(0.3, 0.8) * len(second))]
    path.write_bytes(first.read_bytes() + second)
    return path, Known(tuple(seconds), repaired=True)


def jumping(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """A transport stream in which the timestamps of one or both streams jump back or forth."""
    seconds = content(rng, 6)
    data = bytearray(make(folder / "whole.ts", seconds).read_bytes())
    kinds = [["video", "audio"], ["video"], ["audio"]][rng.integers(3)]
    place = float(rng.integers(1, 5))
    by = float(rng.choice([-1, 1]) * rng.choice([20, 3600, 40_000]) + 1)
    back = place + 1 if rng.random() < 0.3 else np.inf  # only for one second
    for kind in kinds:
        restamp(data, PIDS[kind], lambda time: time + by if place <= time - 0.2 < back else time)
    path = folder / "jumping.ts"
    path.write_bytes(data)
    return path, Known(tuple(seconds), repaired=True)


def wrapping(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """A transport stream whose 33-bit timestamps wrap around."""
    seconds = content(rng, 5)
    data = bytearray(make(folder / "whole.ts", seconds).read_bytes())
    start = (1 << 33) / _CLOCK - float(rng.uniform(0, 5))
    for pid in PIDS.values():
        restamp(data, pid, lambda time: time + start)
    path = folder / "wrapping.ts"
    path.write_bytes(data)
    return path, Known(tuple(seconds))


def gap(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """A file with hours without packets."""
    end = str(rng.choice(["mp4", "mkv", "ts", "flv", "mov"]))
    seconds = content(rng, 5)
    whole, path = make(folder / f"whole.{end}", seconds), folder / f"gap.{end}"
    place, by = float(rng.integers(1, 5)), float(rng.choice([1800, 3600, 30_000]))
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        copies = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                if packet.pts * packet.time_base >= place - 0.01:
                    packet.pts += round(by / packet.time_base)
                    packet.dts += round(by / packet.time_base)
                packet.stream = copies[packet.stream_index]
                out.mux(packet)
    return path, Known(tuple(seconds), repaired=True)


def damaged(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """A file with some packets overwritten."""
    end = str(rng.choice(["mp4", "mov", "mkv", "webm", "avi", "flv"]))
    seconds = content(rng, 6)
    path, touched = make(folder / f"damaged.{end}", seconds, options={"bf": "0"}), set()
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [
            (bytes(packet), float(packet.pts * packet.time_base), packet.stream.type == "video")
            for packet in container.demux()
            if packet.size > 12
        ]
    start = min(time for _, time, is_video in packets if is_video)
    for number in rng.choice(len(packets), rng.integers(1, 6), replace=False):
        packet, time, is_video = packets[number]
        place, size = data.find(packet), len(packet)
        data[place : place + size] = (rng.bytes(size), bytes(size), b"\xff" * size)[rng.integers(3)]
        if is_video:
            touched.add(int(time - start + 0.01))
    path.write_bytes(data)
    return path, Known(tuple(seconds), frozenset(touched))


def edited(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """An MP4 or MOV with an edit list that hides the beginning, the end, or both."""
    end = str(rng.choice(["mp4", "mov"]))
    seconds = content(rng, 8)
    first, count = int(rng.integers(4)), int(rng.integers(1, 5))
    path = make(
        folder / f"edited.{end}", seconds, options={"bf": "2", "g": "250"}, movie={"movie_timescale": "1000",
        "use_editlist": "1"},
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    for box, place in ((b"mvhd", 20), (b"tkhd", 24), (b"elst", 12)):
        at = data.find(box)
        while at >= 0:
            struct.pack_into(">I", data, at + place, 1000 * count)
            if box == b"elst":
                clock = struct.unpack_from(">I", data, data.find(b"mdhd", at) + 16)[0]
                struct.pack_into(">i", data, at + 16, struct.unpack_from(">i", data, at + 16)[0] + first * clock)
            at = data.find(box, at + 4)
    path.write_bytes(data)
    return path, Known(tuple(seconds[first : first + count]))


def outlasting(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """A file whose sound continues after the last frame, or starts late."""
    end = str(rng.choice(["mp4", "mov", "mkv", "webm", "ts", "flv"]))
    seconds = content(rng, 6)
    if rng.random() < 0.5:
        last = int(rng.integers(1, 6))
        path = make(folder / f"outlasting.{end}", seconds, video_seconds=last)
        return path, Known(tuple((seconds[min(number, last - 1)][0], tone) for number, (_, tone) in enumerate(seconds)))
    late = int(rng.integers(1, 4))
    path = make(folder / f"late.{end}", seconds, sound_at=late)
    tones = [None] * late + [tone for _, tone in seconds]
    colours = [colour for colour, _ in seconds] + [seconds[-1][0]] * late
    return path, Known(tuple(zip(colours, tones, strict=True)))


def cut_off(folder: Path, rng: np.random.Generator) -> tuple[Path, Known]:
    """A recording without a stated duration, truncated at a random place."""
    end, movie = [
        ("ts", {}),
        ("mpg", {}),
        ("mkv", {"live": "1"}),
        ("mp4", _FRAGMENTED),
    ][rng.integers(4)]
    seconds = content(rng, 6)
    path = make(folder / f"cut.{end}", seconds, movie=movie)
    data = path.read_bytes()
    share = float(rng.uniform(0.5, 0.95))
    path.write_bytes(data[: int(share * len(data))])
    return path, Known(tuple(seconds), missing=6 * (1 - share) + 2.5)


KINDS = {
    kind.__name__: kind for kind in (joined, followed, jumping, wrapping, gap, damaged, edited, outlasting, cut_off)
}  # fmt: skip


def restamp(data: bytearray, pid: int, moved) -> None:
    """Change the timestamps of one stream of a transport stream. `moved`: seconds since its start -> seconds."""
    first = None
    for at in range(0, len(data) - 187, 188):
        if int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF != pid or not data[at + 1] & 0x40:
            continue
        body = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
        fields = {2: [9], 3: [9, 14]}.get(data[body + 7] >> 6, [])
        stamps = [_stamp(data, body + field) for field in fields]
        first = stamps[-1] if first is None and stamps else first
        for field, stamp in zip(fields, stamps, strict=True):
            # decided by the decoding timestamp, so that both timestamps of a packet jump together
            by = moved((stamps[-1] - first) / _CLOCK) - (stamps[-1] - first) / _CLOCK
            _put_stamp(data, body + field, (stamp + round(by * _CLOCK)) % (1 << 33))


def _stamp(data: bytearray, at: int) -> int:
    high, middle, low = data[at] >> 1 & 7, int.from_bytes(data[at + 1 : at + 3], "big") >> 1, data[at + 3 : at + 5]
    return high << 30 | middle << 15 | int.from_bytes(low, "big") >> 1


def _put_stamp(data: bytearray, at: int, stamp: int) -> None:
    data[at] = data[at] & 0xF1 | stamp >> 29 & 0x0E
    data[at + 1 : at + 3] = (stamp >> 14 & 0xFFFE | 1).to_bytes(2, "big")
    data[at + 3 : at + 5] = (stamp << 1 & 0xFFFE | 1).to_bytes(2, "big")
