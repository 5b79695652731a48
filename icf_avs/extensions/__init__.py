"""Losses that are not from the paper and train any network of icf_avs/networks, in addition to those of ICF."""
