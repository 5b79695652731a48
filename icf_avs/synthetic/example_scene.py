"""Scene of the figure in README: a fire truck that sounds in three of five seconds, between a seahorse and a lobster.

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
SILENT = ("animals/fish/seahorse", 1.5, 0.42), ("animals/fish/lobster", 0.35, 0.72)  # stem, x, y


def write_scene(video: Path, spec: ClipSpec) -> Clip:
    """Write the scene as MP4. Returns its frames, sound and known masks at the times of `spec`."""
    catalog = load_catalog()
    truck = catalog.sound_class("fire-truck")
    stamps = [PlacedStamp(stem, "", 0, (), x, y, 0.4, drift_x=0.01, feather=0.5) for stem, x, y in SILENT]
    spans = ((-1.0, 3.0),)
    stamps += [PlacedStamp(truck.stems[0], truck.name, truck.id, spans, 0.85, 0.5, 0.5, drift_x=-0.03, feather=0.5)]
    scene = Scene(catalog.root, "test", 0, 0, 5, SIZE[0] / SIZE[1], "noise:3", stamps=tuple(stamps))
    clip = render_clip(scene, SoundBank(catalog), spec, SIZE)
    times = np.arange(scene.seconds * FRAMES_A_SECOND) / FRAMES_A_SECOND
    pictures = (render_frame(scene, time, SIZE)[0] for time in times)
    write_mp4(video, pictures, SIZE, np.round(clip.waveform * 32767).astype(np.int16))
    return clip
