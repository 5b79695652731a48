"""Text encoder: CLIP embeddings of class names (Radford et al., arXiv 2103.00020), through transformers.

Each name is put into a few sentences, of what is seen and of what is heard, whose embeddings are averaged.
Verified without the weights: copies of the hub's model list the FILES below. Its tensors are in pytorch_model.bin or in
model.safetensors, by revision; either will do.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.encoders.weights import download_command, model_folder, read_pretrained, require_transformers
from icf_avs.errors import UserError

REPO = "openai/clip-vit-base-patch32"
FILES = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json")
PROMPTS = ("a photo of a {}.", "a photo of a {} making a sound.")
CONTEXT = 77  # tokens a sentence may have


def embed_names(names: tuple[str, ...], weights: str | Path | None = None) -> Tensor:
    """English names, as "dog" or "baby_laughter" -> [len(names), E] unit vectors; E is 512 for ViT-B/32.

    weights: another hub id of the same form, or a local folder. Raises UserError when transformers or the weights are
    missing, or the weights are no CLIP.
    """
    require_transformers("CLIP")
    folder = model_folder(REPO, weights, FILES)
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    again = f"get the right ones with: {download_command(REPO)}"
    encoder, missing = read_pretrained(CLIPTextModelWithProjection, folder, REPO)
    if missing:
        raise UserError(f"{folder}: {len(missing)} tensors of CLIP's text encoder are missing; {again}")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise UserError(f"{folder}: cannot read the vocabulary of CLIP; {again}") from error

    sentences = [prompt.format(name.replace("_", " ")) for name in names for prompt in PROMPTS]
    tokens = tokenizer(sentences, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
    with torch.no_grad():
        vectors = F.normalize(encoder.eval()(**tokens).text_embeds, dim=-1)
    return F.normalize(vectors.unflatten(0, (len(names), len(PROMPTS))).mean(1), dim=-1)
