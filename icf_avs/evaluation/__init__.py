"""Evaluation: metrics, test sets, robustness to altered audio and frames, score tables."""
