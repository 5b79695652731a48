"""How words bear on the segmenter's things (things.py), by a text encoder.

    near(w, c) = max over the names of c of cos(w, name)
    fit(w, c)  = clamp((near - .6) / .3) exp((near - max_c near) / .15)       1 for a general word of c
    kin(w, c)  = max(fit, (1 - max_c fit) clamp((near - .5) / .15))     near with the general words among the names

A thing that fits a word is what it names; one that is neither fit nor kin is something else. So a cat is not what "dog"
means, and may be what "tiger" does, which none of the things is. voc_objects.csv gives the names, for a text encoder
does not know that an owl is a bird, and words that name several things. Ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icf_avs.encoders.minilm import embed_names
from icf_avs.encoders.voc_segmenter import voc_names

_SAME = 0.97  # cosine from which a word is a general word


def voc_similarity(words: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of words [R,E], by the same text encoder -> fit and kin, both [R,20] in [0, 1]."""
    near, general = [], []
    for names, others in voc_names():
        near.append((words @ embed_names(names).T).amax(1))
        general.append((words @ embed_names(others).T).amax(1) if others else torch.zeros(len(words)))
    nearest, wide = torch.stack(near, 1), torch.stack(general, 1)
    gate = torch.exp((nearest - nearest.amax(1, True)) / 0.15)
    fit = torch.where(wide > _SAME, 1.0, ((nearest - 0.6) / 0.3).clamp(0, 1) * gate)
    kin = ((torch.maximum(nearest, wide) - 0.5) / 0.15).clamp(0, 1)
    return fit, torch.maximum(fit, kin * (1 - fit.amax(1, True)))
