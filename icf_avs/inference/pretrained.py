"""The segmenter that `icf_avs.load` returns, with export to the Hugging Face hub.

A folder or repository holds model.safetensors, the self-contained checkpoint; config.json, a readable copy of its
configuration, clip specification and recipe; README.md, the model card. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from icf_avs.atomic_io import write_text
from icf_avs.checkpoint.model_card import model_card
from icf_avs.checkpoint.serialization import FORMAT, load_checkpoint, read_recipe, save_checkpoint
from icf_avs.checkpoint.source import FILE, find_checkpoint
from icf_avs.console import VERBOSE, note
from icf_avs.device import find_device
from icf_avs.errors import UserError
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.provenance import short_digest


class LoadedSegmenter(Segmenter):
    """Segmenter loaded from a checkpoint. path: the checkpoint file; recipe: the training recipe it records."""

    def __init__(self, model: SegmentationModel, name: str, path: Path) -> None:
        super().__init__(Predictor(model), name)
        self.path, self.recipe = path, read_recipe(path)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write checkpoint, config.json and card; the card has the scores in results/*.csv of the current folder."""
        folder, model = Path(folder), self.model
        save_checkpoint(model, folder / FILE, self.recipe)
        config = {
            "library_name": "icf-avs", "format": FORMAT, "model": asdict(model.config), "spec": vars(model.spec),
            "recipe": self.recipe,
        }  # fmt: skip
        write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")
        usage = f'```python\nimport icf_avs\n\nicf_avs.load("user/{self.name}").segment("street.mp4", out="masks")\n```'
        card = model_card(self.name, self.recipe, usage, Path("results"), short_digest(model.digest or ""))
        write_text(folder / "README.md", card)

    def push_to_hub(self, name: str, token: str | None = None, private: bool | None = None) -> str:
        """Upload these files as user/name; return the URL. Raises UserError if huggingface_hub is not installed."""
        try:
            from huggingface_hub import HfApi
        except ModuleNotFoundError as error:
            raise UserError("this needs huggingface_hub: pip install 'icf-avs[hub]'") from error
        api = HfApi(token=token)
        address = api.create_repo(name, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.upload_folder(repo_id=name, folder_path=folder)
        return str(address)


def load(checkpoint: str | None = None, device: str | torch.device = "auto", tagger: str | None = None) -> Segmenter:
    """Implement `icf_avs.load`."""
    target_device = find_device(device)
    path, name = find_checkpoint(checkpoint)
    model = load_checkpoint(path, tagger=tagger).to(target_device)
    note(f"checkpoint {name}: {path}, SHA-256 {model.digest}, on {target_device}", VERBOSE)
    note(f"encoders: visual {model.config.visual}, audio {model.config.audio}", VERBOSE)
    return LoadedSegmenter(model, name, path)
