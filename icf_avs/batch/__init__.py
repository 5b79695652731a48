"""Many videos: `icf segment --manifest`, by processes of this machine or workers of a Ray cluster."""
