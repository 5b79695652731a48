"""python -m benchmarks.transcoding VIDEO OUT OPTIONS: decode a video and encode it with these options (JSON) of x264.

The least that `icf segment` has to do for an overlay video: no model and no masks. The sound is copied. Decoding and
encoding have a thread each.
"""

from __future__ import annotations

import json
import queue
import sys
from threading import Thread

import av
from av.video.frame import PictureType

AHEAD = 50  # decoded frames that wait at most


def transcode(source: str, target: str, options: dict[str, str]) -> None:
    frames: queue.Queue[av.VideoFrame | None] = queue.Queue(AHEAD)

    def decode() -> None:
        try:
            with av.open(source) as container:
                container.streams.video[0].thread_type = "AUTO"
                for frame in container.decode(video=0):
                    frames.put(frame)
        finally:
            frames.put(None)

    Thread(target=decode, daemon=True).start()
    with av.open(source) as sound, av.open(target, "w") as container:
        shown = sound.streams.video[0]
        video = container.add_stream("libx264", rate=shown.average_rate, options=options)
        audio = container.add_stream_from_template(sound.streams.audio[0])
        video.width, video.height, video.pix_fmt, video.thread_count = shown.width, shown.height, "yuv420p", 1
        while (frame := frames.get()) is not None:
            frame.pict_type = PictureType.NONE  # do not force the key frames of the source
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for packet in sound.demux(audio=0):
            if packet.size:
                packet.stream = audio
                container.mux(packet)


if __name__ == "__main__":
    transcode(*sys.argv[1:3], json.loads(sys.argv[3]))
