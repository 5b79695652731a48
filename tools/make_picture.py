"""Render the images of the documents with the shipped checkpoints: `python -m tools.make_picture`.

result.gif and natural.png show the scene of icf_avs/synthetic/example_scene.py: the animation is the overlay video of
`stamps`; the image shows the masks of `natural` above and the ground truth below. natural_speech.png and
natural_words.png are photographs from scikit-image (pip install scikit-image), under other sounds and tags.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

import icf_avs
from icf_avs.errors import UserError
from icf_avs.media.audio_file import read_audio
from icf_avs.output.overlay import Overlay
from icf_avs.synthetic.catalog import load_catalog
from icf_avs.synthetic.example_scene import FRAMES_A_SECOND, SIZE, write_scene
from icf_avs.types import ClipSpec

SHOWN = (0, 2, 3, 4)  # seconds
ANIMATED = (320, 180)
EVERY = 4  # one of so many overlay frames is in the animation
GAP = 4  # pixels between the images of a sheet
PHOTOGRAPH_HEIGHT = 200
SPEECH = "stamps:animals/mammals/dogs/fox_desc"  # a spoken description of an image
BARK, MEOW = "ovos:animals/dog.mp3", "ovos:animals/cat.mp3"
SECONDS = 5  # length of a photograph with sound


def write_picture(checkpoint: str, target: Path) -> None:
    """Write the masks of a checkpoint in the scene, above the ground truth."""
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


def write_photographs(checkpoint: str, docs: Path) -> None:
    """Write the masks for the portrait of an astronaut (NASA, public domain) under speech and a bark, and for a cat
    (Stefan van der Walt, CC0) under a meow that the tagger mostly labels as a bark, without and with the tag "cat".
    """
    segmenter, catalog = icf_avs.load(checkpoint), load_catalog()
    rate = segmenter.model.spec.sample_rate
    speech, bark, meow = (
        np.resize(read_audio(catalog.read_recording(name), rate)[0], SECONDS * rate) for name in (SPEECH, BARK, MEOW)
    )
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError("the photographs come with scikit-image: pip install scikit-image")

    def write_pair(
        photograph: str, target: Path, sounds: tuple[np.ndarray, ...], words: tuple[str | None, ...] = (None, None)
    ) -> None:
        picture = Image.open(Path(spec.origin).parent / "data" / photograph).convert("RGB")
        frames, shown = np.repeat(np.asarray(picture)[None], SECONDS, 0), []
        for sound, word in zip(sounds, words, strict=True):
            found = segmenter.segment(frames, audio=sound, frame_rate=1, sample_rate=rate, words=word)
            marked = np.array(picture.convert("L").convert("RGB"))  # grey, so that the overlay colour stands out
            Overlay(found.masks[SECONDS // 2]).draw_rgb(marked)
            shown.append(Image.fromarray(marked))
        width = shown[0].width * PHOTOGRAPH_HEIGHT // shown[0].height
        sheet = Image.new("RGB", (2 * width + GAP, PHOTOGRAPH_HEIGHT), "white")
        for column, each in enumerate(shown):
            each = each.resize((width, PHOTOGRAPH_HEIGHT), Image.Resampling.LANCZOS)
            sheet.paste(each, (column * (width + GAP), 0))
        sheet.quantize(256, kmeans=1).save(target, optimize=True)
        print(target)

    write_pair("astronaut.png", docs / "natural_speech.png", (speech, bark))
    write_pair("chelsea.png", docs / "natural_words.png", (meow, meow), (None, "cat"))


def write_animation(checkpoint: str, target: Path) -> None:
    """Write the overlay video of a checkpoint as GIF."""
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
    write_photographs("natural", docs)
