"""Losses: pure functions that return scalars, and total_loss.py, the only home of their weights."""
