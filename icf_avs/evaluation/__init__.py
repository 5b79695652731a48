"""Scores of segmented videos: metrics, data sets, robustness to altered sound and frames, tables."""
