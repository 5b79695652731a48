# %% [markdown]
# # What MIT, SC and CDCL do to one clip
#
# Each part of the method leaves a trace that can be looked at: a reading in words (MIT), a match of sound and place
# (CDCL), and sounds that were not heard (SC). The equations stand in docs/GUIDED.md, more code in docs/TAKE_APART.md.
#
# Run it as a notebook (VS Code, or Jupyter with jupytext) or `python notebooks/take_apart.py`; pictures are kept in
# `notebook_out/`.

# %%
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from icf_avs import load
from icf_avs.avsbench.layouts import read_set
from icf_avs.data.resize import resized
from icf_avs.data.windows import windows
from icf_avs.extensions.counterfactual_sounds import orthogonal
from icf_avs.networks.guided import Sounds
from icf_avs.stamps.benchmark import write_stamps

OUT = Path("notebook_out")
OUT.mkdir(exist_ok=True)
torch.set_grad_enabled(False)


def show(picture: Image.Image, name: str) -> Image.Image:
    """Keep a picture, and let a notebook show it."""
    picture.save(OUT / f"{name}.png")
    return picture


# %% [markdown]
# Two composed scenes that the shipped model can know; one sound in each.

# %%
write_stamps(Path("notebook_data"), seed=0, test=2, video=False)
record, other = read_set(Path("notebook_data/Single-source"), "test")
model = load("stamps").model.cpu().eval()
network = model.network
valid = torch.ones(1, 5, dtype=torch.bool)


def clip(of) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures uint8 [1,5,S,S,3] and windows of sound [1,5,N]."""
    loaded = of.load()
    frames = resized(torch.from_numpy(loaded.frames), model.spec.image_size)
    return frames[None], torch.from_numpy(windows(loaded.wave, model.spec, 5))[None]


frames, waves = clip(record)
visual = network.encode_frames(frames)
pixels = network.pixel_decoder([level.flatten(0, 1) for level in visual.pyramid])
output = model(visual, waves, valid)
print("in the picture:", sorted(record.onscreen), "| sounds:", sorted(record.sounding))


# %%
def heat(maps: torch.Tensor) -> np.ndarray:
    """maps [5,h,w], bright where high, beside the pictures: uint8 [240, 5 * 240, 3]."""
    low, high = maps.min(), maps.max()
    large = F.interpolate(((maps - low) / (high - low).clamp(min=1e-6))[:, None], (240, 240), mode="bilinear")[:, 0]
    shown = F.interpolate(frames[0].permute(0, 3, 1, 2).float(), (240, 240), mode="bilinear").permute(0, 2, 3, 1)
    mixed = shown * (0.25 + 0.75 * large[..., None])
    return np.concatenate(list(mixed.byte().numpy()), 1)


# %% [markdown]
# ## MIT: the sound is read, and so is every place of the picture
#
# Where a place is read as the same word as the sound, they agree. Above: agreement; below: the prior that comes of it.

# %%
vocabulary = network.implicit_text.vocabulary
reading = output.reading.softmax(-1)[0]
for second in range(5):
    best = reading[second, : len(model.classes)].topk(3)
    print(
        f"second {second}:",
        [(model.classes[i], round(p, 2)) for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)],
    )
seen = vocabulary.similarity(network.prior.key(pixels.tokens).permute(0, 2, 3, 1))
agreement = vocabulary.agreement(vocabulary.similarity(output.semantic[0])[None], seen)[0]
show(Image.fromarray(np.concatenate([heat(agreement), heat(output.prior[0])])), "take_apart-mit")

# %% [markdown]
# The implicit text itself, at three granularities, in the nearest words:

# %%
for level, tokens in output.text.items():
    best = vocabulary.similarity(tokens)[..., : len(model.classes)].softmax(-1).flatten(0, -2).mean(0).topk(3)
    print(f"{level:8}", [model.classes[i] for i in best.indices.tolist()])

# %% [markdown]
# ## CDCL: sound and places as distributions in one space
#
# The match is high where a place is near the sound's Gaussian, in the 2-Wasserstein distance.

# %%
match = network.joint_embedding.match(output.parts.flatten(0, 1)[None], pixels.tokens)[0]
show(Image.fromarray(heat(match)), "take_apart-cdcl")

# %% [markdown]
# ## SC: what would be marked, had it sounded otherwise
#
# do(audio := z): the picture stays, the semantic of the sound is set. A rival is a plausible sound made orthogonal to
# the heard one around the mean of all sounds.


# %%
def do(sound: torch.Tensor) -> torch.Tensor:
    """Mask logits [5,h,w] where the sound's semantic is [1,5,D]."""
    parts = sound.new_zeros(1, *sound.shape[:2], 1, sound.shape[-1])
    sounds = Sounds(sound[None], parts, [None])
    return network.decode_sounds(pixels, sounds, valid, visual).logits[0] + model.offset


centre = network.counterfactual.mean
heard = output.semantic
foreign = network.semantic_of(network.encode_audio(clip(other)[1]).token)
rival = orthogonal(heard, foreign[None], centre, (heard - centre).norm(dim=-1)[None])[0]
answers = {
    "its own": do(heard),
    "another clip": do(foreign),
    "orthogonal rival": do(rival),
    "silence": do(network.semantic_of(network.encode_audio(torch.zeros_like(waves)).token)),
}
marked = {name: float((logits > 0).float().mean()) for name, logits in answers.items()}
for name, share in marked.items():
    print(f"do(audio := {name:16}) {share:6.1%} marked")
show(
    Image.fromarray(np.concatenate([heat(logits.sigmoid().clamp(1e-3)) for logits in answers.values()])),
    "take_apart-sc",
)
