"""Parts that the open-vocabulary network adds to the guided network: one file each."""
