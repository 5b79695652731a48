"""Networks that turn frames and sound into masks. ICF (icf_avs/icf) trains any of them."""

from icf_avs.networks.avsegformer import AVSegFormer
from icf_avs.networks.base import Network
from icf_avs.networks.pixel_decoder import DeformablePixelDecoder, LightPixelDecoder
from icf_avs.networks.query_network import QueryNetwork
from icf_avs.networks.tpavi import TPAVI
from icf_avs.types import FeatureSpec, NetworkFeatures, NetworkOutput

__all__ = [
    "TPAVI",
    "AVSegFormer",
    "DeformablePixelDecoder",
    "FeatureSpec",
    "LightPixelDecoder",
    "Network",
    "NetworkFeatures",
    "NetworkOutput",
    "QueryNetwork",
]
