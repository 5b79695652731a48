"""Settings of the extensions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InterventionSettings:
    """Weight of each kind of intervention in the loss, 0: it is not computed; count: counterfactual sounds of a clip.

    other_sound: another clip's sound as it is; orthogonal_sound: made orthogonal to the clip's own; other_frames: the
    clip's sound over another clip's frames; removed_source: the clip's sound without one of its sources.
    """

    other_sound: float = 0.0
    orthogonal_sound: float = 0.3
    other_frames: float = 0.3
    removed_source: float = 0.3
    count: int = 2

    def __post_init__(self) -> None:
        weights = (self.other_sound, self.orthogonal_sound, self.other_frames, self.removed_source)
        if min(weights) < 0 or not any(weights):
            raise ValueError(
                f"a weight is negative, or none is above 0: {self}; for no interventions, set them to None"
            )
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1")
