"""A sound file as a mono waveform, whatever its format, rate and channels."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np

from icf_avs.errors import UserError
from icf_avs.media.downmix import to_mono
from icf_avs.media.local_url import check_no_pipe, local_url


def read_audio(source: Path | bytes, rate: int, advice: str = "") -> tuple[np.ndarray, int]:
    """float32 [n] at `rate` Hz, and the rate it is stored at (Hz). source: a file, or its bytes.

    Raises UserError, with `advice`, if it holds no sound.
    """
    label, advice = f"{len(source)} bytes" if isinstance(source, bytes) else source, advice and f"; {advice}"
    if not isinstance(source, bytes):
        check_no_pipe(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else local_url(source)
        with av.open(file, options={} if isinstance(source, bytes) else {"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise UserError(f"{label}: no sound in it{advice}")
            stored = container.streams.audio[0].rate
            # Channels are kept here: the resampler's own mixing does not take their mean.
            resampler = av.AudioResampler("fltp", None, rate)
            parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
            parts += resampler.resample(None) if parts else []
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{label}: cannot be decoded as sound ({reason}){advice}") from error
    if not parts:
        raise UserError(f"{label}: its sound is empty{advice}")
    return np.concatenate([*to_mono((part.to_ndarray() for part in parts), rate)]).astype(np.float32), stored
