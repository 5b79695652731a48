"""Many videos: `icf segment --manifest`, by several processes."""
