"""Videos of colour patches. Planes and tags follow the formulas of the standards; no converter is used."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clip_maker import RATE

COLOURS = np.array(
    [
        (0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (30, 60, 90)
    ]
)  # fmt: skip
PATCH = 32
LUMINANCE = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}


def patches(signals: np.ndarray, pix_fmt: str, matrix: int = 5, full: bool = False, side: int = PATCH) -> av.VideoFrame:
    """Frame of n patches in a row. signals: RGB in 0..1, [n, 3], or [n, 4] with alpha. matrix: AVColorSpace number."""
    frame = av.VideoFrame(side * len(signals), side, pix_fmt)
    top = (1 << frame.format.components[0].bits) - 1
    low, span, chroma = (0, top, top) if full else ((top + 1) // 16, 219 * (top + 1) // 256, 224 * (top + 1) // 256)
    red, blue = LUMINANCE.get(matrix, (0.299, 0.114))
    r, g, b = signals[:, :3].T
    y = red * r + (1 - red - blue) * g + blue * b
    if pix_fmt.startswith("gbr"):
        planes = [low + span * channel for channel in (g, b, r)]
    elif pix_fmt.startswith("gray"):
        planes = [top * y]  # FFmpeg has grey in full range only
    elif pix_fmt.startswith("yuv"):
        middle = (top + 1) // 2
        u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
        planes = [low + span * y, middle + chroma * u, middle + chroma * v]
    else:
        planes = [np.round(signals[:, [*"rgba"].index(name)] * top) for name in pix_fmt[:4].rstrip("0123456789")]
        planes = [np.stack(planes, axis=-1)]
    if signals.shape[1] == 4 and len(frame.planes) == 4:
        planes.append(signals[:, 3] * top)
    for plane, values in zip(frame.planes, planes, strict=True):
        kind = np.dtype("<u2" if top > 255 else "u1")
        row = np.repeat(values.round().clip(0, top).astype(kind), plane.width // len(signals), axis=0).ravel()
        whole = np.zeros((plane.height, plane.line_size // kind.itemsize), kind)
        whole[:, : len(row)] = row
        plane.update(whole.tobytes())
    return frame


def write_patches(
    path: Path, frames: Sequence[av.VideoFrame], codec: str = "ffv1", sound: np.ndarray | None = None,
    options: dict[str, str] | None = None, **tags: int,
) -> Path:  # fmt: skip
    """Write frames at 25 fps. tags: colorspace, color_range, color_trc, color_primaries, as numbers."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options or {})
        video.width, video.height, video.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        for name, value in tags.items():
            setattr(video.codec_context, name, value)
        video.codec_context.time_base = Fraction(1, 25)
        audio = container.add_stream("pcm_s16le", rate=RATE) if sound is not None else None
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, video.codec_context.time_base
            for name, value in tags.items():
                setattr(frame, name, value)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            block = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
            block.sample_rate = RATE
            container.mux([*audio.encode(block), *audio.encode(None)])
    return path


def seen(image: np.ndarray) -> np.ndarray:
    """Colour at the centre of each patch, int [n, 3]."""
    return image[image.shape[0] // 2, PATCH // 2 :: PATCH].astype(int)
