"""Networks that turn frames and sound into masks. ICF (icf_avs/icf) trains any of them."""
