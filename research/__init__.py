"""The ablation studies behind docs/ABLATION.md and docs/NATURAL.md: `python -m research`. Not part of the package."""
