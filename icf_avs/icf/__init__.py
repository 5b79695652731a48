"""ICF as published (Zha et al., ICCV 2025): a plug-in that trains any network of icf_avs/networks.

Nothing of it is left at test. docs/METHOD.md goes through the equations.
"""

from icf_avs.icf.icf import ICF, ICFOutput
from icf_avs.icf.losses import Weights, segmentation_losses
from icf_avs.icf.settings import CDCL, MIT, SC

__all__ = ["CDCL", "ICF", "MIT", "SC", "ICFOutput", "Weights", "segmentation_losses"]
