"""Training runs: from a recipe to a checkpoint."""
