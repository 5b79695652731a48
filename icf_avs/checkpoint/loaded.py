"""What `icf_avs.load` returns: a segmenter that knows its file, so that it can be saved for the Hugging Face hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_avs.checkpoint.serialization import read_recipe
from icf_avs.errors import UserError
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.networks.segmentation_model import SegmentationModel

if TYPE_CHECKING:
    from icf_avs.checkpoint.hub import HubSegmenter


class LoadedSegmenter(Segmenter):
    """path: of the checkpoint. Both methods are those of huggingface_hub's ModelHubMixin, which is imported only when
    one of them is called, because the import takes long. They raise UserError where huggingface_hub is not installed.
    """

    def __init__(self, model: SegmentationModel, name: str, path: Path) -> None:
        super().__init__(Predictor(model), name)
        self.path = path

    @property
    def recipe(self) -> dict[str, Any]:
        """What the checkpoint says of its making."""
        return read_recipe(self.path)

    def save_pretrained(self, folder: str | Path, **options: Any) -> str | None:
        """Write the checkpoint, its description and its card into a folder."""
        return self._on_hub().save_pretrained(folder, **options)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Upload them as user/name."""
        return self._on_hub().push_to_hub(name, **options)

    def _on_hub(self) -> HubSegmenter:
        if importlib.util.find_spec("huggingface_hub") is None:
            raise UserError("this needs huggingface_hub: pip install huggingface_hub")
        from icf_avs.checkpoint.hub import HubSegmenter

        return HubSegmenter(self.model, self.name, self.recipe)
