"""The method: one file per idea of the paper, and icf.py which puts them together."""
