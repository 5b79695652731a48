"""Batch segmentation: `icf segment --manifest`, with local processes or workers of a Ray cluster."""
