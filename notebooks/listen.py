# %% [markdown]
# # One video under several sounds
#
# The pictures stay as they are; the model hears the video's own sound, silence, noise, and another video. What it marks
# only under the first, it marks because it listens.
#
# Open this file as a notebook in VS Code or Jupyter (with jupytext), or run it: `python notebooks/listen.py`. Pictures
# are kept in `notebook_out/`.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import icf_avs
from icf_avs.data.media import probe, read_frames
from icf_avs.segment import segment_video
from icf_avs.serve.other_sound import noise, of_clip, silence
from icf_avs.stamps.benchmark import write_stamps

OUT = Path("notebook_out")
OUT.mkdir(exist_ok=True)


def show(picture: Image.Image, name: str) -> Image.Image:
    """Keep a picture, and let a notebook show it."""
    picture.save(OUT / f"{name}.png")
    return picture


# %% [markdown]
# Two composed scenes that the shipped model can know. For your own: `video, other = "street.mp4", "rain.mp4"`, and a
# checkpoint that has learnt from natural video.

# %%
write_stamps(Path("notebook_data"), seed=0, test=2)
video, other = sorted(Path("notebook_data/Single-source/raw_videos").rglob("*.mp4"))
print("in the video sounds:", video.parent.name, "| in the other:", other.parent.name)
predictor = icf_avs.load("stamps").predictor

# %% [markdown]
# ## What is marked

# %%
info = probe(video)
sounds = {"its own": None, "silence": silence(info), "noise": noise(info), "another": of_clip(info, probe(other))}
results = {name: segment_video(predictor, video, sound=sound) for name, sound in sounds.items()}
shares = {name: float(result.areas.mean()) for name, result in results.items()}
for name, share in shares.items():
    print(f"{name:8} {share:6.1%} of the picture")

# %% [markdown]
# A row for each sound, a column for each second.


# %%
def strip(result: icf_avs.segmentation.Segmentation) -> np.ndarray:
    """The pictures of a video side by side, what is marked in red."""
    shown = []
    for frame, (_, picture) in zip(result.frames, read_frames(result.video, result.times), strict=True):
        tint = picture // 2 + np.array([127, 0, 0], np.uint8)
        shown.append(np.where(frame.mask[..., None], tint, picture)[::2, ::2])
    return np.concatenate(shown, 1)


rows = Image.fromarray(np.concatenate([strip(result) for result in results.values()]))
show(rows, "listen-masks")

# %% [markdown]
# ## What is heard
#
# The reading of each second: the likeliest words of the model's vocabulary, with their probabilities.

# %%
for name, result in results.items():
    for second, heard in enumerate(result.heard):
        print(f"{name:8} second {second}:", ", ".join(f"{word} {p:.2f}" for word, p in heard[:3]) or "nothing")

# %% [markdown]
# ## How the share changes with loudness
#
# The sound is made softer step by step. A model that listens lets go at some loudness, and does not before.


# %%
def softer(decibel: float) -> icf_avs.data.audio_windows.Sound:
    """The video's own sound, so many dB softer."""

    def blocks(rate: int, layout: str | None):
        for block in icf_avs.data.audio_windows.sound_blocks(info, rate, layout):
            yield block * np.float32(10 ** (-decibel / 20))

    return blocks


levels = (0, 30, 60)
curve = [float(segment_video(predictor, video, sound=softer(level)).areas.mean()) for level in levels]
for level, share in zip(levels, curve, strict=True):
    print(f"-{level:2} dB {share:6.1%} {'#' * round(200 * share)}")

# %%
bars = np.full((100, 40 * len(levels)), 255, np.uint8)
for number, share in enumerate(curve):
    height = round(99 * share / max(*curve, 1e-9))
    bars[100 - height :, 40 * number + 5 : 40 * number + 35] = 60
show(Image.fromarray(bars), "listen-loudness")
