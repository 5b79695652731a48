"""The scene of README's figure: a fire truck that sounds in three of five seconds, between a seahorse and a lobster.

Its three stamps may be shown with credit: README, licence.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icf_avs.datasets.clip_files import write_mp4
from icf_avs.synthetic.batches import Clip, render_clip
from icf_avs.synthetic.catalog import load_catalog
from icf_avs.synthetic.rendering import render_frame
from icf_avs.synthetic.scene import PlacedStamp, Scene
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.types import ClipSpec

SIZE = (426, 240)
FRAMES_A_SECOND = 25
CREDIT = "Fire truck photographed by Aaron M. Lang (CC BY 2.5); lobster and seahorse from NOAA; cut out for Tux Paint"


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
