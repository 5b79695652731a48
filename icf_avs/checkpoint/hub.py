"""Models on the Hugging Face hub and in folders: `save_pretrained`, `push_to_hub`, and how one is fetched.

A folder or repository holds model.safetensors, the checkpoint with all that it needs inside; config.json, its
configuration, clip specification and recipe for readers; README.md, its card. Nothing is ever unpickled. Needs
huggingface_hub (`pip install 'icf-avs[hub]'`).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin

from icf_avs.atomic_io import write_text
from icf_avs.checkpoint.model_card import model_card
from icf_avs.checkpoint.serialization import FORMAT, load_checkpoint, read_recipe, save_checkpoint
from icf_avs.checkpoint.source import FILE, download, find_checkpoint
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.provenance import short_digest


class HubSegmenter(Segmenter, ModelHubMixin, library_name="icf-avs"):
    """A Segmenter with `save_pretrained`, `push_to_hub` and `from_pretrained` of huggingface_hub."""

    def __init__(self, model: SegmentationModel, name: str, recipe: dict[str, Any]) -> None:
        super().__init__(Predictor(model), name)
        self.recipe = recipe

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(self.model, save_directory / FILE, self.recipe)
        described = {
            "library_name": "icf-avs", "format": FORMAT, "model": asdict(self.model.config),
            "spec": vars(self.model.spec), "recipe": self.recipe,
        }  # fmt: skip
        write_text(save_directory / "config.json", json.dumps(described, indent=1) + "\n")

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that the mixin saves as README.md, with the scores in results/*.csv of the current folder."""
        use = f'```python\nimport icf_avs\n\nicf_avs.load("user/{self.name}").segment("street.mp4", out="masks")\n```'
        return ModelCard(
            model_card(self.name, self.recipe, use, Path("results"), short_digest(self.model.digest or ""))
        )

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, **_: Any,
    ) -> HubSegmenter:  # fmt: skip
        if Path(model_id).is_dir():
            path, name = find_checkpoint(model_id)
        else:
            name = model_id.rpartition("/")[2]
            path = download(
                model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token,
            )  # fmt: skip
        return cls(load_checkpoint(path), name, read_recipe(path))
