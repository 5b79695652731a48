# %% [markdown]
# # Does the model use the audio?
#
# The frames of a video stay the same. The sound is the video's own, silence, noise, or that of another video. Regions
# that are segmented only under the first are segmented because of the sound.
#
# Open this file as a notebook in VS Code or Jupyter (with jupytext), or run `python notebooks/negative_sounds.py`.
# Images are saved in `notebook_out/`.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import icf_avs
from icf_avs.inference.segment import segment_video
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.serve.audio_override import noise, of_clip, silence
from icf_avs.synthetic.benchmark import write_stamps

OUT = Path("notebook_out")
OUT.mkdir(exist_ok=True)


def show(image: Image.Image, name: str) -> Image.Image:
    """Save an image, and let a notebook display it."""
    image.save(OUT / f"{name}.png")
    return image


# %% [markdown]
# Two composed scenes of classes that the checkpoint `stamps` knows. For your own videos:
# `video, other = "street.mp4", "rain.mp4"`, and the checkpoint `natural`.

# %%
write_stamps(Path("notebook_data"), seed=0, test=2)
video, other = sorted(Path("notebook_data/Single-source/raw_videos").rglob("*.mp4"))
print("sound of the video:", video.parent.name, "| of the other:", other.parent.name)
predictor = icf_avs.load("stamps").predictor

# %% [markdown]
# ## Segmented share

# %%
info = probe(video)
sounds = {"its own": None, "silence": silence(info), "noise": noise(info), "another": of_clip(info, probe(other))}
results = {name: segment_video(predictor, video, sound=sound) for name, sound in sounds.items()}
shares = {name: float(result.areas.mean()) for name, result in results.items()}
for name, share in shares.items():
    print(f"{name:8} {share:6.1%} of the frame")

# %% [markdown]
# One row for each sound, one column for each second.


# %%
def strip(result: icf_avs.results.Segmentation) -> np.ndarray:
    """The frames of a video side by side, masks in red."""
    tinted = []
    for frame, (_, image) in zip(result.frames, read_frames(result.video, result.times), strict=True):
        red = image // 2 + np.array([127, 0, 0], np.uint8)
        tinted.append(np.where(frame.mask[..., None], red, image)[::2, ::2])
    return np.concatenate(tinted, 1)


rows = Image.fromarray(np.concatenate([strip(result) for result in results.values()]))
show(rows, "negative_sounds-masks")

# %% [markdown]
# ## Predicted labels
#
# The most probable labels of each second, with their probabilities.

# %%
for name, result in results.items():
    for second, labels in enumerate(result.heard):
        print(f"{name:8} second {second}:", ", ".join(f"{label} {p:.2f}" for label, p in labels[:3]) or "nothing")

# %% [markdown]
# ## Segmented share by loudness
#
# The sound is attenuated step by step. A model that uses the audio segments nothing below some loudness.


# %%
def attenuated(decibel: float) -> icf_avs.media.audio_windows.AudioSource:
    """The video's own sound, attenuated by this many dB."""

    def blocks(rate: int, layout: str | None):
        for block in icf_avs.media.audio_windows.audio_blocks(info, rate, layout):
            yield block * np.float32(10 ** (-decibel / 20))

    return blocks


levels = (0, 30, 60)
curve = [float(segment_video(predictor, video, sound=attenuated(level)).areas.mean()) for level in levels]
for level, share in zip(levels, curve, strict=True):
    print(f"-{level:2} dB {share:6.1%} {'#' * round(200 * share)}")

# %%
bars = np.full((100, 40 * len(levels)), 255, np.uint8)
for number, share in enumerate(curve):
    height = round(99 * share / max(*curve, 1e-9))
    bars[100 - height :, 40 * number + 5 : 40 * number + 35] = 60
show(Image.fromarray(bars), "negative_sounds-loudness")
