"""Losses: pure functions that return scalars, and objective.py, the only home of their weights."""
