"""Render docs/result.gif and docs/natural.png with the shipped checkpoints: `python -m tools.make_picture`.

A composed scene of three stamps that may be shown with credit (see README, licence) on a generated background. The fire
truck sounds in the first three of five seconds. The animation is the overlay video of `stamps`; the image has what
`natural` predicts above, and the known mask below.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

import icf_avs
from icf_avs.datasets.clip_files import write_mp4
from icf_avs.output.overlay import Overlay
from icf_avs.synthetic.batches import Clip, render_clip
from icf_avs.synthetic.catalog import load_catalog
from icf_avs.synthetic.rendering import render_frame
from icf_avs.synthetic.scene import PlacedStamp, Scene
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.types import ClipSpec

SIZE = (426, 240)
FRAMES_A_SECOND = 25
SHOWN = (0, 2, 3, 4)  # seconds
ANIMATED = (320, 180)
EVERY = 4  # of the overlay's frames, one is in the animation


def stamp(
    stem: str, kind: str, class_id: int, spans: tuple, x: float, y: float, size: float, drift: float
) -> PlacedStamp:
    """A stamp that drifts sideways, in its own colours."""
    return PlacedStamp(
        stem=stem, class_name=kind, class_id=class_id, spans=spans, x=x, y=y, size=size, angle=0.0, flip=False,
        drift_x=drift, drift_y=0.0, growth=0.0, spin=0.0, sway=0.0, sway_frequency=0.2, sway_phase=0.0,
        gains=(1.0, 1.0, 1.0), offset=0.0, feather=0.5,
    )  # fmt: skip


def write_scene(video: Path, spec: ClipSpec) -> Clip:
    """Write the scene as MP4; its pictures, its sound and the known masks at the moments that `spec` asks for."""
    catalog = load_catalog()
    truck = catalog.sound_class("fire-truck")
    scene = Scene(
        root=catalog.root, split="test", index=0, seed=0, seconds=5, aspect=SIZE[0] / SIZE[1], background="noise:3",
        zoom=1.0, pan_x=0.0, pan_y=0.0, pan_speed_x=0.0, pan_speed_y=0.0, gains=(1.0, 1.0, 1.0), offset=0.0,
        jpeg_quality=0,
        stamps=(
            stamp("animals/fish/seahorse", "", 0, (), 1.5, 0.42, 0.4, 0.01),
            stamp("animals/fish/lobster", "", 0, (), 0.35, 0.72, 0.4, 0.01),
            stamp(truck.stems[0], truck.name, truck.id, ((-1.0, 3.0),), 0.85, 0.5, 0.5, -0.03),
        ),
    )  # fmt: skip
    clip = render_clip(scene, SoundBank(catalog), spec, SIZE)
    times = np.arange(scene.seconds * FRAMES_A_SECOND) / FRAMES_A_SECOND
    pictures = (render_frame(scene, time, SIZE)[0] for time in times)
    write_mp4(video, pictures, SIZE, np.round(clip.waveform * 32767).astype(np.int16))
    return clip


def write_picture(checkpoint: str, target: Path) -> None:
    """What a checkpoint marks in the scene."""
    segmenter = icf_avs.load(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "scene.mp4"
        clip = write_scene(video, ClipSpec())
        marked = segmenter.segment(video).masks
    sheet = Image.new("RGB", (SIZE[0] * len(SHOWN) + 4 * (len(SHOWN) - 1), SIZE[1] * 2 + 4), "white")
    for column, second in enumerate(SHOWN):
        for row, mask in enumerate((marked[second], clip.masks[second] > 0)):
            picture = clip.frames[second].copy()
            Overlay(mask).draw_rgb(picture)
            sheet.paste(Image.fromarray(picture), (column * (SIZE[0] + 4), row * (SIZE[1] + 4)))
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(target, optimize=True)
    print(target)


def write_animation(checkpoint: str, target: Path) -> None:
    """The overlay video of a checkpoint, as GIF."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "scene.mp4"
        write_scene(video, ClipSpec())
        icf_avs.load(checkpoint).segment(video, out=folder, fps=5)
        (overlay,) = Path(folder).rglob("overlay.mp4")
        with av.open(str(overlay)) as container:
            shown = [frame.to_image() for i, frame in enumerate(container.decode(video=0)) if i % EVERY == 0]
    frames = [frame.resize(ANIMATED, Image.Resampling.LANCZOS) for frame in shown]
    colours = frames[len(frames) // 4].quantize(128)
    first, *rest = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    milliseconds = EVERY * 1000 // FRAMES_A_SECOND
    first.save(target, save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=True)
    print(target)


if __name__ == "__main__":
    docs = Path(__file__).parents[1] / "docs"
    write_animation("stamps", docs / "result.gif")
    write_picture("natural", docs / "natural.png")
