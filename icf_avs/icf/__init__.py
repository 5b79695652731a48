"""ICF as published (Zha et al., ICCV 2025): a plug-in that trains any network of icf_avs/networks.

By default it acts in training only and leaves nothing in the network. docs/METHOD.md explains the equations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from icf_avs.settings import CDCL, MIT, SC

if TYPE_CHECKING:
    from icf_avs.icf.icf import ICF, ICFOutput
    from icf_avs.icf.losses import ICFLossWeights, segmentation_losses

__all__ = ["CDCL", "ICF", "MIT", "SC", "ICFLossWeights", "ICFOutput", "segmentation_losses"]
_HOME = {"ICF": "icf", "ICFOutput": "icf", "ICFLossWeights": "losses", "segmentation_losses": "losses"}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first access: the command line only reads the settings."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
