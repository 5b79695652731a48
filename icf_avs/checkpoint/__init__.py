"""Checkpoints: find, read, verify and write them; model cards."""
