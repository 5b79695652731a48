# %% [markdown]
# # MIT, SC and CDCL of the guided network on one clip
#
# Each part gives something that can be displayed: words (MIT), a match of audio and positions (CDCL), and masks under
# counterfactual sounds (SC). docs/GUIDED.md has the equations, docs/GUIDED_PYTHON.md more code.
#
# Open this file as a notebook (VS Code, or Jupyter with jupytext), or run `python notebooks/guided_network.py`. Images
# are saved in `notebook_out/`.

# %%
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from icf_avs import load
from icf_avs.datasets.layouts import read_set
from icf_avs.extensions.counterfactual_sounds import orthogonalize
from icf_avs.media.audio_windows import cut_windows
from icf_avs.media.images import resize_frames
from icf_avs.networks.guided import SoundTokens
from icf_avs.synthetic.benchmark import write_stamps

OUT = Path("notebook_out")
OUT.mkdir(exist_ok=True)
torch.set_grad_enabled(False)


def show(image: Image.Image, name: str) -> Image.Image:
    """Save an image, and let a notebook display it."""
    image.save(OUT / f"{name}.png")
    return image


# %% [markdown]
# Two composed scenes of classes that the checkpoint knows, with one sound each.

# %%
write_stamps(Path("notebook_data"), seed=0, test=2, video=False)
record, other = read_set(Path("notebook_data/Single-source"), "test")
model = load("stamps").model.cpu().eval()
network = model.network
valid = torch.ones(1, 5, dtype=torch.bool)


def clip(of) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames uint8 [1,5,S,S,3] and windows of audio [1,5,N]."""
    loaded = of.load()
    frames = resize_frames(torch.from_numpy(loaded.frames), model.spec.image_size)
    return frames[None], torch.from_numpy(cut_windows(loaded.waveform, model.spec, 5))[None]


frames, waves = clip(record)
visual = network.encode_frames(frames)
pixels = network.pixel_decoder([level.flatten(0, 1) for level in visual.pyramid])
output = model(visual, waves, valid)
print("in the frame:", sorted(record.onscreen), "| sounds:", sorted(record.sounding))


# %%
def heat(maps: torch.Tensor) -> np.ndarray:
    """maps [5,h,w] over the frames, bright where high: uint8 [240, 5 * 240, 3]."""
    low, high = maps.min(), maps.max()
    large = F.interpolate(((maps - low) / (high - low).clamp(min=1e-6))[:, None], (240, 240), mode="bilinear")[:, 0]
    shown = F.interpolate(frames[0].permute(0, 3, 1, 2).float(), (240, 240), mode="bilinear").permute(0, 2, 3, 1)
    mixed = shown * (0.25 + 0.75 * large[..., None])
    return np.concatenate(list(mixed.byte().numpy()), 1)


# %% [markdown]
# ## MIT: words of the audio and of every position
#
# A position and the audio agree if they have the same words. Above: agreement; below: the prior.

# %%
vocabulary = network.implicit_text.vocabulary
word_probs = output.reading.softmax(-1)[0]
for second in range(5):
    best = word_probs[second, : len(model.classes)].topk(3)
    print(
        f"second {second}:",
        [(model.classes[i], round(p, 2)) for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)],
    )
position_words = vocabulary.similarity(network.prior.key(pixels.tokens).permute(0, 2, 3, 1))
agreement = vocabulary.agreement(vocabulary.similarity(output.semantic[0])[None], position_words)[0]
show(Image.fromarray(np.concatenate([heat(agreement), heat(output.prior[0])])), "guided_network-mit")

# %% [markdown]
# The nearest words of the implicit text, at three granularities:

# %%
for level, tokens in output.text.items():
    best = vocabulary.similarity(tokens)[..., : len(model.classes)].softmax(-1).flatten(0, -2).mean(0).topk(3)
    print(f"{level:8}", [model.classes[i] for i in best.indices.tolist()])

# %% [markdown]
# ## CDCL: audio and positions as distributions in one space
#
# The match is high where a position is close to the Gaussian of the audio, in the 2-Wasserstein distance.

# %%
match = network.joint_embedding.match(output.parts.flatten(0, 1)[None], pixels.tokens)[0]
show(Image.fromarray(heat(match)), "guided_network-cdcl")

# %% [markdown]
# ## SC: masks under counterfactual sounds
#
# do(audio := z): the frames stay, and the semantic of the audio is replaced. A counterfactual is a plausible sound,
# orthogonal to the factual one around the mean of all sounds.


# %%
def do(sound: torch.Tensor) -> torch.Tensor:
    """Mask logits [5,h,w] if the semantic of the audio is [1,5,D]."""
    parts = sound.new_zeros(1, *sound.shape[:2], 1, sound.shape[-1])
    sounds = SoundTokens(sound[None], parts, [None])
    return network.decode_sounds(pixels, sounds, valid, visual).logits[0] + model.offset


centre = network.counterfactual.mean
factual = output.semantic
other_sound = network.semantic_of(network.encode_audio(clip(other)[1]).token)
counterfactual = orthogonalize(factual, other_sound[None], centre, (factual - centre).norm(dim=-1)[None])[0]
logits_of = {
    "its own": do(factual),
    "another clip": do(other_sound),
    "counterfactual": do(counterfactual),
    "silence": do(network.semantic_of(network.encode_audio(torch.zeros_like(waves)).token)),
}
shares = {name: float((logits > 0).float().mean()) for name, logits in logits_of.items()}
for name, share in shares.items():
    print(f"do(audio := {name:16}) {share:6.1%} segmented")
show(
    Image.fromarray(np.concatenate([heat(logits.sigmoid().clamp(1e-3)) for logits in logits_of.values()])),
    "guided_network-sc",
)
