"""The parts of the guided network: one file each."""
