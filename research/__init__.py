"""Studies for docs/REPRODUCTION.md and docs/NATURAL.md: `python -m research`. Not part of the package."""
