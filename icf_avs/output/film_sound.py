"""The sound of a film: the video's own AAC as it is, or whatever else there is as AAC.

What is copied loses nothing and costs next to nothing. It must be without holes: a film has its sound at the second it
belongs to, and holes have to be filled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Protocol

import av
import numpy as np

from icf_avs.data.audio_windows import Sound, sound_blocks
from icf_avs.data.media import MediaInfo, chosen_streams, opened
from icf_avs.data.packets import packets

_AAC = {"aac_coder": "fast"}  # at this rate no worse than the default, by signal to noise, in two thirds of its time
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class FilmSound(Protocol):
    """The audio track of a film that is being written."""

    def write_until(self, time: float) -> None:
        """Write on until the sound reaches `time` seconds, or to its end."""


def film_sound(container: av.container.OutputContainer, info: MediaInfo, sound: Sound | None) -> FilmSound:
    """Add an audio track to a film: `sound`, or the video's own."""
    if sound is None and info.audio_codec == "aac" and info.audio_channels <= 2 and info.audio_unbroken:
        with opened(info.path, info.parts) as source:
            own = chosen_streams(source, info.path, info.audio_track)[1]
            if own.codec_context.extradata:  # in broadcasts each packet brings its own, which MP4 does not hold
                return _Copied(container, info, container.add_stream_from_template(own))
    return _Encoded(container, info, sound)


class _Copied:
    """Packets as they are, on the clock of the pictures, but for those that are known to be damaged: not every player
    goes on behind one. One that ends before second 0 is kept to begin with: the next may need it to be decoded.
    """

    def __init__(
        self, container: av.container.OutputContainer, info: MediaInfo, stream: av.audio.stream.AudioStream
    ) -> None:
        self._container, self._stream = container, stream
        self._packets = self._moved(info)
        self._next = next(self._packets, None)

    def _moved(self, info: MediaInfo) -> Iterator[av.Packet]:
        with opened(
            info.path, info.parts
        ) as source:  # in here, where only what reading raises is taken for the video's fault
            own = chosen_streams(source, info.path, info.audio_track)[1]
            for number, packet in enumerate(info.clock.applied(packets(source, own))):
                if not packet.size:  # ends the stream
                    return
                if number in info.repaired.sound:
                    continue
                begin = packet.dts if packet.pts is None else packet.pts
                packet.pts = packet.dts = begin - round(info.start / packet.time_base)
                early, cut_off = packet.pts + 2 * (packet.duration or 0) < 0, packet.is_discard and packet.pts >= 0
                if not (early or cut_off):
                    packet.stream = self._stream
                    yield packet

    def write_until(self, time: float) -> None:
        while self._next is not None and self._next.pts * self._next.time_base < time:
            self._container.mux(self._next)
            self._next = next(self._packets, None)


class _Encoded:
    """The sound at the second it belongs to: holes are filled, late sound stays late."""

    def __init__(self, container: av.container.OutputContainer, info: MediaInfo, sound: Sound | None) -> None:
        self._container = container
        rate = info.audio_rate if info.audio_rate in _AAC_RATES else 48_000
        self._layout = "mono" if sound is None and info.audio_channels == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=rate, layout=self._layout, options=_AAC)
        self._blocks = (sound or partial(sound_blocks, info))(rate, self._layout)
        self._samples = 0

    def write_until(self, time: float) -> None:
        rate = self._stream.rate
        while self._samples < time * rate:
            block = next(self._blocks, None)
            if block is None:
                if time == math.inf:
                    self._container.mux(self._stream.encode(None))
                return
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", self._layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), self._samples
            self._container.mux(self._stream.encode(frame))
            self._samples += block.shape[1]
