"""Render docs/result.gif and docs/natural.png with the shipped checkpoints: `python -m tools.make_picture`.

The scene is that of icf_avs/synthetic/example_scene.py. The animation is the overlay video of `stamps`; the image has
what `natural` predicts above, and the known mask below.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import av
from PIL import Image

import icf_avs
from icf_avs.output.overlay import Overlay
from icf_avs.synthetic.example_scene import FRAMES_A_SECOND, SIZE, write_scene
from icf_avs.types import ClipSpec

SHOWN = (0, 2, 3, 4)  # seconds
ANIMATED = (320, 180)
EVERY = 4  # of the overlay's frames, one is in the animation


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
